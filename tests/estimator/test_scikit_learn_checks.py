"""scikit-learn's own checks of classifiers and regressors, where they want arrays on bags of one row.

`check_estimator` passes over an estimator whose tags say that it takes no arrays (n, D). So all checks run on
`BagsOfRows`, which takes such an array as n bags of one embedding, and those without data on the estimators.
"""

import warnings
from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_regressor
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from mil_toolkit import MILClassifier, MILRegressor, MILSurvival
from mil_toolkit.estimator.base import MILEstimator

pytest.importorskip("sklearn", minversion="1.6")  # the first version with checks by tags

CANNOT_APPLY = {"check_array_api_input": "the estimators compute in torch; they take arrays of numpy only"}
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


class BagsOfRows(BaseEstimator):  # type: ignore[misc]
    """A small estimator whose bags are the rows of an array (n, D)."""

    of: ClassVar[type[MILEstimator]]

    def __init__(self, folds: int = 2, members: int = 1, epochs: int = 3, components: int = 0, seed: int = 0):
        self.folds = folds
        self.members = members
        self.epochs = epochs
        self.components = components
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        from sklearn.utils.validation import validate_data

        rows, outcomes = validate_data(self, X, y, y_numeric=is_regressor(self))
        self.model_ = self.of(device="cpu", hidden=32, **self.get_params()).fit(rows[:, None], outcomes)
        self.n_iter_ = self.model_.n_epochs_
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        bags = self._bags(X)
        return self.model_.predict(bags)

    def _bags(self, X: ArrayLike) -> np.ndarray:
        from sklearn.utils.validation import validate_data

        check_is_fitted(self)
        return validate_data(self, X, reset=False)[:, None]


class ClassifierOfRows(ClassifierMixin, BagsOfRows):  # type: ignore[misc]
    of = MILClassifier

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        super().fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        bags = self._bags(X)
        return self.model_.predict_proba(bags)


class RegressorOfRows(RegressorMixin, BagsOfRows):  # type: ignore[misc]
    of = MILRegressor


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


@pytest.mark.parametrize("estimator", [MILClassifier, MILRegressor, MILSurvival])
@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_scikit_learn_finds_nothing_wrong_with_the_parameters(
    name: str, estimator: type[MILEstimator]
) -> None:
    getattr(estimator_checks, name)(estimator.__name__, estimator(device="cpu"))


@pytest.mark.parametrize(
    ("estimator", "check"), [*checks_of(ClassifierOfRows()), *checks_of(RegressorOfRows())]
)
def test_scikit_learn_finds_nothing_wrong(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], object]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some checks provoke warnings
        check(estimator)


def test_every_check_that_cannot_apply_exists() -> None:
    for estimator in (ClassifierOfRows(), RegressorOfRows()):
        names = {name_of(check) for _, check in estimator_checks.estimator_checks_generator(estimator)}
        assert names >= CANNOT_APPLY.keys()
        assert len(names) > 45
