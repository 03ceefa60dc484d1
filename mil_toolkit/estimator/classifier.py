"""`MILClassifier`: an estimator of two classes, or of several with or without an order."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin

from mil_toolkit.core.text import count_of
from mil_toolkit.estimator.base import MILEstimator
from mil_toolkit.estimator.parameters import DECISION, HEAD_PARAMETERS, defaults_for, keyword_init
from mil_toolkit.estimator.targets import class_labels
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import MOST, Classes
from mil_toolkit.outcomes.ordered import FEWEST, Ordered
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.training.arrays import BagError, Data


class MILClassifier(ClassifierMixin, MILEstimator):  # type: ignore[misc]
    """Multiple instance classifier of two or more classes, with metadata, as a scikit-learn estimator.

    `X` is either

    - a sequence of B bags, each an array (n, D) of n embeddings, where n may differ between bags; or
    - a pandas table of B rows, as returned by `load_patients`. Its column `bag` holds such arrays, and all
      other columns are metadata: numbers (NaN where missing) or categories (None where missing). Without a
      column `bag`, the model uses metadata only.

    `fit` does what `mil-tune` does for a single configuration, and then what `mil-fit` does: inner
    cross-validation with `folds` folds of the training bags chooses the number of epochs, and calibration and
    decision are fitted to its out-of-fold predictions. Then `members` heads are fitted on all training bags;
    their logits are averaged. Everything that is fitted (scaling, components, imputation) uses training bags
    only, so the scores of `cross_val_score` are those of held-out bags that had no part in these choices. To
    choose other parameters as well, wrap the estimator in GridSearchCV, and pass that to cross_val_score.

    Parameters of the procedure:

    - folds: number of inner folds, stratified by class; 1 for a single 80/20 split
    - members: number of seeds whose logits are averaged
    - objective: the metric that chooses the number of epochs
    - seed: all random numbers derive from it
    - device: auto, cpu, cuda or cuda:i
    - order: of three classes or more that have an order, such as grades: all of them, lowest first

    and, of two classes only:

    - threshold: the rule for the threshold of `predict`: `share` (the share of positives), `balanced` (the
      highest balanced accuracy) or `half` (0.5)
    - sensitivity: sensitivity that the threshold has to reach, between 0 and 1; replaces `threshold`
    - sensitivity_confidence: if given, the lower bound of the sensitivity at this confidence must reach it
    - positive: the positive class, to which sensitivity refers; by default the last one of `classes_`

    Attributes after `fit`:

    - `classes_`: (C,) the classes, sorted
    - `n_features_in_`: D, or the number of columns without bags
    - `feature_names_in_`: the columns of X, if X is a table
    - `n_epochs_`: the chosen number of epochs
    - `decision_`: calibration and threshold (`Decision`); of several classes, calibration and the share of
      each class (`ClassDecision`, of ordered ones `OrderedDecision`)
    - `head_`: the fitted members (`FittedHead`)

    A fitted estimator can be pickled like any other of scikit-learn. Loading a pickle can run arbitrary code,
    so use `mil-fit` for models that are passed on. Attention pooling follows Ilse et al. 2018; the README
    describes the procedure.

    Parameters of the head:
    """

    __init__ = keyword_init("MILClassifier", defaults_for("binary", DECISION, positive=None, order=None))
    __doc__ += HEAD_PARAMETERS

    def predict_proba(self, X: Data) -> np.ndarray:
        """Return calibrated probabilities (B, C) in the order of `classes_`.

        Raises NotFittedError before `fit`, and BagError for bags that cannot be used or differ from those of
        `fit`, also where a word differs in its spelling only. Warns of words that `fit` never saw, which
        count as missing.
        """
        values = self._predictions(X).values
        if values.ndim == 1:  # of the positive class
            values = np.stack([1 - values, values], axis=1)
        return np.asarray(values[:, np.argsort(self._places)])

    def predict(self, X: Data) -> np.ndarray:
        """Return classes (B,), which may not be the most probable ones; raises as `predict_proba`.

        Of two classes, the fitted threshold decides. Of several, that class is predicted whose probability is
        the largest multiple of its share among the bags of `fit`.
        """
        decisions = self._predictions(X).decisions.astype(int)
        return np.asarray(self.classes_[self._places[decisions]])

    def _values(self, outputs: np.ndarray) -> np.ndarray:
        """Return probabilities: (..., B) of the positive class, or (..., B, C) in the order of `classes_`."""
        values = super()._values(outputs)
        return values if len(self._places) == 2 else values[..., np.argsort(self._places)]

    def _read_outcomes(self, y: ArrayLike) -> tuple[Outcome, np.ndarray]:
        """Set `classes_`, and return the outcome with the number of each label's class."""
        self.classes_, inverse = np.unique(class_labels(y), return_inverse=True)
        problem = _class_problem(self.classes_.tolist()) or self._order_problem()
        if problem is not None:
            raise BagError(problem)
        self._places = self._positions()
        return self._outcome(), np.argsort(self._places)[inverse].astype(np.int64)

    def _outcome(self) -> Outcome:
        if len(self.classes_) == 2:
            return Binary()
        names = tuple(map(str, self.classes_[self._places].tolist()))
        return Classes(classes=names) if self.order is None else Ordered(classes=names)

    def _positions(self) -> np.ndarray:
        """Return the position in `classes_` of class 0, 1 and so on of the outcome, (C,)."""
        if self.order is not None:
            return np.array([self.classes_.tolist().index(label) for label in self.order])
        first_is_positive = self.positive is not None and self.classes_[0] == self.positive
        return np.array([1, 0]) if first_is_positive else np.arange(len(self.classes_))

    def _order_problem(self) -> str | None:
        """Return why `positive` or `order` do not fit the classes, or None if they do."""
        known = self.classes_.tolist()
        classes = f"y holds {_listed(known)} ({count_of(len(known), 'class', 'classes')})."
        if self.positive is not None and (len(known) != 2 or self.positive not in known):
            return f"positive={self.positive!r} needs labels of two classes, one of them positive; {classes}"
        if self.order is None:
            return None
        if isinstance(self.order, str) or not np.iterable(self.order):
            return f"order={self.order!r} is not a list of all classes, lowest first; {classes}"
        if len(known) < FEWEST:
            return f"order={self.order!r} needs labels of {FEWEST} classes or more; {classes}"
        order = list(self.order)
        if len(order) != len(known) or any(label not in order for label in known):
            return f"order={self.order!r} must list each class once, lowest first; {classes}"
        return None


def _class_problem(classes: list[object]) -> str | None:
    """Return why labels of these classes cannot be learned, or None if they can."""
    held = f"y holds {_listed(classes)} ({count_of(len(classes), 'class', 'classes')})."
    if len(classes) < 2:
        return f"Expected labels of two classes or more; {held}"
    if len(classes) > 2 and any(isinstance(label, float) and not label.is_integer() for label in classes):
        return f"Unknown label type: continuous. Expected classes; {held} Use MILRegressor for numbers."
    if len(classes) > MOST:
        return f"Expected labels of at most {MOST} classes; {held} Use MILRegressor for numbers."
    return None


def _listed(classes: list[object]) -> str:
    return ", ".join(map(repr, classes[:9])) + (" and others" if len(classes) > 9 else "")
