"""MILSurvival takes and returns what scikit-survival's estimators do."""

import pickle
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from support.estimators import QUICK, survival_outcomes
from support.paths import installed

from mil_toolkit import MILSurvival
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.estimator import BagError


def quick(**parameters: Any) -> MILSurvival:
    return MILSurvival(**{**QUICK, **parameters})


@pytest.fixture(scope="module", name="y")
def _outcomes(X: pd.DataFrame) -> np.ndarray:
    return survival_outcomes(X)


@pytest.fixture(scope="module", name="model")
def _model(X: pd.DataFrame, y: np.ndarray) -> MILSurvival:
    return quick(epochs=20).fit(X, y)


def test_its_score_is_that_of_scikit_survival(model: MILSurvival, X: pd.DataFrame, y: np.ndarray) -> None:
    metrics = installed("sksurv.metrics")
    risks = model.predict(X)
    assert risks.shape == (24,) and ((risks > 0) & (risks < 1)).all()
    expected = metrics.concordance_index_censored(y["event"], y["time"], risks)[0]
    assert model.score(X, y) == pytest.approx(expected) and expected > 0.7


def test_a_higher_risk_is_an_earlier_event(model: MILSurvival, X: pd.DataFrame, y: np.ndarray) -> None:
    risks, early = model.predict(X), y["time"] < np.median(y["time"])
    assert risks[early].mean() > risks[~early].mean()
    assert model.spread(X).shape == (24,)
    assert model.horizon_ == np.median(y["time"][y["event"]])


def test_survival_functions_are_steps_at_the_times_of_fit(
    model: MILSurvival, X: pd.DataFrame, y: np.ndarray
) -> None:
    step_function = installed("sksurv.functions").StepFunction
    values = model.predict_survival_function(X, return_array=True)
    assert values.shape == (24, 24) and model.unique_times_.tolist() == sorted(set(y["time"]))
    assert ((values >= 0) & (values <= 1)).all() and (np.diff(values) <= 0).all()
    functions = model.predict_survival_function(X)
    assert functions.shape == (24,) and all(isinstance(function, step_function) for function in functions)
    np.testing.assert_array_equal([function(model.unique_times_) for function in functions], values)
    assert functions[0].domain == (0, y["time"].max())


def test_the_survival_at_the_horizon_is_one_minus_the_risk(X: pd.DataFrame, y: np.ndarray) -> None:
    horizon = float(np.sort(y["time"])[12])
    model = quick(horizon=horizon).fit(X, y)
    survival = model.predict_survival_function(X, return_array=True)
    np.testing.assert_allclose(survival[:, model.unique_times_ == horizon][:, 0], 1 - model.predict(X))
    assert model.horizon_ == horizon


def test_the_brier_score_of_scikit_survival_takes_its_functions(
    model: MILSurvival, X: pd.DataFrame, y: np.ndarray
) -> None:
    metrics = installed("sksurv.metrics")
    times = np.quantile(y["time"], [0.2, 0.4, 0.6])
    survival = np.array([function(times) for function in model.predict_survival_function(X)])
    assert 0 < metrics.integrated_brier_score(y, y, survival, times) < 0.25


