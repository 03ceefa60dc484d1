"""Calibration of class probabilities by temperature and bias, and the class that is predicted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from mil_toolkit.evaluation.calibration import FEWEST_FOR_SLOPE, SMALLEST_SLOPE
from mil_toolkit.evaluation.scoring import Predictions

ROUNDING = 1e-9  # of the sum of the shares


def constant_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns that hold the classes' shares.

    >>> constant_names(["AML", "ALL"])
    ('prior:AML', 'prior:ALL')
    """
    return tuple(f"prior:{name}" for name in names)


@dataclass(frozen=True)
class SoftmaxDecision:
    """The mapping from outputs of a head to calibrated probabilities of C classes and a predicted class.

    Each kind of outcome of several classes has its own, which names the kind and says what the outputs are.

    The probabilities are softmax(slope * logits + biases). The predicted class is the one whose probability
    is the largest multiple of its prior, which maximises balanced accuracy if the probabilities are
    calibrated: of two classes, the positive one at or above a threshold equal to its prior, as by the rule
    `share` of a binary outcome.

    slope: inverse of the temperature; biases: C, which add up to 0; priors: C, the classes' shares
    names: of the classes
    """

    slope: Annotated[float, Meta(gt=0)]
    biases: tuple[float, ...]
    priors: tuple[Annotated[float, Meta(gt=0, le=1)], ...]
    names: tuple[str, ...]

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities (..., C) of outputs of a head."""
        from scipy.special import softmax  # a report that is up to date does without scipy

        return softmax(self.slope * self.logits(outputs) + np.array(self.biases), axis=-1)

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Return the logits of the classes (..., C): the outputs themselves."""
        return outputs

    def predict(self, outputs: np.ndarray) -> Predictions:
        """Return probabilities (..., C) and predicted classes (...) of the outputs of a head.

        Of equal multiples, the last class is predicted.
        """
        probabilities = self.probabilities(outputs)
        return Predictions(probabilities, last_largest(probabilities / np.array(self.priors)))

    @property
    def constants(self) -> dict[str, float]:
        """The classes' shares, by the names of their columns."""
        return dict(zip(constant_names(self.names), self.priors, strict=True))

    def intervals(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return no columns: probabilities have no prediction interval."""
        return {}

    def problems(self) -> Iterator[str]:
        """Yield whether a number is missing or not finite, or the shares do not add up to 1."""
        if not len(self.biases) == len(self.priors) == len(self.names):
            yield "biases, priors and names are not of the same classes"
        if not np.isfinite([self.slope, *self.biases]).all():
            yield "slope or biases are not finite"
        if abs(sum(self.priors) - 1) > ROUNDING:
            yield "the priors do not add up to 1"


@dataclass(frozen=True)
class ClassDecision(SoftmaxDecision):
    """A `SoftmaxDecision` of classes without an order, whose logits are the outputs.

    >>> decision = ClassDecision(1.0, (0.0, 0.0), (0.8, 0.2), ("ALL", "AML"))
    >>> decision.predict(np.log(np.array([[0.7, 0.3], [0.9, 0.1]]))).decisions.tolist()
    [1, 0]
    """

    kind: Literal["classes"] = "classes"


def last_largest(values: np.ndarray) -> np.ndarray:
    """Return the position of the largest value of each row (..., C), the last one of several: (...).

    >>> last_largest(np.array([[0.5, 0.5], [0.6, 0.4]])).tolist()
    [1, 0]
    """
    return np.asarray(values.shape[-1] - 1 - values[..., ::-1].argmax(-1))


def fit_class_decision(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> ClassDecision:
    """Fit temperature and bias, and take the classes' shares as priors.

    logits: (n, C), out of fold, i.e. from models that were not trained on the patient; labels: (n,) of 0 to
    C - 1, which must have every class; names: C
    """
    slope, biases = fit_class_calibration(logits, labels)
    shares = np.bincount(labels, minlength=logits.shape[1]) / len(labels)
    return ClassDecision(slope, tuple(biases.tolist()), tuple(shares.tolist()), tuple(names))


def fit_class_calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Fit slope and biases (C,) by maximum likelihood with smoothed targets.

    Temperature scaling (Guo et al. 2017, section 4.2) with a bias for each class: logits of a head that was
    trained with balanced classes are moved to the classes' shares. The targets of a patient of class c are
    (n_c + 1) / (n_c + C) for c and 1 / (n_c + C) for each other class; of two classes, they are those of
    Platt 1999, section 2.2. As in `fit_calibration`, with which two classes agree, the slope is 1 if the
    smallest class has fewer than 20 patients, and otherwise at least SMALLEST_SLOPE.
    """
    counts = np.bincount(labels, minlength=logits.shape[1])
    targets = _smoothed(labels, counts)
    if counts.min() >= FEWEST_FOR_SLOPE:
        slope, biases = _fit(logits, targets)
        if slope >= SMALLEST_SLOPE:
            return slope, biases
        return SMALLEST_SLOPE, _fit(logits, targets, SMALLEST_SLOPE)[1]
    return _fit(logits, targets, 1.0)


def fit_biases(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fit the biases (C,) alone, with the targets of `fit_class_calibration`; the slope is 1."""
    return _fit(logits, _smoothed(labels, np.bincount(labels, minlength=logits.shape[1])), 1.0)[1]


def _smoothed(labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the targets (n, C) of each patient."""
    targets = np.tile(1 / (counts[labels] + len(counts))[:, None], len(counts))
    targets[np.arange(len(labels)), labels] *= counts[labels] + 1
    return targets


def _fit(logits: np.ndarray, targets: np.ndarray, slope: float | None = None) -> tuple[float, np.ndarray]:
    """Return slope and biases with the smallest cross-entropy; a given slope is kept."""
    from scipy.optimize import minimize  # a report that is up to date does without scipy
    from scipy.special import log_softmax

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        factor = x[0] if slope is None else slope
        line = factor * logits + x[1:]
        excess = (np.exp(log_softmax(line, axis=1)) - targets) / len(logits)  # targets add up to 1
        by_slope = float((excess * logits).sum()) if slope is None else 0.0
        value = -float((targets * log_softmax(line, axis=1)).sum()) / len(logits)
        return value, np.array([by_slope, *excess.sum(0)])

    start = np.array([1.0] + [0.0] * logits.shape[1])
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-8}).x
    biases = found[1:] - found[1:].mean()
    return float(found[0]) if slope is None else slope, biases
