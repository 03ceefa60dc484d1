"""`validate`: scores of a model on another cohort as it stands, and after refits of its calibration there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.domain.columns import IN_DOMAIN, in_domain
from mil_toolkit.bundle.records import STEPS, Step
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.comparisons import differences
from mil_toolkit.evaluation.independent import independent_difference
from mil_toolkit.evaluation.intervals import scores_with_intervals
from mil_toolkit.evaluation.recalibration import Calibration, calibration
from mil_toolkit.evaluation.records import Estimate, Scores
from mil_toolkit.evaluation.table import Table
from mil_toolkit.study.subgroups import Subgroup, subgroups
from mil_toolkit.training.patients import Features
from mil_toolkit.validation.crossfit import CrossFit, folds_of
from mil_toolkit.validation.records import Refitted, SubgroupScores, Validation
from mil_toolkit.validation.refits import REFITS, Labelled, Setting
from mil_toolkit.validation.sample import Sample, read_sample, table_of

FEWEST_OF_SUBGROUP = 5  # patients of a subgroup that is scored
RANKINGS = (
    *("auc", "auc_pooled", "macro_auc", "spearman"),
    *("concordance", "concordance_harrell", "concordance_uno"),
)
FEW = 20  # of the smallest class (patients of a number, events): fewer make intervals approximate


@dataclass(frozen=True)
class Validated:
    """A validation, its patients, and the predictions of each refit by cross-fitting, by its name."""

    record: Validation
    bundle: ModelBundle
    sample: Sample
    tables: dict[str, Table]


def validate(
    bundle: ModelBundle,
    cohort: Cohort,
    features: Features,
    steps: Sequence[Step] = ("slope",),
    prevalence: float | None = None,
    any_scale: bool = False,
) -> Validated:
    """Validate a model on the patients of a cohort whom it was not fitted on.

    features, any_scale: see `read_sample`, as for the errors that are raised
    steps: further steps to refit together, beside each one that applies to the outcome
    prevalence: stated for a prior shift

    Raises UsageError for steps that exclude each other and for a prevalence outside 0 to 1.
    """
    together = checked_steps(steps, prevalence)
    sample = read_sample(bundle, cohort, features, any_scale)
    fit = cross_fit(bundle, sample, prevalence)
    refits: dict[str, Refitted] = {}
    tables: dict[str, Table] = {}
    missing: dict[str, str] = {}
    known = REFITS[bundle.about.predicted.kind].steps
    for parts in dict.fromkeys([*((step,) for step in STEPS if step in known), together]):
        name = "+".join(parts)
        if obstacle := fit.obstacle(parts):
            missing[name] = obstacle
            continue
        tables[name] = table_of(bundle, sample.patients, fit.predictions(parts))
        refits[name] = _refitted(fit, parts, tables[name], sample.table)
    record = _record(bundle, cohort, sample, prevalence, refits, missing)
    return Validated(record, bundle, sample, tables)


def checked_steps(steps: Sequence[Step], prevalence: float | None) -> tuple[Step, ...]:
    """Return steps in their order; raises UsageError for those that exclude each other, or lack a number."""
    ordered = tuple(step for step in STEPS if step in steps)
    moving = [step for step in ordered if step != "threshold"]
    if len(moving) > 1:
        raise UsageError(
            f"--recalibration takes one of intercept, slope and prevalence (and threshold), not"
            f" {' and '.join(moving)}: slope refits the intercept, too, and each of them sets the prevalence."
        )
    if "prevalence" in ordered and prevalence is None:
        raise UsageError("--recalibration prevalence needs --prevalence, the share of positives there.")
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(f"--prevalence takes a share between 0 and 1, not {prevalence:.12g}.")
    return ordered


def cross_fit(bundle: ModelBundle, sample: Sample, prevalence: float | None) -> CrossFit:
    """Return the refits of a model on these patients; groups are the units where there are any."""
    about, patients = bundle.about, sample.patients
    two = len(about.class_counts) == 2 and not moved(bundle)
    trained = about.class_counts[1] / sum(about.class_counts) if two else None
    data = Labelled(sample.outputs, patients.labels, patients.groups)
    setting = Setting(prevalence, trained, about.procedure.threshold_rule)
    return CrossFit(about.predicted.kind, bundle.decision, data, setting, folds_of(names_of_units(sample)))


def names_of_units(sample: Sample) -> Sequence[str]:
    """Return the names of the patients' groups, or the ids of the patients where there are no groups."""
    groups = sample.patients.groups
    return sample.patients.ids if groups is None else [*map(str, groups)]


def moved(bundle: ModelBundle) -> bool:
    """Return whether a recalibration changed the predictions since the study scored the model."""
    return any(step.moved for step in bundle.about.recalibrations or ())