def test_without_scikit_survival_values_are_returned(
    model: MILSurvival, X: pd.DataFrame, y: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.predict_survival_function(X, return_array=True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sksurv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sksurv", None)
    np.testing.assert_array_equal(model.predict_survival_function(X), expected)
    assert quick().fit(X, y).score(X, y) > 0


@pytest.mark.parametrize("names", [("cens", "time"), ("dead", "days"), ("f0", "f1")])
def test_fields_may_have_any_name(names: tuple[str, str], X: pd.DataFrame, y: np.ndarray) -> None:
    other = survival_outcomes(X, names)
    model, expected = quick().fit(X, other), quick().fit(X, y)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    assert model.score(X, other) == expected.score(X, y)


@pytest.mark.parametrize("kind", ["f4", "i8", "u2"])
def test_times_may_be_numbers_of_any_type(kind: str, X: pd.DataFrame, y: np.ndarray) -> None:
    whole = np.array(
        list(zip(y["event"], np.ceil(10 * y["time"]), strict=True)), dtype=[("e", "?"), ("t", "f8")]
    )
    other = whole.astype([("e", "?"), ("t", kind)])
    np.testing.assert_array_equal(quick().fit(X, other).predict(X), quick().fit(X, whole).predict(X))


def test_clones_and_pickles_predict_the_same(model: MILSurvival, X: pd.DataFrame, y: np.ndarray) -> None:
    for same in (clone(model).fit(X, y), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(same.predict(X), model.predict(X))


def test_it_works_in_cross_validation_and_search(X: pd.DataFrame, y: np.ndarray) -> None:
    scores = cross_val_score(quick(), X, y, cv=2, error_score="raise")
    assert scores.shape == (2,) and ((scores >= 0) & (scores <= 1)).all()
    grid = {"pooling": ["mean", "attention"]}
    search = GridSearchCV(quick(), grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_["pooling"] in grid["pooling"] and 0 <= search.best_score_ <= 1


def test_the_scorers_of_scikit_survival_take_it(X: pd.DataFrame, y: np.ndarray) -> None:
    metrics = installed("sksurv.metrics")
    times = np.quantile(y["time"], [0.3, 0.5, 0.7])
    for scorer in (metrics.as_concordance_index_ipcw_scorer, metrics.as_integrated_brier_score_scorer):
        options = {} if scorer is metrics.as_concordance_index_ipcw_scorer else {"times": times}
        assert np.isfinite(scorer(quick(), **options).fit(X, y).score(X, y))


@pytest.mark.parametrize("objective", OUTCOME_METRICS["survival"].names)
def test_every_metric_can_choose_the_number_of_epochs(objective: str, X: pd.DataFrame, y: np.ndarray) -> None:
    model = quick(objective=objective).fit(X, y)
    assert 1 <= model.n_epochs_ <= 3 and np.isfinite(model.predict(X)).all()


# Errors.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda y: y["time"], r"Got an array of the type float64 and the shape \(24,\), without fields"),
        (lambda y: pd.DataFrame(y), "Got an object of the type DataFrame"),
        (lambda y: y.tolist(), "Got an object of the type list"),
        (lambda y: y[["time", "event"]], r"the fields 'time' \(float64\), 'event' \(bool\)"),
        (lambda y: y.astype([("event", "i8"), ("time", "f8")]), r"'event' \(int64\)"),
        (lambda y: y.astype([("event", "?"), ("time", "U9")]), r"'time' \(<U9\)"),
        (lambda y: y.astype([("event", "?"), ("time", "O")]), r"'time' \(object\)"),
        (lambda y: y.astype([("event", "?"), ("time", "c16")]), r"'time' \(complex128\)"),
        (lambda y: y[["event"]], r"the fields 'event' \(bool\)$|the fields 'event' \(bool\)\."),
        (lambda y: y[:, None], r"the shape \(24, 1\)"),
    ],
)
def test_anything_but_a_structured_array_is_refused(
    wrong: Any, message: str, X: pd.DataFrame, y: np.ndarray
) -> None:
    with pytest.raises(BagError, match=r"Expected y as scikit-survival takes it.*" + message):
        quick().fit(X, wrong(y))


@pytest.mark.parametrize("time", [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300])
def test_times_that_are_not_above_0_and_finite_are_named(time: float, X: pd.DataFrame, y: np.ndarray) -> None:
    other = y.copy()
    other["time"][[3, 8]] = time
    with pytest.raises(BagError) as caught:
        quick().fit(X, other)
    assert f"Expected times above 0 that are finite in y['time'], got {time} at 3, {time} at 8." in str(
        caught.value
    )


def test_outcomes_without_what_a_risk_needs_are_refused(X: pd.DataFrame, y: np.ndarray) -> None:
    censored = y.copy()
    censored["event"] = False
    with pytest.raises(BagError, match="y has patients who are all censored"):
        quick().fit(X, censored)
    with pytest.raises(BagError, match=r"followed up to .*, before the horizon of 1e.06"):
        quick(horizon=1e6).fit(X, y)
    with pytest.raises(BagError, match="Choose a later horizon"):
        quick(horizon=1e-6).fit(X, y)
    single = y.copy()
    single["event"] = np.arange(24) == 4
    with pytest.raises(BagError, match="the event-by-horizon class has 1 patient, fewer than the 2 folds"):
        quick().fit(X, single)
    with pytest.raises(BagError, match="X holds 24 bags, y 23"):
        quick().fit(X, y[:23])


@pytest.mark.parametrize("horizon", [0, -1, np.nan, np.inf, "5", [5]])
def test_a_horizon_that_is_not_a_time_is_refused(horizon: object, X: pd.DataFrame, y: np.ndarray) -> None:
    with pytest.raises(BagError, match=r"horizon=.* is not a time above 0"):
        quick(horizon=horizon).fit(X, y)


def test_an_attention_for_each_class_is_refused(X: pd.DataFrame, y: np.ndarray) -> None:
    with pytest.raises(BagError, match="attention_heads: classes needs an outcome of several classes"):
        quick(attention_heads="classes").fit(X, y)


def test_a_score_needs_comparable_patients(model: MILSurvival, X: pd.DataFrame, y: np.ndarray) -> None:
    censored = y.copy()
    censored["event"] = False
    with pytest.raises(BagError, match="No two bags can be compared"):
        model.score(X, censored)
    with pytest.raises(BagError, match="X holds 24 bags, y 5"):
        model.score(X, y[:5])


@pytest.mark.parametrize("method", ["predict", "predict_survival_function", "spread"])
def test_prediction_before_fit_is_an_error(method: str, X: pd.DataFrame) -> None:
    with pytest.raises(NotFittedError):
        getattr(MILSurvival(), method)(X)


@pytest.mark.parametrize("name", ["threshold", "sensitivity", "positive", "order", "transform"])
def test_it_has_no_parameters_of_other_outcomes(name: str) -> None:
    with pytest.raises(TypeError, match=f"MILSurvival has no parameter {name}"):
        MILSurvival(**{name: None})
