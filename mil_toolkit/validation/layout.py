"""`Page`: all that the page of a validation shows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mil_toolkit.bundle.domain.columns import IN_DOMAIN, REASONS
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.core.version import __version__
from mil_toolkit.evaluation.words import in_use, metric_title, table_metrics, with_interval
from mil_toolkit.report.drawing import Chart, style
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.scores import Count, confusion_matrix
from mil_toolkit.report.sections.tables import Cell, Row, ScoreTable, cell
from mil_toolkit.study.subgroups import Subgroup
from mil_toolkit.validation.by_outcome import SHOWN, Shown
from mil_toolkit.validation.records import Flow, Validation
from mil_toolkit.validation.refit_tables import refit_name, refit_tables
from mil_toolkit.validation.validate import Validated, subgroups_of

MOST_LISTED = 100  # patients outside the domain


@dataclass(frozen=True)
class Outside:
    """A patient unlike those of training, and why."""

    name: str
    reasons: str


@dataclass(frozen=True)
class Page:
    """The page of a validation.

    recalibrated: on which patients, and what was refitted, of each recalibration before this validation
    flow: numbers of patients, by what became of them; notes: sentences on the validation as a whole
    metric, score: the study's primary metric here; verdict: sentences beside that of the study
    class_names, matrix: of the decisions; empty if nothing is decided
    standing, refitted, use: figures; refits: tables; refit_notes: what was not refitted, and why
    saved: what a new bundle holds, None if there is none
    outside: the listed patients outside the domain; more_outside: how many more there are
    withheld: whether they are not listed because the page is anonymous
    """

    title: str
    study: str
    cohort: str
    trained_on: str
    recalibrated: list[str]
    version: str
    verdict: str
    metric: str
    score: Cell
    flow: dict[str, int]
    notes: list[str]
    in_use: str | None
    scores: ScoreTable
    others: ScoreTable | None
    class_names: tuple[str, ...]
    two: bool
    matrix: list[list[Count]]
    standing: list[Chart]
    refits: list[ScoreTable]
    refit_notes: list[str]
    refitted: list[Chart]
    saved: str | None
    use: list[Chart]
    subgroups: ScoreTable | None
    domain: str
    outside: list[Outside]
    more_outside: int
    withheld: bool


def lay_out(validated: Validated, chosen: str, saved: str | None = None, anonymise: bool = False) -> Page:
    """Draw all figures of a validation, and return its page.

    chosen: name of the refit that is drawn, if it could be fitted, else the intercept is
    saved: folder of the new bundle
    anonymise: list no patients, and number groups instead of naming them
    """
    record, shown = validated.record, SHOWN[validated.record.outcome]
    drawn = _drawn(record, chosen)
    primary = validated.bundle.about.procedure.primary_metric
    main = table_metrics(primary, record.scores)
    others = [name for name in record.scores if name not in main]
    outside = _outside(validated)
    with style():
        return Page(
            title=f"{printable(record.study)} on {printable(record.cohort)}",
            study=printable(record.study),
            cohort=printable(record.cohort),
            trained_on=printable(record.trained_on),
            recalibrated=[
                f"{step.where}: {step.words}" for step in validated.bundle.about.recalibrations or ()
            ],
            version=__version__,
            verdict=_verdict(validated, primary),
            metric=metric_name(primary),
            score=cell(record.scores[primary]),
            flow=_flow(record.flow),
            notes=record.notes,
            in_use=in_use(record.scores, record.prevalence),
            scores=_beside("Scores as the model stands", record, main),
            others=_beside("All other metrics", record, others) if others else None,
            class_names=_names(validated),
            two=validated.bundle.about.predicted.fixed_classes,
            matrix=_matrix(validated),
            standing=shown.standing(validated),
            refits=refit_tables(validated, shown),
            refit_notes=[*record.not_refitted.values()],
            refitted=[] if drawn is None else _of_refit(shown.refitted(validated, drawn), record, drawn),
            saved=_saved(validated, chosen, saved),
            use=_of_refit(shown.use(validated, drawn), record, drawn),
            subgroups=_subgroup_table(validated, shown, anonymise),
            domain=_domain_words(record),
            outside=[] if anonymise else outside[:MOST_LISTED],
            more_outside=0 if anonymise else max(0, len(outside) - MOST_LISTED),
            withheld=anonymise and bool(outside),
        )


def _drawn(record: Validation, chosen: str) -> str | None:
    """Return the name of the refit that is drawn; None for a threshold, which moves no prediction."""
    name = next((name for name in (chosen, "intercept") if name in record.refits), None)
    return None if name == "threshold" else name


def _of_refit(charts: list[Chart], record: Validation, name: str | None) -> list[Chart]:
    """Return the figures, whose captions say which refit they show."""
    if name is None:
        return charts
    words = refit_name(record.refits[name], record.stated)
    return [replace(chart, caption=f"{chart.caption} The refit shown: {words}.") for chart in charts]


def _verdict(validated: Validated, primary: str) -> str:
    record = validated.record
    words = (
        f"{metric_title(primary)} of the model as it stands, on {count_of(record.flow.scored, 'patient')} of"
        f" another cohort: {with_interval(record.scores[primary])}."
    )
    if record.outer is None or primary not in record.outer:
        return words
    before = " before it was recalibrated" if validated.bundle.about.recalibrations else ""
    words += f" On held-out patients of its study{before}: {with_interval(record.outer[primary])}"
    difference = record.differences.get(primary)
    return (
        f"{words}." if difference is None else f"{words}, a difference of {with_interval(difference, '+')}."
    )


def _flow(flow: Flow) -> dict[str, int]:
    return {
        "In the table": flow.table,
        "Excluded by cohort.toml": flow.excluded,
        "Without a known outcome": flow.without_outcome,
        "Without images": flow.without_images,
        "Already in training": flow.in_training,
        "Scored": flow.scored,
    }


def _names(validated: Validated) -> tuple[str, ...]:
    """Return the words of the classes in this cohort, lowest number first; empty if there are none."""
    here = validated.sample.record.class_names
    names = here or validated.bundle.about.class_names
    if not validated.bundle.about.predicted.fixed_classes:
        return tuple(map(printable, names))
    kinds = ("negative", "positive")
    return tuple(f"{kind} ({printable(name)})" for kind, name in zip(kinds, names, strict=True))


def _matrix(validated: Validated) -> list[list[Count]]:
    names = _names(validated)
    return confusion_matrix(
        validated.sample.table, len(names), not validated.bundle.about.predicted.fixed_classes
    )


def _beside(name: str, record: Validation, metrics: Sequence[str]) -> ScoreTable:
    """Return scores here, those of the study on held-out patients, and their difference."""
    caption = (
        f"{count_of(record.flow.scored, 'patient')}, 95 % intervals. Nothing was fitted on them."
        " Study: nested cross-validation on its own patients. Difference: this cohort minus study, by the"
        " intervals of two independent samples (MOVER)."
    )
    rows = []
    for metric in metrics:
        outer = (record.outer or {}).get(metric)
        difference = record.differences.get(metric)
        cells = [cell(record.scores[metric]), None if outer is None else cell(outer)]
        rows.append(Row(metric_name(metric), [*cells, None if difference is None else cell(difference, "+")]))
    return ScoreTable(name, caption, ["", "This cohort", "Study (held-out patients)", "Difference"], rows)


def _saved(validated: Validated, chosen: str, folder: str | None) -> str | None:
    if folder is None:
        return None
    refit = refit_name(validated.record.refits[chosen], validated.record.stated)
    known = "These patients now count as known to it: validate it on others."
    if validated.bundle.about.marks is None:
        known = "It does not recognise these patients, since it does not say whom it was fitted on: make sure"
        known += " that you validate it on others."
    return f"{printable(folder)} holds the model with this refit: {refit}. {known}"


def _subgroup_names(groups: Sequence[Subgroup], anonymise: bool) -> list[str]:
    """Return the names of subgroups; anonymise: numbers instead of the names of groups."""
    places = {group: place for place, group in enumerate((g for g in groups if g.variable == "group"), 1)}
    return [
        f"group {places[group]}"
        if anonymise and group in places
        else f"{printable(group.variable)}: {printable(group.level)}"
        for group in groups
    ]


def _subgroup_table(validated: Validated, shown: Shown, anonymise: bool) -> ScoreTable | None:
    groups = subgroups_of(validated.sample)
    rows, names = [], _subgroup_names(groups, anonymise)
    for name, group, result in zip(names, groups, validated.record.subgroups, strict=True):
        part, scores = validated.sample.table.select(group.patient_ids), result.scores
        cells = [None if scores is None else cell(scores[name]) for name in shown.subgroup_metrics]
        words = [shown.describe(part.labels), "one group, no intervals" * part.one_unit]
        counts = Cell(f"{result.patients}", ", ".join(filter(None, words)))
        rows.append(Row(name, [counts, *cells]))
    if not rows:
        return None
    caption = (
        "The model as it stands, 95 % intervals. Subgroups overlap and are small: differences between them"
        " may be due to chance, and no conclusion is drawn from them."
    )
    heads = ["", "Patients", *map(metric_name, shown.subgroup_metrics)]
    return ScoreTable("Scores in subgroups", caption, heads, rows)


def _domain_words(record: Validation) -> str:
    if record.in_domain is None:
        return "Whether these patients are like those of training is not known: the bundle does not say."
    count, share = record.in_domain, record.in_domain / record.flow.scored
    return (
        f"{count} of {count_of(record.flow.scored, 'scored patient')} ({share:.0%}) are like those that the"
        " model was fitted on, in their values, the number of images and the images themselves. About 95 % of"
        " new patients of the study's own kind would be."
    )


def _outside(validated: Validated) -> list[Outside]:
    domain = validated.sample.domain
    rows = zip(domain["patient_id"], domain[IN_DOMAIN].fillna(True), domain[REASONS], strict=True)
    return [Outside(printable(name), printable(reasons)) for name, inside, reasons in rows if not inside]
