"""Baselines: logistic regressions with the folds, inner choice and threshold rule of the model.

JSON files call them `rivals`. docs/evidence.md explains them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mil_toolkit.config import HeadConfig
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.splits import Split
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.curves import predicted_by, value_of
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import fit_projection, fold_moments

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation strengths to choose from

# A function of B patients, and of the indices of those to fit an encoding on. It returns the columns (B, C)
# of a regression, or None if the patients do not have the data.
Columns = Callable[[Patients, np.ndarray], np.ndarray | None]


def metadata_columns(patients: Patients, train: np.ndarray) -> np.ndarray | None:
    """Return the metadata (B, M), encoded as for the model; None without metadata."""
    if patients.metadata.empty:
        return None
    encoder = MetadataEncoder.fit(patients.metadata.iloc[train], patients.log_columns)
    return encoder.encode(patients.metadata).to_numpy()


def bag_size(patients: Patients, train: np.ndarray) -> np.ndarray | None:
    """Return the log of the number of images (B, 1), which should predict nothing; None without images."""
    return None if patients.bags is None else np.log(patients.bags.sizes.numpy())[:, None]


def mean_embeddings(patients: Patients, train: np.ndarray) -> np.ndarray | None:
    """Return the mean embedding of each bag (B, D), of several views side by side; None without images."""
    means = [bags.means.numpy() for bags in patients.views.values()]
    return np.concatenate(means, axis=1) if means else None


def bag_statistics(patients: Patients, train: np.ndarray) -> np.ndarray | None:
    """Return mean, maximum and minimum of each bag's reduced embeddings (B, 3 C); None without images.

    Each view is standardised and reduced to the default number of components on the training patients, as
    for the model, and their columns are side by side.
    """
    parts = [_statistics(bags, train) for bags in patients.views.values()]
    return np.concatenate(parts, axis=1) if parts else None


def _statistics(bags: Bags, train: np.ndarray) -> np.ndarray:
    (moments,) = fold_moments(bags, [train])
    projection = fit_projection(moments, standardise=True, components=HeadConfig().components)
    tables = []
    for part in bags.parts():
        x = projection(bags.embeddings(bags.rows(part)))  # (n, C)
        of_bags = [torch.segment_reduce(x, name, lengths=bags.sizes[part]) for name in ("mean", "max", "min")]
        tables.append(torch.cat(of_bags, 1))
    return torch.cat(tables).double().numpy()


@dataclass(frozen=True)
class Rival:
    """A baseline: the columns of its regression, and the regularisation strengths to choose from."""

    columns: Columns
    strengths: tuple[float, ...] = STRENGTHS


RIVALS: dict[str, Rival] = {
    "metadata_logistic": Rival(metadata_columns),
    "metadata_logistic_c1": Rival(metadata_columns, strengths=(1.0,)),  # a search can make a baseline worse
    "bag_size": Rival(bag_size),
    "mean_logistic": Rival(mean_embeddings),
    "mean_max_min_logistic": Rival(bag_statistics),
}
METADATA_RIVALS = ("metadata_logistic", "metadata_logistic_c1")  # those that see only the metadata


def rival_predictions(
    rival: Rival,
    patients: Patients,
    train: np.ndarray,
    test: np.ndarray,
    inner: Sequence[Split],
    objective: str,
    decide: Callable[[np.ndarray, np.ndarray, np.ndarray | None], Decision],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a baseline's probabilities and decisions for the test patients, each (n,).

    train, test: indices among `patients`; inner: splits of `train`, as indices within it
    decide: fits calibration and threshold to logits, labels and groups (None if none are declared)

    The regularisation strength is the best by `objective` on the inner out-of-fold logits, on which
    calibration and threshold are then fitted. Returns None if the patients do not have the data.
    """
    columns = rival.columns
    if columns(patients, train) is None:
        return None
    held_out = np.concatenate([split.test for split in inner])
    folds = np.repeat(np.arange(len(inner)), [len(split.test) for split in inner])
    labels = patients.labels[train][held_out]
    logits = _out_of_fold(columns, patients, train, inner, rival.strengths)
    scores = {
        strength: value_of(objective, predicted_by(values, labels, folds))
        for strength, values in logits.items()
    }
    best = (max if METRICS[objective].higher_is_better else min)(
        scores, key=lambda strength: scores[strength]
    )
    groups = None if patients.groups is None else patients.groups[train][held_out]
    decision = decide(logits[best], labels, groups)
    probabilities = decision.probabilities(_logits(columns, patients, train, test, best))
    return probabilities, probabilities >= decision.threshold


def _out_of_fold(
    columns: Columns,
    patients: Patients,
    train: np.ndarray,
    inner: Sequence[Split],
    strengths: Sequence[float],
) -> dict[float, np.ndarray]:
    """Return, by strength, the logits of the held-out patients of all inner folds, fold after fold."""
    folds = [
        _logits_by_strength(columns, patients, train[split.train], train[split.test], strengths)
        for split in inner
    ]
    return {strength: np.concatenate([logits[strength] for logits in folds]) for strength in strengths}


def _logits(
    columns: Columns, patients: Patients, train: np.ndarray, test: np.ndarray, strength: float
) -> np.ndarray:
    return _logits_by_strength(columns, patients, train, test, [strength])[strength]


def _logits_by_strength(
    columns: Columns, patients: Patients, train: np.ndarray, test: np.ndarray, strengths: Sequence[float]
) -> dict[float, np.ndarray]:
    """Return the logits of the test patients by strength; the columns are encoded and scaled once."""
    from sklearn.preprocessing import StandardScaler  # to read a study, it is not needed

    x = columns(patients, train)
    assert x is not None
    scaler = StandardScaler().fit(x[train])
    x_train, x_test, labels = scaler.transform(x[train]), scaler.transform(x[test]), patients.labels[train]
    fitted = {strength: _regression(strength).fit(x_train, labels) for strength in strengths}
    return {strength: regression.decision_function(x_test) for strength, regression in fitted.items()}


def _regression(strength: float) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
