"""scikit-learn's own checks of estimators, on MILClassifier and, where they want arrays, on bags of one row.

`check_estimator` passes over an estimator whose tags say that it takes no arrays (n, D). So all checks run on
`BagsOfRows`, which takes such an array as n bags of one embedding, and those without data on MILClassifier.
"""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from mil_toolkit import MILClassifier

pytest.importorskip("sklearn", minversion="1.6")  # the first version with checks by tags

CANNOT_APPLY = {"check_array_api_input": "MILClassifier computes in torch; it takes arrays of numpy only"}
# All other checks fit an estimator to an array (n, D), which is not a sequence of bags.
WITHOUT_DATA = (
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)


class BagsOfRows(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A small MILClassifier whose bags are the rows of an array (n, D)."""

    def __init__(self, folds: int = 2, members: int = 1, epochs: int = 3, components: int = 0, seed: int = 0):
        self.folds = folds
        self.members = members
        self.epochs = epochs
        self.components = components
        self.seed = seed

    def __sklearn_tags__(self) -> object:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = MILClassifier().__sklearn_tags__().classifier_tags.multi_class
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> "BagsOfRows":
        from sklearn.utils.validation import validate_data

        rows, labels = validate_data(self, X, y)
        self.model_ = MILClassifier(device="cpu", hidden=32, **self.get_params()).fit(rows[:, None], labels)
        self.classes_, self.n_iter_ = self.model_.classes_, self.model_.n_epochs_
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        bags = self._bags(X)
        return self.model_.predict(bags)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        bags = self._bags(X)
        return self.model_.predict_proba(bags)

    def _bags(self, X: ArrayLike) -> np.ndarray:
        from sklearn.utils.validation import validate_data

        check_is_fitted(self)
        return validate_data(self, X, reset=False)[:, None]


def name_of(check: Callable[..., object]) -> str:
    return getattr(check, "func", check).__name__


def checks_of(estimator: BaseEstimator) -> list[object]:
    """The estimator and each check that applies, for `parametrize`."""
    pairs = estimator_checks.estimator_checks_generator(estimator)
    return [
        pytest.param(one, check, id=f"{type(estimator).__name__}-{name_of(check)}-{number}")
        for number, (one, check) in enumerate(pairs)
        if name_of(check) not in CANNOT_APPLY
    ]


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_scikit_learn_finds_nothing_wrong_with_the_parameters(name: str) -> None:
    getattr(estimator_checks, name)("MILClassifier", MILClassifier(device="cpu"))


@pytest.mark.parametrize(("estimator", "check"), checks_of(BagsOfRows()))
def test_scikit_learn_finds_nothing_wrong(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], object]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some checks provoke warnings
        check(estimator)


def test_every_check_that_cannot_apply_exists() -> None:
    names = {name_of(check) for _, check in estimator_checks.estimator_checks_generator(BagsOfRows())}
    assert names >= CANNOT_APPLY.keys()
    assert len(names) > 45
