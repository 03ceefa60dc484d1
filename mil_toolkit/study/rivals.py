"""Logistic regressions under the same folds, inner choice and threshold rule as the model (rules of evidence, 7)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.splits import Split
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.patients import Patients

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation to choose from
Columns = Callable[[Patients, np.ndarray], np.ndarray | None]


def metadata_columns(patients: Patients, train: np.ndarray) -> np.ndarray | None:
    """The metadata (B, M), encoded as for the model; None where there are none."""
    if patients.metadata.empty:
        return None
    encoder = MetadataEncoder.fit(patients.metadata.iloc[train], patients.log_columns)
    return encoder.encode(patients.metadata).to_numpy()


def bag_size(patients: Patients, train: np.ndarray) -> np.ndarray | None:
    """The logarithm of the number of images (B, 1), which should say nothing; None without images."""
    return None if patients.bags is None else np.log(patients.bags.sizes.numpy())[:, None]


def mean_embeddings(patients: Patients, train: np.ndarray) -> np.ndarray | None:
    """The mean embedding of each bag (B, D); None without images."""
    bags = patients.bags
    if bags is None:
        return None
    totals: Tensor = torch.zeros(len(bags), bags.instances.shape[1])
    totals.index_add_(0, bags.bag_of_instance, bags.instances.float())
    return (totals / bags.sizes[:, None]).numpy()


RIVALS: dict[str, Columns] = {
    "metadata_logistic": metadata_columns,
    "bag_size": bag_size,
    "mean_logistic": mean_embeddings,
}


def rival_predictions(
    columns: Columns,
    patients: Patients,
    train: np.ndarray,
    test: np.ndarray,
    inner: Sequence[Split],
    objective: str,
    decide: Callable[[np.ndarray, np.ndarray], Decision],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Probabilities and decisions of the test patients, each (n,); None where the rival has nothing to look at.

    train, test: places among `patients`; inner: splits of `train`, by place within it. The regularisation is the
    best by `objective` on the inner out-of-fold logits, on which calibration and threshold are then fitted.
    """
    if columns(patients, train) is None:
        return None
    found = {strength: _out_of_fold(columns, patients, train, inner, strength) for strength in STRENGTHS}
    held = np.concatenate([split.test for split in inner])
    labels = patients.labels[train][held]
    metric = METRICS[objective]
    ranked = {strength: metric.score(labels, expit(logits)) for strength, logits in found.items()}
    best = (max if metric.higher_is_better else min)(ranked, key=lambda strength: ranked[strength])
    decision = decide(found[best], labels)
    probabilities = decision.probabilities(_logits(columns, patients, train, test, best))
    return probabilities, probabilities >= decision.threshold


def _out_of_fold(
    columns: Columns, patients: Patients, train: np.ndarray, inner: Sequence[Split], strength: float
) -> np.ndarray:
    folds = [_logits(columns, patients, train[each.train], train[each.test], strength) for each in inner]
    return np.concatenate(folds)


def _logits(
    columns: Columns, patients: Patients, train: np.ndarray, test: np.ndarray, strength: float
) -> np.ndarray:
    x = columns(patients, train)
    assert x is not None
    fitted = _regression(strength).fit(x[train], patients.labels[train])
    return np.asarray(fitted.decision_function(x[test]))


def _regression(strength: float) -> Pipeline:
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    )
