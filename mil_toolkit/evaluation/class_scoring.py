"""How predictions of several classes are stored in tables and scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mil_toolkit.evaluation.class_calibration import constant_names, last_largest
from mil_toolkit.evaluation.class_metrics import CLASS_METRICS
from mil_toolkit.evaluation.measure import Measure
from mil_toolkit.evaluation.metrics import Predicted, metrics_of
from mil_toolkit.evaluation.scoring import BINARY, Scoring

if TYPE_CHECKING:  # it imports pandas
    from mil_toolkit.evaluation.table import Table


Pooled = Callable[[np.ndarray], np.ndarray]  # see `Scoring.pooled`
_SATURATED = 1e-9  # smaller probabilities do not determine their logits


def of_mean_logits(members: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, C) of the mean of the members' logits from their probabilities (K, n, C).

    Logits are log-probabilities up to a number that is the same for all classes, which changes nothing. NaN
    where a probability is too near to 0.
    """
    determined = np.all(members > _SATURATED, axis=(0, 2), keepdims=True)[0]
    means = np.exp(np.log(np.where(determined, members, 0.5)).mean(0))
    return np.where(determined, means / means.sum(-1, keepdims=True), np.nan)


def class_scoring(
    names: Sequence[str],
    measures: Mapping[str, Measure[Predicted]] = CLASS_METRICS,
    pooled: Pooled | None = of_mean_logits,
) -> Scoring:
    """Return the scoring of classes with these names.

    measures: by the name of the metric; pooled: None if probabilities are not the softmax of the outputs
    """

    def decide(probabilities: np.ndarray, constants: Mapping[str, np.ndarray]) -> np.ndarray:
        priors = np.stack([constants[name] for name in constant_names(names)], axis=-1)
        return last_largest(probabilities / priors)

    def scorable(labels: np.ndarray) -> bool:
        return len(np.unique(labels)) == len(names)

    return Scoring(
        targets=("label",),
        values=tuple(f"probability:{name}" for name in names),
        decision="prediction",
        constants=constant_names(names),
        bounds=(0.0, 1.0),
        metrics=metrics_of(measures),
        decisions=tuple(range(len(names))),
        discrimination="macro_auc",
        decided=lambda column: column.astype(int),
        decide=decide,
        pooled=pooled,
        strata=lambda labels: labels,
        scorable=scorable,
        errors=_missing_probabilities,
        rank=None,
        rank_strata={},
        reliability=False,
        epoch_metrics=("balanced_log_loss", "balanced_accuracy", "macro_auc"),
    )


def _missing_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return what the probability of the true class lacks to 1: labels (n,), (..., n, C) -> (..., n)."""
    return np.asarray(1 - probabilities[..., np.arange(len(labels)), labels])


def table_of_class(table: "Table", label: int) -> "Table":
    """Return the predictions of one class, as those of two classes whose positive one it is."""
    return replace(
        table,
        labels=(table.labels == label).astype(int),
        probabilities=table.probabilities[..., label],
        decisions=table.decisions == label,
        scoring=BINARY,
    )
