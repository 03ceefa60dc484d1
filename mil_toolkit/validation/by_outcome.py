"""`SHOWN`: what the page of a validation shows of each kind of outcome."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.class_scoring import table_of_class
from mil_toolkit.evaluation.intervals import scores_with_intervals
from mil_toolkit.evaluation.table import Table
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.classes import rank_error_chart
from mil_toolkit.report.figures.number import OBSERVED_TITLE, agreement_chart, observed_chart
from mil_toolkit.report.figures.scores import class_roc_figure, reliability_chart, roc_chart
from mil_toolkit.report.figures.survival import risk_calibration_chart, thirds_chart
from mil_toolkit.report.figures.use import decision_chart, decision_thresholds
from mil_toolkit.report.survival import calibration, thirds
from mil_toolkit.validation.validate import Validated

_REFITTED = "Calibration after the refit"


@dataclass(frozen=True)
class Shown:
    """The figures and metrics that are shown for a kind of outcome.

    standing: draws the model as it stands; use: what it is worth, also after the refit of a name, if any
    refitted: draws the model after the refit of a name
    metrics: of the refits, which a change of calibration or threshold moves; first a loss that weights
        patients equally, since a refit fits the shares of the classes here, which a balanced loss ignores
    subgroup_metrics, describe: of subgroups: what stands below their number of patients, from their targets
    """

    standing: Callable[[Validated], list[Chart]]
    refitted: Callable[[Validated, str], list[Chart]]
    use: Callable[[Validated, str | None], list[Chart]]
    metrics: tuple[str, ...]
    subgroup_metrics: tuple[str, ...]
    describe: Callable[[np.ndarray], str]


def _nothing(targets: np.ndarray) -> str:
    return ""


def _no_use(validated: Validated, name: str | None) -> list[Chart]:
    return []


# Two classes.


def _binary(validated: Validated) -> list[Chart]:
    table, scores = validated.sample.table, validated.record.scores
    return [roc_chart(table, scores), reliability_chart(table, scores)]


def _binary_refitted(validated: Validated, name: str) -> list[Chart]:
    table, scores = validated.tables[name], validated.record.refits[name].scores
    return [reliability_chart(table, scores, "reliability-refitted", _REFITTED)]


def _decision(validated: Validated, name: str | None) -> list[Chart]:
    others = {} if name is None else {"after the refit, by cross-fitting": validated.tables[name]}
    thresholds = decision_thresholds(validated.sample.record.statements)
    return [decision_chart(validated.sample.table, others, thresholds)]


def _positives(labels: np.ndarray) -> str:
    return f"{int((labels == 1).sum())} positive"


# Several classes.


def _by_class(validated: Validated, table: Table) -> list[tuple[Table, str]]:
    """Return the predictions of each class against all others, with its name."""
    names = validated.bundle.about.predicted.class_names
    return [(table_of_class(table, place), printable(name)) for place, name in enumerate(names)]


def _class_calibrations(validated: Validated, table: Table, start: str, end: str) -> list[Chart]:
    """Draw the calibration of each class; start: of the figures' names; end: of their titles."""
    return [
        reliability_chart(
            part, scores_with_intervals(part), f"{start}-{place}", f"Calibration of {name}{end}"
        )
        for place, (part, name) in enumerate(_by_class(validated, table))
    ]


def _classes(validated: Validated) -> list[Chart]:
    table = validated.sample.table
    curves = [
        class_roc_figure(part, name, place) for place, (part, name) in enumerate(_by_class(validated, table))
    ]
    return [*curves, *_class_calibrations(validated, table, "reliability", "")]


def _classes_refitted(validated: Validated, name: str) -> list[Chart]:
    return _class_calibrations(validated, validated.tables[name], "reliability-refitted", " after the refit")


def _ordered(validated: Validated) -> list[Chart]:
    classes = len(validated.bundle.about.predicted.class_names)
    ranks = rank_error_chart(validated.sample.table, validated.record.scores, classes)
    return [ranks, *_classes(validated)]


# A number.


def _number(validated: Validated) -> list[Chart]:
    table = validated.sample.table
    return [observed_chart(table, validated.record.scores, _target(validated)), agreement_chart(table)]


def _target(validated: Validated) -> str:
    """Return the target with its unit."""
    return Number.of(validated.sample.patients.outcome).text.name


def _number_refitted(validated: Validated, name: str) -> list[Chart]:
    record, title = validated.record, f"{OBSERVED_TITLE} after the refit"
    scores = record.scores | record.refits[name].scores  # the order of the predictions stays
    return [observed_chart(validated.tables[name], scores, _target(validated), "observed-refitted", title)]


# Survival.


def _outcome(validated: Validated) -> Survival:
    return Survival.of(validated.sample.patients.outcome)


def _survival(validated: Validated) -> list[Chart]:
    outcome, table = _outcome(validated), validated.sample.table
    return [
        thirds_chart(table, thirds(table, outcome.by), outcome, "patients"),
        risk_calibration_chart(table, calibration(table, outcome.by), outcome.by),
    ]


def _survival_refitted(validated: Validated, name: str) -> list[Chart]:
    horizon, table = _outcome(validated).by, validated.tables[name]
    result = calibration(table, horizon)
    return [risk_calibration_chart(table, result, horizon, "calibration-refitted", _REFITTED)]


def _events(targets: np.ndarray) -> str:
    return count_of(int((targets[:, 1] == 1).sum()), "event")


_OF_CLASSES = ("brier", "balanced_log_loss", "balanced_accuracy", "macro_f1")
SHOWN: dict[str, Shown] = {
    "binary": Shown(
        _binary,
        _binary_refitted,
        _decision,
        ("log_loss", "brier", "balanced_accuracy", "sensitivity", "specificity"),
        ("balanced_accuracy", "sensitivity", "specificity", "auc"),
        _positives,
    ),
    "classes": Shown(
        _classes,
        _classes_refitted,
        _no_use,
        _OF_CLASSES,
        ("balanced_accuracy", "macro_f1", "macro_auc"),
        _nothing,
    ),
    "ordered": Shown(
        _ordered,
        _classes_refitted,
        _no_use,
        (*_OF_CLASSES, "quadratic_kappa", "rank_error"),
        ("balanced_accuracy", "quadratic_kappa", "rank_error"),
        _nothing,
    ),
    "number": Shown(
        _number, _number_refitted, _no_use, ("mae", "rmse", "r2"), ("mae", "rmse", "spearman"), _nothing
    ),
    "survival": Shown(
        _survival,
        _survival_refitted,
        _no_use,
        ("integrated_brier", "brier_at_horizon", "calibration_at_horizon"),
        ("concordance_harrell",),
        _events,
    ),
}
"""The figures and metrics that are shown, by the kind of the outcome."""
