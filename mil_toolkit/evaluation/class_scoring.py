"""How predictions of several classes are stored in tables and scored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mil_toolkit.evaluation.class_calibration import constant_names, last_largest
from mil_toolkit.evaluation.class_metrics import CLASS_METRICS
from mil_toolkit.evaluation.measure import Measure
from mil_toolkit.evaluation.metrics import Predicted, metrics_of
from mil_toolkit.evaluation.scoring import BINARY, Scoring

if TYPE_CHECKING:
    from mil_toolkit.evaluation.table import Table


def class_scoring(
    names: Sequence[str], measures: Mapping[str, Measure[Predicted]] = CLASS_METRICS
) -> Scoring:
    """Return the scoring of classes with these names; measures: by the name of the metric."""

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
        pooled=None,
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
