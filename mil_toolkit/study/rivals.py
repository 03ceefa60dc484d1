"""Baselines: linear models with the folds, inner choice and threshold rule of the model.

JSON files call them `rivals`. docs/explanation/evidence.md explains them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.evaluation.ordered_classes import ordered_outputs
from mil_toolkit.evaluation.scoring import Predictions
from mil_toolkit.evaluation.splits import Split
from mil_toolkit.outcomes.classes import symmetric
from mil_toolkit.outcomes.outcome import DecisionRule, Outcome
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.patients import Patients

if TYPE_CHECKING:
    from mil_toolkit.features.bags import Bags

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse regularisation strengths to choose from

# A function of B patients, and of the indices of those to fit an encoding on. It returns the columns (B, C)
# of a regression, or None if the patients do not have the data.
Columns = Callable[[Patients, np.ndarray], np.ndarray | None]

# A function of standardised columns (n, C), the targets of the same patients, the fitted outcome, the columns
# of other patients (m, C) and an inverse regularisation strength. It returns what the head would put out for
# these others, (m,) or (m, outputs).
Regression: TypeAlias = Callable[[np.ndarray, np.ndarray, Outcome, np.ndarray, float], np.ndarray]


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


def _statistics(bags: "Bags", train: np.ndarray) -> np.ndarray:
    import torch  # to read a study, it is not needed

    from mil_toolkit.training.projection import fit_projection, fold_moments

    (moments,) = fold_moments(bags, [train])
    projection = fit_projection(moments, standardise=True, components=HeadConfig().components)
    tables = []
    for part in bags.parts():
        x = projection(bags.embeddings(bags.rows(part)))  # (n, C)
        of_bags = [torch.segment_reduce(x, name, lengths=bags.sizes[part]) for name in ("mean", "max", "min")]
        tables.append(torch.cat(of_bags, 1))
    return torch.cat(tables).double().numpy()


def logistic(
    x: np.ndarray, targets: np.ndarray, outcome: Outcome, others: np.ndarray, strength: float
) -> np.ndarray:
    """Return the logits of a class-balanced logistic regression, (m,)."""
    from sklearn.linear_model import LogisticRegression  # to read a study, it is not needed

    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    return np.asarray(regression.fit(x, targets).decision_function(others))


def multinomial(
    x: np.ndarray, targets: np.ndarray, outcome: Outcome, others: np.ndarray, strength: float
) -> np.ndarray:
    """Return the logits of a class-balanced multinomial logistic regression, (m, C)."""
    from sklearn.linear_model import LogisticRegression  # to read a study, it is not needed

    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(x, targets)
    return symmetric(np.asarray(regression.decision_function(others)).reshape(len(others), -1))


def ordered_multinomial(
    x: np.ndarray, targets: np.ndarray, outcome: Outcome, others: np.ndarray, strength: float
) -> np.ndarray:
    """Return the outputs of ordered classes with the probabilities of `multinomial`, (m, C - 1).

    The order of the classes is not used, so that no assumption about it can fail.
    """
    from scipy.special import softmax  # to read a study, it is not needed

    return ordered_outputs(softmax(multinomial(x, targets, outcome, others, strength), axis=-1))


def ridge(
    x: np.ndarray, targets: np.ndarray, outcome: Outcome, others: np.ndarray, strength: float
) -> np.ndarray:
    """Return the predictions of a ridge regression on the scale of the head's outputs, (m,)."""
    from sklearn.linear_model import Ridge  # to read a study, it is not needed

    regression = Ridge(alpha=1 / strength).fit(x, outcome.training_targets(targets).astype(float))
    return np.asarray(regression.predict(others))


@dataclass(frozen=True)
class Rival:
    """A baseline.

    columns: of its regression; strengths: of the regularisation, to choose from
    title: its name in reports; version: what tells it from another version of itself, in a sentence
    """

    columns: Columns
    regression: Regression
    strengths: tuple[float, ...] = STRENGTHS
    title: str = ""
    version: str = ""


def rival_predictions(
    rival: Rival,
    patients: Patients,
    train: np.ndarray,
    test: np.ndarray,
    inner: Sequence[Split],
    objective: str,
    decide: Callable[[np.ndarray, np.ndarray, np.ndarray | None], DecisionRule],
) -> Predictions | None:
    """Return a baseline's predictions for the test patients.

    train, test: indices among `patients`; inner: splits of `train`, as indices within it
    decide: fits a decision rule to outputs, targets and groups (None if none are declared)

    The regularisation strength is the best by `objective` on the inner out-of-fold outputs, on which the
    decision rule is then fitted. Returns None if the patients do not have the data.
    """
    if (columns := rival.columns(patients, train)) is None:
        return None
    held_out = np.concatenate([split.test for split in inner])
    folds = np.repeat(np.arange(len(inner)), [len(split.test) for split in inner])
    labels = patients.labels[train][held_out]
    outcome = patients.outcome.fitted(patients.labels[train])
    metric = outcome.scoring.metrics[objective]
    logits = _out_of_fold(rival, patients, outcome, train, inner)
    scores = {
        strength: metric.value(outcome.predicted(values, labels, folds))
        for strength, values in logits.items()
    }
    best = (max if metric.higher_is_better else min)(scores, key=lambda strength: scores[strength])
    groups = None if patients.groups is None else patients.groups[train][held_out]
    decision = decide(logits[best], labels, groups)
    chosen = replace(rival, strengths=(best,))
    return decision.predict(_logits_by_strength(chosen, columns, patients, outcome, train, test)[best])


def _out_of_fold(
    rival: Rival, patients: Patients, outcome: Outcome, train: np.ndarray, inner: Sequence[Split]
) -> dict[float, np.ndarray]:
    """Return, by strength, the logits of the held-out patients of all inner folds, fold after fold."""
    folds = []
    for split in inner:
        own, others = train[split.train], train[split.test]
        columns = rival.columns(patients, own)
        assert columns is not None
        folds.append(_logits_by_strength(rival, columns, patients, outcome, own, others))
    return {strength: np.concatenate([logits[strength] for logits in folds]) for strength in rival.strengths}


def _logits_by_strength(
    rival: Rival, x: np.ndarray, patients: Patients, outcome: Outcome, train: np.ndarray, test: np.ndarray
) -> dict[float, np.ndarray]:
    """Return the logits of the test patients by strength; x: columns of all patients, encoded on `train`."""
    from sklearn.preprocessing import StandardScaler  # to read a study, it is not needed

    scaler = StandardScaler().fit(x[train])
    x_train, x_test, targets = scaler.transform(x[train]), scaler.transform(x[test]), patients.labels[train]
    return {
        strength: rival.regression(x_train, targets, outcome, x_test, strength)
        for strength in rival.strengths
    }