def calibration_of(table: Table) -> Calibration | None:
    """Return intercept and slope of the probabilities of two classes; None for other outcomes."""
    return calibration(table) if table.scoring.reliability else None


def _refitted(fit: CrossFit, steps: Sequence[Step], table: Table, standing: Table) -> Refitted:
    moved, before = _without_rankings(table), _without_rankings(standing)
    scores, change = scores_with_intervals(moved), differences(moved, before)
    return Refitted([*steps], scores, change, calibration_of(table), fit.refitted(steps))


def _without_rankings(table: Table) -> Table:
    """Return a table without metrics that rank patients, since those of two folds have different refits."""
    metrics = {name: metric for name, metric in table.scoring.metrics.items() if name not in RANKINGS}
    return replace(table, scoring=replace(table.scoring, metrics=metrics))


def _record(
    bundle: ModelBundle,
    cohort: Cohort,
    sample: Sample,
    prevalence: float | None,
    refits: dict[str, Refitted],
    missing: dict[str, str],
) -> Validation:
    scores, outer = scores_with_intervals(sample.table), bundle.scores.outer
    inside = in_domain(sample.domain)
    return Validation(
        study=bundle.about.study,
        trained_on=bundle.about.cohort,
        cohort=cohort.name,
        outcome=bundle.about.predicted.kind,
        flow=sample.flow,
        checked=sample.checked,
        in_training=[*sample.in_training],
        without_images=[*sample.without_images],
        prevalence=bundle.about.procedure.prevalence,
        stated=prevalence,
        scores=scores,
        calibration=calibration_of(sample.table),
        outer=outer,
        differences={} if moved(bundle) else _beside(scores, outer),
        refits=refits,
        not_refitted=missing,
        subgroups=[_subgroup_scores(sample.table, group) for group in subgroups_of(sample)],
        in_domain=None if inside is None else int(inside.sum()),
        notes=[*_notes(bundle, sample)],
    )


def _beside(scores: Scores, outer: Scores | None) -> dict[str, Estimate]:
    """Return the scores here minus those of the study, whose patients are others."""
    return {
        name: independent_difference(score, outer[name])
        for name, score in scores.items()
        if outer is not None and name in outer
    }


def subgroups_of(sample: Sample) -> list[Subgroup]:
    """Return the subgroups of the patients, among them those inside and outside the domain."""
    inside, ids = in_domain(sample.domain), sample.domain["patient_id"]
    groups = subgroups(sample.record)
    if inside is not None and 0 < inside.sum() < len(inside):
        groups.append(Subgroup("domain", "inside", tuple(ids[inside])))
        groups.append(Subgroup("domain", "outside", tuple(ids[~inside])))
    return groups


def _subgroup_scores(table: Table, group: Subgroup) -> SubgroupScores:
    part = table.select(group.patient_ids)
    enough = len(part.labels) >= FEWEST_OF_SUBGROUP and part.scoring.scorable(part.labels)
    scores = scores_with_intervals(part) if enough else None
    return SubgroupScores(group.variable, group.level, len(part.labels), scores)


def _notes(bundle: ModelBundle, sample: Sample) -> Iterator[str]:
    """Yield what a reader has to know before the scores."""
    refits = REFITS[bundle.about.predicted.kind]
    smallest = refits.smallest(sample.patients.labels, bundle.decision)
    if not sample.checked:
        yield (
            "The bundle does not say whom the model was fitted on (it is anonymous, or an older version wrote"
            " it). Training patients may be among those who are scored; only you can rule that out."
        )
    elif not bundle.about.views:
        yield "The model does not look at images, so that it recognises training patients by their ids only."
    if smallest < FEW:
        yield (
            f"There are only {smallest} {refits.what}: all intervals are wide, and their coverage is"
            " approximate."
        )
    if sample.patients.groups is not None:
        count = len(np.unique(sample.patients.groups))
        yield (
            "All patients belong to one group. How much groups differ is not known, so that there are no"
            " intervals."
            if sample.table.one_unit
            else f"The patients belong to {count_of(count, 'group')}, which are the units of all intervals."
        )
    if sample.domain[IN_DOMAIN].isna().all():
        yield "The bundle does not know which patients are like those of training; mil-fit fits it again."
    yield from _recalibrations(bundle)
    if bundle.scores.outer is None:
        yield "The study has no scores on held-out patients (outer folds) to compare with."


def _recalibrations(bundle: ModelBundle) -> Iterator[str]:
    """Say that the model was recalibrated, and that the scores of its study were measured before that."""
    steps = bundle.about.recalibrations or ()
    for step in steps:
        yield f"The model was recalibrated on {step.where}: {step.words}."
    if steps and bundle.scores.outer is not None:
        compared = " and are not compared with those here" if moved(bundle) else ""
        yield f"The scores of the study were measured before the model was recalibrated{compared}."
