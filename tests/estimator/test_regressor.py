"""MILRegressor predicts numbers in their unit, and works with the tools of scikit-learn."""

import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from support.estimators import QUICK, signal

from mil_toolkit import MILRegressor
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.estimator import BagError


def quick(**parameters: Any) -> MILRegressor:
    return MILRegressor(**{**QUICK, **parameters})


@pytest.fixture(scope="module", name="y")
def _numbers(X: pd.DataFrame) -> np.ndarray:
    return 100 + 20 * signal(X)


@pytest.fixture(scope="module", name="model")
def _model(X: pd.DataFrame, y: np.ndarray) -> MILRegressor:
    return quick(epochs=20).fit(X, y)


def test_its_score_is_the_coefficient_of_determination(
    model: MILRegressor, X: pd.DataFrame, y: np.ndarray
) -> None:
    predicted = model.predict(X)
    assert predicted.shape == (24,) and predicted.dtype == float
    assert model.score(X, y) == pytest.approx(r2_score(y, predicted)) and model.score(X, y) > 0.6
    assert is_regressor(model) and not hasattr(model, "classes_")
    assert model.spread(X).shape == (24,) and (model.spread(X) > 0).all()
    assert [len(shares) for shares in model.attention(X)] == [len(bag) for bag in X["bag"]]


def test_predictions_follow_a_change_of_unit(model: MILRegressor, X: pd.DataFrame, y: np.ndarray) -> None:
    """Standardised targets are the same in any unit, so that the same model is learned."""
    other = quick(epochs=20).fit(X, y / 1000 + 7)
    np.testing.assert_allclose(other.predict(X), model.predict(X) / 1000 + 7, rtol=1e-4)


def test_a_logarithm_is_that_of_the_numbers(X: pd.DataFrame) -> None:
    y = np.exp(signal(X))
    logarithm = quick(transform="log").fit(X, y)
    outer = TransformedTargetRegressor(quick(), func=np.log, inverse_func=np.exp, check_inverse=False)
    # Both choose the epoch by the absolute error, but of different numbers.
    expected = outer.set_params(regressor__epochs=logarithm.n_epochs_, regressor__patience=99).fit(X, y)
    if expected.regressor_.n_epochs_ == logarithm.n_epochs_:
        np.testing.assert_allclose(logarithm.predict(X), expected.predict(X), rtol=1e-6)
    assert (logarithm.predict(X) > 0).all()
    with pytest.raises(
        BagError, match=r"numbers above 0 in y, whose logarithm is taken, got 0.0 at 3, -2.0 at 5"
    ):
        quick(transform="log").fit(X, np.where(np.arange(24) == 3, 0, np.where(np.arange(24) == 5, -2, y)))
    with pytest.raises(BagError, match="transform='sqrt' is neither None nor 'log'"):
        quick(transform="sqrt").fit(X, y)


