"""Metrics of predicted classes, collected in `CLASS_METRICS` and, for ordered classes, `ORDERED_METRICS`.

A metric takes `Predicted`, whose labels (n,) are 0 to C - 1, whose probabilities (..., n, C) add up to 1 and
whose decisions (..., n) are the predicted classes, and weights (..., n) of the patients. It returns scores
(...). A score that needs every class is NaN where the weighted patients lack one; such scores of fewer
classes could not be compared with others.
"""

import numpy as np

from mil_toolkit.evaluation import pairs
from mil_toolkit.evaluation.measure import Measure
from mil_toolkit.evaluation.metrics import Predicted, auc
from mil_toolkit.evaluation.weighted import mean, ratio

_SMALLEST = np.finfo(float).eps  # probability whose logarithm is taken, as in metrics.py


def class_count(predicted: Predicted) -> int:
    """Return the number of classes, C."""
    return predicted.probabilities.shape[-1]


def one_vs_rest(predicted: Predicted, label: int) -> Predicted:
    """Return the predictions of one class, as those of a binary outcome whose positive class it is."""
    return Predicted(
        (predicted.labels == label).astype(int),
        predicted.probabilities[..., label],
        predicted.decisions == label,
        predicted.folds,
    )


# Counts of decisions.


def confusion(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the total weight of patients of each class that are predicted as each class, (..., C, C).

    Rows are the true classes, columns the predicted ones.
    """
    numbers = np.arange(class_count(predicted))
    of_label = weights[..., None] * (predicted.labels[:, None] == numbers)  # (..., n, C)
    decided = (predicted.decisions[..., None] == numbers).astype(float)
    return np.asarray(np.swapaxes(of_label, -1, -2) @ decided)


def _hits(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def sensitivities(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of each class's patients that are predicted as this class, (..., C)."""
    counts = confusion(predicted, weights)
    return ratio(_hits(counts), counts.sum(-1))


def specificities(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of the patients of other classes that are predicted as other classes, (..., C)."""
    counts = confusion(predicted, weights)
    others = counts.sum((-2, -1))[..., None] - counts.sum(-1)
    return ratio(others - (counts.sum(-2) - _hits(counts)), others)


def predictive_values(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the share of the patients predicted as each class that belong to it, (..., C).

    NaN for a class that nobody is predicted to have.
    """
    counts = confusion(predicted, weights)
    return ratio(_hits(counts), counts.sum(-2))


def balanced_accuracy(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean of the classes' sensitivities."""
    return np.asarray(sensitivities(predicted, weights).mean(-1))


def macro_f1(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean over classes of the harmonic mean of sensitivity and positive predictive value.

    The class's value is 2 TP / (2 TP + FP + FN), which is 0 for a class that nobody is predicted to have
    (Opitz and Burst 2019, "Macro F1 and Macro F1": the mean of F1 scores, not F1 of the means).
    """
    counts = confusion(predicted, weights)
    return np.asarray(ratio(2 * _hits(counts), counts.sum(-1) + counts.sum(-2)).mean(-1))


def kappa(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the agreement of classes and decisions beyond chance (Cohen 1960)."""
    return _agreement(predicted, weights, 1 - np.eye(class_count(predicted)))


def quadratic_kappa(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa of ordered classes with squared differences of ranks (Cohen 1968)."""
    return _agreement(predicted, weights, _rank_differences(class_count(predicted)) ** 2)


def _agreement(predicted: Predicted, weights: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Return 1 - observed / expected cost; NaN where no cost is expected. costs: (C, C)."""
    counts = confusion(predicted, weights)
    expected = counts.sum(-1)[..., :, None] * counts.sum(-2)[..., None, :]
    total = counts.sum((-2, -1))
    return 1 - ratio((counts * costs).sum((-2, -1)) * total, (expected * costs).sum((-2, -1)))


def _rank_differences(classes: int) -> np.ndarray:
    ranks = np.arange(classes)
    return np.abs(ranks[:, None] - ranks).astype(float)


def rank_error(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference of the ranks of decision and class."""
    return mean(np.abs(predicted.decisions - predicted.labels), weights)


# Probabilities.


def losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the log-loss of each patient in nats: labels (n,), probabilities (..., n, C) -> (..., n)."""
    of_label = probabilities[..., np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(of_label, _SMALLEST, 1 - _SMALLEST)))


def balanced_log_loss(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the log-loss in nats with equal total weights of all classes."""
    of_patients = losses(predicted.labels, predicted.probabilities)
    inside = [predicted.labels == label for label in range(class_count(predicted))]
    return np.asarray(np.mean([mean(of_patients, weights * own) for own in inside], axis=0))


def squared_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the squared distance of each patient's probabilities from the class, (..., n)."""
    truth = labels[:, None] == np.arange(probabilities.shape[-1])
    return np.asarray(((probabilities - truth) ** 2).sum(-1))


def brier(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean squared distance of the probabilities from the class (Brier 1950).

    It lies between 0 and 2; of two classes, it is twice the Brier score of a binary outcome.
    """
    return mean(squared_errors(predicted.labels, predicted.probabilities), weights)


def class_aucs(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the AUC of each class against all others within folds, (..., C); see `metrics.auc`."""
    return np.stack(
        [auc(one_vs_rest(predicted, label), weights) for label in range(class_count(predicted))], axis=-1
    )


def macro_auc(predicted: Predicted, weights: np.ndarray) -> np.ndarray:
    """Return the mean over classes of the AUC against all others within folds.

    All classes count the same (Fawcett 2006, section 9.2, weights them by their shares). NaN if no fold has
    patients of a class and of another one.
    """
    return np.asarray(class_aucs(predicted, weights).mean(-1))


def _macro_auc_influence(predicted: Predicted) -> np.ndarray:
    """Return the influence of each patient on the macro AUC, (n,)."""
    return np.asarray(
        np.mean(
            [
                pairs.influence(
                    predicted.probabilities[:, label], predicted.folds, _of_class(predicted.labels, label)
                )
                for label in range(class_count(predicted))
            ],
            axis=0,
        )
    )


def _of_class(labels: np.ndarray, label: int) -> pairs.Comparable:
    inside = labels == label
    return lambda places: (inside[places][:, None] & ~inside[places]).astype(float)


# The losses that patients would have if they were predicted wrongly, for the least variance of a mean loss.


def second_classes(predicted: Predicted) -> np.ndarray:
    """Return the most probable wrong class of each patient, (n,), of probabilities (n, C)."""
    others = predicted.probabilities.copy()
    others[np.arange(len(others)), predicted.labels] = -1
    return np.asarray(others.argmax(-1))


def _log_loss_if_wrong(predicted: Predicted) -> np.ndarray:
    return losses(second_classes(predicted), predicted.probabilities)


def _squared_error_if_wrong(predicted: Predicted) -> np.ndarray:
    return squared_errors(second_classes(predicted), predicted.probabilities)


CLASS_METRICS: dict[str, Measure[Predicted]] = {
    "balanced_log_loss": Measure(
        balanced_log_loss,
        "positive",
        higher_is_better=False,
        training=10,
        balanced=True,
        costs=_log_loss_if_wrong,
    ),
    "balanced_accuracy": Measure(balanced_accuracy, "share", training=30, balanced=True),
    "macro_f1": Measure(macro_f1, "share", training=40),
    "macro_auc": Measure(macro_auc, "share", training=40, balanced=True, influence=_macro_auc_influence),
    "brier": Measure(brier, "positive", higher_is_better=False, training=10, costs=_squared_error_if_wrong),
    "kappa": Measure(kappa, "correlation", training=30),
}
ORDERED_METRICS: dict[str, Measure[Predicted]] = {
    **CLASS_METRICS,
    "quadratic_kappa": Measure(quadratic_kappa, "correlation", training=50),
    "rank_error": Measure(rank_error, "count", higher_is_better=False, training=60),
}
OF_EACH_CLASS: dict[str, Measure[Predicted]] = {  # scores have the shape (..., C)
    "sensitivity": Measure(sensitivities, "share", training=10),
    "specificity": Measure(specificities, "share", training=10),
    "ppv": Measure(predictive_values, "share", training=30),
}
