"""MILClassifier of three classes, with and without an order."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from support.estimators import QUICK, signal

from mil_toolkit import MILClassifier
from mil_toolkit.estimator import BagError
from mil_toolkit.evaluation.class_calibration import ClassDecision
from mil_toolkit.outcomes.ordered import OrderedDecision

GRADES = ("high", "low", "mid")  # sorted, as in classes_
ORDER = ["low", "mid", "high"]


def quick(**parameters: Any) -> MILClassifier:
    return MILClassifier(**{**QUICK, **parameters})


@pytest.fixture(scope="module", name="y")
def _grades(X: pd.DataFrame) -> np.ndarray:
    """Eight patients of each grade, which rises with the embeddings and with age."""
    grades = np.empty(len(X), dtype=object)
    grades[np.argsort(signal(X))] = np.repeat(ORDER, 8)
    return grades


@pytest.fixture(scope="module", name="model")
def _model(X: pd.DataFrame, y: np.ndarray) -> MILClassifier:
    return quick(epochs=20).fit(X, y)


@pytest.fixture(scope="module", name="ordered")
def _ordered(X: pd.DataFrame, y: np.ndarray) -> MILClassifier:
    return quick(epochs=20, order=ORDER).fit(X, y)


def test_the_columns_are_the_sorted_classes(model: MILClassifier, X: pd.DataFrame, y: np.ndarray) -> None:
    assert tuple(model.classes_) == GRADES
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (24, 3) and np.allclose(probabilities.sum(1), 1)
    assert (model.predict(X) == y).mean() > 0.7
    for place, grade in enumerate(GRADES):
        assert probabilities[y == grade, place].mean() > probabilities[y != grade, place].mean()
    assert model.spread(X).shape == (24, 3) and (model.spread(X) > 0).any()
    assert isinstance(model.decision_, ClassDecision) and model.decision_.names == GRADES


def test_each_class_may_have_its_own_attention(X: pd.DataFrame, y: np.ndarray) -> None:
    attention = quick(attention_heads="classes").fit(X, y).attention(X)
    assert [weights.shape for weights in attention] == [(len(bag), 3) for bag in X["bag"]]
    assert all(np.allclose(weights.sum(0), 1) for weights in attention)


def test_the_decision_is_the_largest_multiple_of_the_share(X: pd.DataFrame, y: np.ndarray) -> None:
    few = np.r_[np.flatnonzero(y == "high")[:3], np.flatnonzero(y != "high")]
    model = quick().fit(X.take(few), y[few])
    shares = np.array([(y[few] == grade).mean() for grade in GRADES])
    assert isinstance(model.decision_, ClassDecision)
    assert model.decision_.priors == pytest.approx(shares)
    expected = np.array(GRADES)[(model.predict_proba(X) / shares).argmax(1)]
    assert list(model.predict(X)) == list(expected)


def test_an_order_gives_another_model_with_the_same_columns(
    ordered: MILClassifier, model: MILClassifier, X: pd.DataFrame, y: np.ndarray
) -> None:
    assert isinstance(ordered.decision_, OrderedDecision) and ordered.decision_.names == tuple(ORDER)
    assert tuple(ordered.classes_) == GRADES
    probabilities = ordered.predict_proba(X)
    assert np.allclose(probabilities.sum(1), 1)
    assert not np.allclose(probabilities, model.predict_proba(X))
    expected = np.array([ORDER.index(grade) for grade in y])
    predicted = np.array([ORDER.index(grade) for grade in ordered.predict(X)])
    assert np.corrcoef(expected, predicted)[0, 1] > 0.3
    assert probabilities[y == "high", 0].mean() > probabilities[y == "low", 0].mean()
    assert probabilities[y == "low", 1].mean() > probabilities[y == "high", 1].mean()
    assert ordered.spread(X).shape == (24, 3)


def test_the_same_grades_under_other_names_give_the_same_ordered_model(
    ordered: MILClassifier, X: pd.DataFrame, y: np.ndarray
) -> None:
    numbers = np.array([ORDER.index(grade) for grade in y])
    other = quick(epochs=20, order=[0, 1, 2]).fit(X, numbers)
    np.testing.assert_array_equal(other.predict_proba(X), ordered.predict_proba(X)[:, [1, 2, 0]])
    np.testing.assert_array_equal(other.spread(X), ordered.spread(X)[:, [1, 2, 0]])
    assert [ORDER[number] for number in other.predict(X)] == list(ordered.predict(X))


def test_clones_and_pickles_predict_the_same(
    ordered: MILClassifier, model: MILClassifier, X: pd.DataFrame, y: np.ndarray
) -> None:
    for fitted in (model, ordered):
        expected = fitted.predict_proba(X)
        for same in (clone(fitted).fit(X, y), pickle.loads(pickle.dumps(fitted))):
            np.testing.assert_array_equal(same.predict_proba(X), expected)


def test_it_works_in_cross_validation_and_search(X: pd.DataFrame, y: np.ndarray) -> None:
    assert np.isfinite(cross_val_score(quick(), X, y, cv=2, scoring="roc_auc_ovr")).all()
    grid = {"order": [None, ORDER]}
    search = GridSearchCV(quick(), grid, cv=2, scoring="balanced_accuracy", error_score="raise").fit(X, y)
    assert search.best_params_["order"] in (None, ORDER)
    assert cross_val_predict(quick(), X, y, cv=2, method="predict_proba").shape == (24, 3)


def test_labels_of_any_type_are_classes(X: pd.DataFrame, y: np.ndarray) -> None:
    numbers = np.array([GRADES.index(grade) for grade in y])
    expected = quick().fit(X, y).predict_proba(X)
    for labels in (numbers, numbers.astype(float), pd.Series(numbers, dtype="Int64"), list(numbers)):
        model = quick().fit(X, labels)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
        assert set(model.predict(X)) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"positive": "high"}, "positive='high' needs labels of two classes, one of them positive; y holds"),
        ({"sensitivity": 0.9}, "^sensitivity needs an outcome of two classes"),
        ({"threshold": "half"}, "^threshold needs an outcome of two classes"),
        ({"pooling": "clam"}, "^pooling: clam needs an outcome of two classes"),
        ({"objective": "auc"}, "objective='auc' is not one of balanced_log_loss"),
        ({"objective": "rank_error"}, "objective='rank_error' is not one of balanced_log_loss"),
        ({"order": 3}, "order=3 is not a list of all classes"),
        ({"order": "low"}, "order='low' is not a list of all classes"),
        ({"order": ["low", "mid"]}, "must list each class once, lowest first; y holds 'high', 'low', 'mid'"),
        ({"order": ["low", "mid", "top"]}, "must list each class once"),
        ({"order": [*ORDER, "low"]}, "must list each class once"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    parameters: dict[str, Any], message: str, X: pd.DataFrame, y: np.ndarray
) -> None:
    with pytest.raises(BagError, match=message):
        quick(**parameters).fit(X, y)


def test_all_parameters_that_do_not_fit_are_named_at_once(X: pd.DataFrame, y: np.ndarray) -> None:
    with pytest.raises(BagError) as caught:
        quick(threshold="half", objective="auc", pooling="dsmil").fit(X, y)
    for name in ("threshold", "objective", "pooling"):
        assert name in str(caught.value)


@pytest.mark.parametrize("is_ordered", [False, True])
def test_an_attention_for_each_class_needs_several_classes_without_an_order(
    is_ordered: bool, X: pd.DataFrame, y: np.ndarray
) -> None:
    labels, order = (y, ORDER) if is_ordered else (np.where(y == "mid", "low", y), None)
    with pytest.raises(
        BagError, match="attention_heads: classes needs an outcome of several classes without"
    ):
        quick(attention_heads="classes", order=order).fit(X, labels)


def test_an_order_of_two_classes_is_refused(X: pd.DataFrame) -> None:
    with pytest.raises(BagError, match="needs labels of 3 classes or more; y holds 'a', 'b'"):
        quick(order=["a", "b"]).fit(X, ["a", "b"] * 12)


def test_a_class_of_fewer_bags_than_folds_is_named(X: pd.DataFrame, y: np.ndarray) -> None:
    labels = np.where(np.arange(24) == np.flatnonzero(y == "mid")[0], "rare", y)
    with pytest.raises(BagError, match="the rare class has 1 patient, fewer than the 2 folds"):
        quick().fit(X, labels)