def test_clones_and_pickles_predict_the_same(model: MILRegressor, X: pd.DataFrame, y: np.ndarray) -> None:
    for same in (clone(model).fit(X, y), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(same.predict(X), model.predict(X))
    assert clone(model).get_params() == model.get_params()


def test_it_works_in_cross_validation_and_search(X: pd.DataFrame, y: np.ndarray) -> None:
    scores = cross_val_score(quick(), X, y, cv=2, scoring="neg_mean_absolute_error", error_score="raise")
    assert scores.shape == (2,) and (scores < 0).all()
    grid = {"objective": ["mae", "rmse"]}
    search = GridSearchCV(quick(), grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_["objective"] in grid["objective"]
    groups = np.arange(24) // 4
    assert cross_val_score(quick(), X, y, groups=groups, cv=GroupKFold(2)).shape == (2,)
    assert quick().fit(X, y, groups=groups).predict(X).shape == (24,)


def test_metadata_alone_and_bags_alone_are_enough(X: pd.DataFrame, y: np.ndarray) -> None:
    assert quick().fit(X[["age", "sex"]], y).predict(X[["age", "sex"]]).shape == (24,)
    assert quick().fit(list(X["bag"]), y).predict(list(X["bag"])).shape == (24,)


@pytest.mark.parametrize("kind", ["int", "float32", "Int64", "object", "list", "decimal places"])
def test_numbers_of_any_type_are_numbers(kind: str, X: pd.DataFrame) -> None:
    whole = np.arange(24) * 3 % 17
    values: dict[str, Any] = {
        "list": whole.tolist(),
        "Int64": pd.Series(whole, dtype="Int64"),
        "decimal places": pd.DataFrame({"y": whole.astype(float)}),
    }
    y = values[kind] if kind in values else whole.astype(kind)
    expected = quick().fit(X, whole.astype(float)).predict(X)
    np.testing.assert_array_equal(quick().fit(X, y).predict(X), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.nan, "got other values: nan at 5"),
        (np.inf, "got other values: inf at 5"),
        (-np.inf, "got other values: -inf at 5"),
        (None, "got other values: None at 5"),
        (pd.NA, "got other values: <NA> at 5"),
        ("high", "got other values: 'high' at 5"),
        ("1.5", r"got other values: '1\.5' at 5"),
        (1e300, r"got other values: 1e\+300 at 5"),
        (10**400, "got other values: 1000"),
        (2j, "got other values: 2j at 5"),
        (Decimal("NaN"), r"got other values: Decimal\('NaN'\) at 5"),
        (np.float32("nan"), "got other values: nan at 5"),
        (pd.Timestamp("2020-01-01"), r"got other values: Timestamp\('2020-01-01 00:00:00'\) at 5"),
    ],
)
def test_other_values_than_finite_numbers_are_named_with_their_place(
    wrong: object, message: str, X: pd.DataFrame, y: np.ndarray
) -> None:
    values: list[object] = y.tolist()
    values[5] = wrong
    with pytest.raises(BagError, match="Expected finite numbers in the range of float32 in y, " + message):
        quick().fit(X, np.array([*values, 0], dtype=object)[:-1])


def test_equal_numbers_and_too_few_are_refused(X: pd.DataFrame) -> None:
    with pytest.raises(BagError, match="y has patients whose target is always 7"):
        quick().fit(X, [7] * 24)
    with pytest.raises(BagError, match="fit needs more than one bag, but n_samples = 1"):
        quick().fit(X.iloc[:1], [7.0])
    with pytest.raises(BagError, match="the cohort has 3 patients, fewer than the 4 folds"):
        quick(folds=4).fit(X.iloc[:3], [7.0, 8.0, 9.0])
    with pytest.raises(BagError, match="X holds 24 bags, y 23"):
        quick().fit(X, np.arange(23))
    with pytest.raises(ValueError, match=r"\(24, 2\)"):
        quick().fit(X, np.ones((24, 2)))


@pytest.mark.parametrize("objective", OUTCOME_METRICS["number"].names)
def test_every_metric_can_choose_the_number_of_epochs(objective: str, X: pd.DataFrame, y: np.ndarray) -> None:
    model = quick(objective=objective).fit(X, y)
    assert 1 <= model.n_epochs_ <= 3 and np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"objective": "auc"}, "objective='auc' is not one of mae, rmse"),
        ({"objective": "balanced_log_loss"}, "objective='balanced_log_loss' is not one of mae"),
        ({"pooling": "dsmil"}, "pooling: dsmil needs an outcome of two classes"),
        ({"attention_heads": "classes"}, "attention_heads: classes needs an outcome of several classes"),
        ({"members": 0}, "members must be at least 1, not 0"),
        ({"folds": 2.5}, "folds=2.5 is not an integer"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    parameters: dict[str, Any], message: str, X: pd.DataFrame, y: np.ndarray
) -> None:
    with pytest.raises(BagError, match=message):
        quick(**parameters).fit(X, y)


@pytest.mark.parametrize("name", ["threshold", "sensitivity", "positive", "order", "horizon"])
def test_it_has_no_parameters_of_other_outcomes(name: str) -> None:
    with pytest.raises(TypeError, match=f"MILRegressor has no parameter {name}"):
        MILRegressor(**{name: None})


@pytest.mark.parametrize("method", ["predict", "spread", "attention"])
def test_prediction_before_fit_is_an_error(method: str, X: pd.DataFrame) -> None:
    with pytest.raises(NotFittedError):
        getattr(MILRegressor(), method)(X)


def test_a_fit_that_fails_is_no_fit(X: pd.DataFrame, y: np.ndarray) -> None:
    model = quick(objective="auc")
    with pytest.raises(BagError):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)
