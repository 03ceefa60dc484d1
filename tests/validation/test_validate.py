"""`validate`: who is scored, the scores as the model stands, refits, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.other_cohorts import KNOWN, Other
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.membership import ANONYMOUS
from mil_toolkit.bundle.predict import predict
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.records import to_json
from mil_toolkit.evaluation.independent import independent_difference
from mil_toolkit.evaluation.words import LOWER_IS_BETTER
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.outcomes.kinds import KINDS
from mil_toolkit.validation.by_outcome import SHOWN
from mil_toolkit.validation.layout import lay_out
from mil_toolkit.validation.page import write_page
from mil_toolkit.validation.recalibrated import save_recalibrated
from mil_toolkit.validation.records import Flow
from mil_toolkit.validation.refits import REFITS
from mil_toolkit.validation.sample import read_sample
from mil_toolkit.validation.validate import RANKINGS, Validated, checked_steps, validate

CaseOf = Callable[[str], tuple[ModelBundle, Cohort]]


def test_every_patient_of_the_table_is_counted_once(validated: Validated) -> None:
    record = validated.record
    assert record.flow == Flow(
        table=30, excluded=1, without_outcome=3, without_images=2, in_training=KNOWN, scored=20
    )
    assert record.without_images == ["N1", "N2"] and all(name.startswith("P") for name in record.in_training)
    assert all(name.startswith("Q") for name in validated.sample.patients.ids)
    parts = (record.flow.excluded, record.flow.without_outcome, record.flow.without_images)
    assert record.flow.table == sum(parts) + record.flow.in_training + record.flow.scored


def test_the_scores_are_those_of_mil_predict(validated: Validated, other: Other) -> None:
    cohort = read_cohort(other.cohort_toml, images=False)
    stored = FeatureCache.open(other.features)
    present = cohort.select([name for name in cohort.patient_ids if name in stored.patient_ids])
    assert predict(validated.bundle, present, stored).validation == validated.record.scores


def test_the_scores_of_the_study_are_beside_them(validated: Validated) -> None:
    record = validated.record
    assert record.outer is not None and record.outer == validated.bundle.scores.outer
    for name, difference in record.differences.items():
        assert difference == independent_difference(record.scores[name], record.outer[name])
    assert record.differences.keys() == record.scores.keys()


def test_each_step_is_refitted_alone_and_those_asked_for_together(validated: Validated) -> None:
    record = validated.record
    assert [*record.refits] == ["intercept", "prevalence", "threshold", "intercept+threshold"]
    assert [*record.not_refitted] == ["slope"] and "20 are needed" in record.not_refitted["slope"]
    for name, refitted in record.refits.items():
        table = validated.tables[name]
        assert table.patient_ids == validated.sample.table.patient_ids
        brier, standing = refitted.scores["brier"].value, record.scores["brier"].value
        assert brier is not None and standing is not None
        assert brier == pytest.approx(((table.probabilities[0] - table.labels) ** 2).mean())
        assert refitted.differences["brier"].value == pytest.approx(brier - standing)
        assert refitted.scores.keys() == refitted.differences.keys() == record.scores.keys() - {*RANKINGS}
    assert np.array_equal(validated.tables["threshold"].probabilities, validated.sample.table.probabilities)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_outcome_is_validated_and_its_calibration_refitted(
    kind: str, case_of: CaseOf, other: Other, tmp_path: Path
) -> None:
    bundle, cohort = case_of(kind)
    validated = validate(bundle, cohort, FeatureCache.open(other.features), ("intercept",))
    record = validated.record
    assert record.scores.keys() == bundle.scoring.metrics.keys() == record.differences.keys()
    assert record.flow.scored == 20 and record.flow.in_training == KNOWN
    assert "are needed" in record.not_refitted["slope"] or kind == "number"
    save_recalibrated(validated, "intercept", tmp_path / "model")
    loaded = ModelBundle.load(tmp_path / "model")
    assert loaded.decision == record.refits["intercept"].rule != bundle.decision
    assert loaded.about.recalibrations and loaded.about.recalibrations[0].before == bundle.decision
    others = {"prevalence", "threshold"} - REFITS[kind].steps.keys()
    assert others.isdisjoint(record.not_refitted)
    assert (record.calibration is None) == (kind != "binary")
    shown = SHOWN[kind]
    assert {*shown.metrics, *shown.subgroup_metrics} <= record.scores.keys()
    assert shown.metrics[0] in LOWER_IS_BETTER and not shown.metrics[0].startswith("balanced")
    assert isinstance(to_json(record), dict)


def test_a_step_that_does_not_apply_is_reported_where_it_was_asked_for(case_of: CaseOf, other: Other) -> None:
    bundle, cohort = case_of("number")
    record = validate(bundle, cohort, FeatureCache.open(other.features), ("threshold",)).record
    assert "does not apply to the outcome number" in record.not_refitted["threshold"]
    assert "prevalence" not in record.not_refitted


def test_groups_are_the_units_of_folds_and_intervals(tiny: Tiny, other: Other) -> None:
    cohort, cache = read_cohort(other.cohort_toml, images=False), FeatureCache.open(other.features)
    groups = np.array([f"G{place // 3}" for place in range(len(cohort))])
    bundle = ModelBundle.load(tiny.bundle)
    grouped = validate(bundle, replace(cohort, groups=groups), cache, ("intercept",))
    plain = validate(bundle, cohort, cache, ("intercept",))
    assert grouped.record.scores["auc"].value == plain.record.scores["auc"].value
    assert grouped.record.scores["auc"] != plain.record.scores["auc"]
    assert any("which are the units of all intervals" in note for note in grouped.record.notes)
    count = len({*grouped.sample.patients.groups.tolist()})  # type: ignore[union-attr]
    assert (
        f"of {min(10, count)} folds that keep groups together"
        in lay_out(grouped, "intercept").refits[0].caption
    )
    patients = grouped.sample.patients
    names = patients.groups.tolist() if patients.groups is not None else []
    rows = dict(zip(patients.ids, names, strict=True))
    shifts: dict[str, set[float]] = {}
    for table, start in [(grouped.tables["intercept"], grouped.sample.table)]:
        moved = np.log(table.probabilities / (1 - table.probabilities))
        moved = moved - np.log(start.probabilities / (1 - start.probabilities))
        for patient, shift in zip(table.patient_ids, moved[0], strict=True):
            shifts.setdefault(rows[patient], set()).add(round(float(shift), 9))
    assert all(len(of_group) == 1 for of_group in shifts.values())


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_one_group_has_no_intervals_and_the_page_says_so(
    kind: str, case_of: CaseOf, other: Other, tmp_path: Path
) -> None:
    bundle, cohort = case_of(kind)
    one = replace(cohort, groups=np.array(["ward"] * len(cohort)))
    validated = validate(bundle, one, FeatureCache.open(other.features), prevalence=0.3)
    record = validated.record
    calibrations = [] if record.calibration is None else [record.calibration.intercept]
    refits = [score for refitted in record.refits.values() for score in refitted.differences.values()]
    for estimate in (*record.scores.values(), *record.differences.values(), *calibrations, *refits):
        assert (estimate.low, estimate.high) == (None, None)
    assert all(score.value is not None for score in record.scores.values())
    assert any("All patients belong to one group" in note for note in record.notes)
    write_page(tmp_path / "validation.html", validated, "intercept")
    assert "there are no intervals" in (tmp_path / "validation.html").read_text()


def test_subgroups_of_one_group_have_no_intervals_but_those_of_several_have(
    tiny: Tiny, other: Other, tmp_path: Path
) -> None:
    cohort, cache = read_cohort(other.cohort_toml, images=False), FeatureCache.open(other.features)
    grouped = replace(cohort, groups=np.array([f"G{place % 2}" for place in range(len(cohort))]))
    validated = validate(ModelBundle.load(tiny.bundle), grouped, cache, ("intercept",))
    parts = [part for part in validated.record.subgroups if part.variable == "group" and part.scores]
    assert parts
    for part in parts:
        assert part.scores is not None
        assert {(score.low, score.high) for score in part.scores.values()} == {(None, None)}
    for score in validated.record.scores.values():
        assert score.low is None or (score.high is not None and score.low < score.high)
    write_page(tmp_path / "validation.html", validated, "intercept")
    assert "one group, no intervals" in (tmp_path / "validation.html").read_text()
    named, anonymous = (
        lay_out(validated, "intercept", anonymise=hidden).subgroups for hidden in (False, True)
    )
    assert named is not None and anonymous is not None
    assert [row.name for row in named.rows if "group" in row.name] == ["group: G0", "group: G1"]
    assert [row.name for row in anonymous.rows if "group" in row.name] == ["group 1", "group 2"]


@pytest.mark.parametrize("emptied", [True, False])
def test_patients_whose_images_are_gone_are_not_scored_by_former_embeddings(
    emptied: bool, validated: Validated, other: Other
) -> None:
    cohort, cache = read_cohort(other.cohort_toml, complete=False), FeatureCache.open(other.features)
    gone = validated.sample.patients.ids[0]
    others = {patient: paths for patient, paths in cohort.images.items() if patient != gone}
    left = replace(cohort, images=others | ({gone: ()} if emptied else {}))
    sample = read_sample(validated.bundle, left, cache)
    assert gone in sample.without_images and gone not in sample.patients.ids
    assert (sample.flow.without_images, sample.flow.scored) == (3, 19)
    assert read_sample(validated.bundle, cohort, cache).flow == validated.record.flow


def test_a_bundle_that_does_not_know_its_patients_is_validated_with_a_warning(
    tiny: Tiny, other: Other
) -> None:
    bundle = ModelBundle.load(tiny.bundle)
    anonymous = replace(bundle, about=replace(bundle.about, fitted_on=ANONYMOUS))
    cohort, cache = read_cohort(other.cohort_toml, images=False), FeatureCache.open(other.features)
    record = validate(anonymous, cohort, cache).record
    assert not record.checked and record.flow.in_training == 0 and record.flow.scored == 20 + KNOWN
    assert "does not say whom the model was fitted on" in record.notes[0]


# What is refused.


def refused(bundle: ModelBundle, cohort: Cohort, other: Other) -> str:
    with pytest.raises(DataError) as caught:
        validate(bundle, cohort, FeatureCache.open(other.features))
    return str(caught.value)


def test_training_patients_alone_are_refused(tiny: Tiny, validated: Validated) -> None:
    with pytest.raises(DataError, match="needs other patients"):
        validate(validated.bundle, tiny.cohort, tiny.cache)


def test_cohorts_that_cannot_be_scored_are_refused(tiny: Tiny, other: Other) -> None:
    bundle, cohort = ModelBundle.load(tiny.bundle), read_cohort(other.cohort_toml, images=False)
    none = replace(cohort, outcome=replace(cohort.outcome, label=None))  # type: ignore[type-var]
    assert "declares no outcome" in refused(bundle, none, other)
    unknown = replace(cohort, labels=np.full(len(cohort), -1))
    assert "the outcome of none of its 29 patients is known" in refused(bundle, unknown, other)
    one_class = replace(cohort, labels=np.where(cohort.labels == 1, 1, -1))
    assert "patients of one class only" in refused(bundle, one_class, other)
    without = cohort.select(["N1", "N2"])
    assert "none of the 2 patients with a known outcome has images" in refused(bundle, without, other)


def test_steps_that_exclude_each_other_are_refused() -> None:
    assert checked_steps(("threshold", "slope"), None) == ("slope", "threshold")
    for steps, prevalence in (
        (("intercept", "slope"), None),
        (("slope", "prevalence"), 0.2),
        (("prevalence",), None),
        (("slope",), 0.0),
        (("slope",), 1.5),
    ):
        with pytest.raises(UsageError):
            checked_steps(steps, prevalence)  # type: ignore[arg-type]
