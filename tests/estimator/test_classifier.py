"""MILClassifier equals the models of mil-tune and mil-fit, and works with the tools of scikit-learn."""

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from support.estimators import QUICK
from support.studies import Tiny

import mil_toolkit
from mil_toolkit import MILClassifier, load_patients
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.predict import predict
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.estimator import BagError
from mil_toolkit.study.tune import tune


@pytest.fixture(name="y")
def _words() -> np.ndarray:
    return np.array(["reactive", "tumoral"] * 12)


def quick(**parameters: Any) -> MILClassifier:
    return MILClassifier(**{**QUICK, **parameters})


# Equal to the commands.


def test_it_equals_the_model_of_a_study_with_one_configuration(tiny: Tiny, tmp_path: Path) -> None:
    """Folds, epochs, calibration, threshold and members are exactly those of mil-tune and mil-fit."""
    cohort = replace(tiny.cohort, stratify=("label",))
    config = StudyConfig(trials=1, folds=2, members=2, outer_folds=0, seed=3, settings={"epochs": (4,)})
    tune(cohort, tiny.cache, tmp_path / "study", config, "cpu")
    bundle = fit(cohort, tiny.cache, tmp_path / "study", tmp_path / "model", "cpu")
    expected = predict(bundle, cohort, tiny.cache)

    X, y = load_patients(cohort.labelled(), tiny.cache)
    model = MILClassifier(folds=2, members=2, epochs=4, seed=3, device="cpu").fit(X, y)
    assert list(model.classes_) == ["reactive", "tumoral"] and model.n_epochs_ == bundle.about.epoch
    assert model.decision_ == bundle.decision
    everyone, _ = load_patients(cohort, tiny.cache)
    np.testing.assert_allclose(model.predict_proba(everyone)[:, 1], expected.table["probability"], rtol=1e-12)
    np.testing.assert_allclose(model.spread(everyone), expected.table["spread"], rtol=1e-12)
    assert list(model.predict(everyone) == "tumoral") == list(expected.table["prediction"] == 1)
    assert expected.attention is not None
    np.testing.assert_array_equal(np.concatenate(model.attention(everyone)), expected.attention["attention"])


def test_a_cohort_becomes_a_table(tiny: Tiny) -> None:
    X, y = load_patients(tiny.cohort, tiny.cache)
    assert list(X.columns) == ["age", "sex", "log lymphocyte_count", "bag"]
    assert tuple(X.index) == tiny.cohort.patient_ids
    assert [label is None for label in y] == list(tiny.cohort.labels < 0)
    for patient, bag in X["bag"].items():
        np.testing.assert_array_equal(bag, tiny.cache.bags([str(patient)]).instances)
    metadata, _ = load_patients(tiny.cohort, None)
    assert list(metadata.columns) == ["age", "sex", "log lymphocyte_count"]


def test_paths_can_be_strings(tiny: Tiny) -> None:
    cohort = mil_toolkit.read_cohort(str(tiny.cohort_toml))
    cache = mil_toolkit.FeatureCache.open(str(tiny.features))
    assert mil_toolkit.ModelBundle.load(str(tiny.bundle)).about.cohort == cohort.name
    done = mil_toolkit.extract(
        cohort,
        mil_toolkit.ExtractionConfig("resnet18", "random", image_size=32),
        str(tiny.features.parents[1]),
        device="cpu",
    )
    assert done.folder == cache.folder and done.extracted == 0


# Tools of scikit-learn.


def test_the_parameters_are_the_fields_of_the_configuration() -> None:
    parameters = MILClassifier().get_params()
    defaults = HeadConfig()
    for field in fields(HeadConfig):
        assert parameters[field.name] == getattr(defaults, field.name)
        assert f"- {field.name}: " in MILClassifier.__doc__
    assert MILClassifier(pooling="mean").get_params()["pooling"] == "mean"
    assert repr(MILClassifier(pooling="mean", members=2)) == "MILClassifier(members=2, pooling='mean')"
    assert is_classifier(MILClassifier())
    with pytest.raises(TypeError, match="no parameter poling"):
        MILClassifier(poling="mean")


def test_clone_and_set_params_keep_the_parameters(X: pd.DataFrame, y: np.ndarray) -> None:
    model = quick(pooling="mean").fit(X, y)
    other = clone(model)
    assert other.get_params() == model.get_params() and not hasattr(other, "head_")
    assert MILClassifier().set_params(**model.get_params()).get_params() == model.get_params()
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(poling="mean")


def test_equal_seeds_give_equal_models_in_clones_and_pickles(X: pd.DataFrame, y: np.ndarray) -> None:
    model = quick().fit(X, y)
    expected = model.predict_proba(X)
    assert expected.shape == (24, 2) and np.allclose(expected.sum(1), 1)
    for same in (clone(model).fit(X, y), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(same.predict_proba(X), expected)
    assert not np.array_equal(quick(seed=1).fit(X, y).predict_proba(X), expected)
    np.testing.assert_allclose(model.predict_proba(X.iloc[::-1])[::-1], expected, rtol=1e-5)


def test_it_works_in_cross_validation_search_and_pipelines(X: pd.DataFrame, y: np.ndarray) -> None:
    scores = cross_val_score(quick(), X, y, cv=3, scoring="roc_auc")
    assert scores.shape == (3,) and np.isfinite(scores).all()
    search = GridSearchCV(quick(), {"pooling": ["mean", "max"]}, cv=2, scoring="balanced_accuracy").fit(X, y)
    assert search.best_params_["pooling"] in ("mean", "max") and search.predict(X).shape == (24,)
    without_age = FunctionTransformer(lambda table: table.drop(columns="age"))
    pipeline = make_pipeline(without_age, quick()).fit(X, y)
    assert list(pipeline[-1].feature_names_in_) == ["sex", "bag"]
    predicted = cross_val_predict(pipeline, X, y, cv=2, method="predict_proba")
    assert predicted.shape == (24, 2)
    parts = train_test_split(X, y, stratify=y, random_state=0)
    assert 0 <= quick().fit(parts[0], parts[2]).score(parts[1], parts[3]) <= 1


def test_plain_lists_of_bags_need_no_metadata(X: pd.DataFrame, y: np.ndarray) -> None:
    bags = list(X["bag"])
    model = quick().fit(bags, y)
    assert model.n_features_in_ == 16 and not hasattr(model, "feature_names_in_")
    np.testing.assert_array_equal(model.predict_proba(bags), model.predict_proba(X[["bag"]]))
    assert cross_val_score(quick(), bags, y, cv=2).shape == (2,)
    equal = np.stack([bag[:1] for bag in bags])  # (B, 1, D)
    assert quick().fit(equal, y).predict(equal).shape == (24,)


def test_a_table_without_bags_is_metadata_only(X: pd.DataFrame, y: np.ndarray) -> None:
    model = quick().fit(X[["age", "sex"]], y)
    assert model.n_features_in_ == 2
    with pytest.raises(BagError, match="there is no attention"):
        model.attention(X[["age", "sex"]])


@pytest.mark.parametrize(
    ("groups", "held"), [([1, 2], "2 values"), ([[1] * 24], "an array (1, 24)"), (np.arange(25), "25 values")]
)
def test_groups_of_another_length_are_an_error(
    X: pd.DataFrame, y: np.ndarray, groups: Any, held: str
) -> None:
    with pytest.raises(BagError, match=re.escape(f"groups holds {held}, X 24 bags.")):
        quick().fit(X, y, groups=groups)


def test_groups_stay_in_one_inner_fold(
    X: pd.DataFrame, y: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mil_toolkit.estimator import base

    splits: list[Any] = []
    make_splits = base.make_splits
    monkeypatch.setattr(
        base,
        "make_splits",
        lambda *args, **options: splits.append(make_splits(*args, **options)) or splits[-1],
    )
    groups = np.arange(24) // 4
    quick().fit(X, y, groups=groups)
    for split in splits[0][0]:
        assert not set(groups[split.train]) & set(groups[split.test])
    assert cross_val_score(quick(), X, y, groups=groups, cv=GroupKFold(2)).shape == (2,)


def test_the_positive_class_can_be_the_first_one(X: pd.DataFrame, y: np.ndarray) -> None:
    usual = quick().fit(X, y)
    swapped = np.where(y == "tumoral", "A", "B")  # now the positive class is sorted first
    other = quick(positive="A").fit(X, swapped)
    assert list(other.classes_) == ["A", "B"]
    np.testing.assert_array_equal(other.predict_proba(X), usual.predict_proba(X)[:, ::-1])
    np.testing.assert_array_equal(other.predict(X) == "A", usual.predict(X) == "tumoral")


def test_attention_sums_to_one_within_each_bag(X: pd.DataFrame, y: np.ndarray) -> None:
    attention = quick().fit(X, y).attention(X)
    assert [len(shares) for shares in attention] == [len(bag) for bag in X["bag"]]
    np.testing.assert_allclose([shares.sum() for shares in attention], 1, rtol=1e-5)


def test_the_given_data_are_not_modified(X: pd.DataFrame, y: np.ndarray) -> None:
    before = X.copy(deep=True)
    quick().fit(X, y).predict(X)
    pd.testing.assert_frame_equal(X.drop(columns="bag"), before.drop(columns="bag"))
    assert all(np.array_equal(one, other) for one, other in zip(X["bag"], before["bag"], strict=True))


@pytest.mark.parametrize("kind", ["category", "string", "object", "bool", "Int64"])
def test_metadata_can_have_any_dtype_of_pandas(kind: str, X: pd.DataFrame, y: np.ndarray) -> None:
    sexes = X["sex"] == "F"
    column = {"bool": sexes, "Int64": sexes.astype("Int64")}.get(
        kind, X["sex"].astype(kind) if kind[0] in "cso" else None
    )
    model = quick().fit(X.assign(sex=column), y)
    assert np.isfinite(model.predict_proba(X.assign(sex=column))).all()


# Errors.


@pytest.mark.parametrize("method", ["predict", "predict_proba", "attention", "spread"])
def test_prediction_before_fit_is_an_error(method: str, X: pd.DataFrame) -> None:
    with pytest.raises(NotFittedError):
        getattr(MILClassifier(), method)(X)


def test_every_invalid_parameter_is_named(X: pd.DataFrame, y: np.ndarray) -> None:
    wrong = {"pooling": "median", "members": 0, "objective": "f1", "threshold": "best", "learning_rate": -1.0}
    with pytest.raises(BagError) as caught:
        quick(**wrong).fit(X, y)
    for name in wrong:
        assert name in str(caught.value)
    with pytest.raises(BagError, match="features='a': there is one view"):
        quick(features="a").fit(X, y)
    with pytest.raises(BagError, match="standardise='group': predict is given no groups"):
        quick(standardise="group").fit(X, y, groups=np.repeat(["a", "b"], 12))
    with pytest.raises(BagError, match="seed=None is not an integer"):
        quick(seed=None).fit(X, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X.iloc[:5], "X holds 5 bags, y 24"),
        (lambda X: X.iloc[:0], "X holds 0 bags"),
        (lambda X: np.zeros((24, 3)), r"got other shapes: \(3,\) at 0.* and 19 more"),
        (lambda X: [*X["bag"][:23], np.zeros((0, 16))], r"got other shapes: \(0, 16\) at 23"),
        (lambda X: [*X["bag"][:23], np.zeros((2, 9))], "with the same width D, got the widths 9, 16"),
        (lambda X: [*X["bag"][:23], np.full((2, 16), np.nan)], "other values in the bags at 23"),
        (lambda X: [*X["bag"][:23], np.full((2, 16), "a")], "other values in the bags at 23"),
        (lambda X: X.assign(age=np.inf, born=pd.Timestamp("2020-01-01")), "infinite at 0.*\n.*holds dates"),
    ],
)
def test_data_that_are_not_bags_are_refused(
    change: Callable[[pd.DataFrame], Any], message: str, X: pd.DataFrame, y: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=message):
        quick().fit(change(X), y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 24, r"labels of two classes or more; y holds 'a' \(1 class"),
        ([*range(24)], "the class with another"),
        ([place + 0.5 for place in range(24)], "Unknown label type: continuous"),
        ([*range(101)], r"at most 100 classes; y holds 0, .*, 8 and others \(101 classes"),
        ([None, "a"] * 12, "no label at 0, 2, 4, 6, 8 and 7 more"),
        (["a"] * 23 + ["b"], "the positive class has 1 patient,"),
    ],
)
def test_unusable_labels_are_refused(labels: list[Any], message: str, X: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=message):
        quick().fit(X, np.array(labels, dtype=object))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X.drop(columns="age"), "X has no column 'age', which fit saw"),
        (lambda X: X.assign(more=1), "X has a column 'more', which fit did not see"),
        (
            lambda X: X.assign(bag=[bag[:, :9] for bag in X["bag"]]),
            "9 features, but MILClassifier is expecting 16",
        ),
        (lambda X: X.drop(columns="bag"), "2 features, but MILClassifier is expecting 16"),
    ],
)
def test_columns_that_differ_from_those_of_fit_are_refused(
    change: Callable[[pd.DataFrame], Any], message: str, X: pd.DataFrame, y: np.ndarray
) -> None:
    model = quick().fit(X, y)
    with pytest.raises(ValueError, match=message):
        model.predict(change(X))


@pytest.mark.parametrize("word", ["f", "F ", " F", "\uff26"])
def test_a_word_in_another_spelling_is_refused(word: str, X: pd.DataFrame, y: np.ndarray) -> None:
    model = quick().fit(X, y)
    count = int((X["sex"] == "F").sum())
    with pytest.raises(BagError, match=re.escape(f"'sex' holds {word!r} in {count} rows; fit saw 'F'.")):
        model.predict_proba(X.assign(sex=X["sex"].replace("F", word)))


def test_words_that_fit_never_saw_are_counted_in_a_warning(
    X: pd.DataFrame, y: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    model = quick().fit(X, y)
    model.predict(X)
    assert not caplog.records
    model.predict_proba(X.assign(sex=["X"] * 5 + ["F"] * 19))
    (record,) = caplog.records
    assert record.getMessage() == (
        "sex: 5 of 24 patients have a word that training never saw and that counts as missing: 'X' (5)."
        " Training saw 'F', 'M'."
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda X: X.assign(sex=(X["sex"] == "F") * 1),
            "'sex' holds numbers such as .*; fit saw words: 'F', 'M'",
        ),
        (lambda X: X.assign(sex=X["sex"] == "F"), "'sex' holds numbers such as .*; fit saw words: 'F', 'M'"),
        (lambda X: X.assign(age="50"), "'age' holds words such as '50'; fit saw numbers"),
        (lambda X: X.rename(columns={"age": "sex"}), "several columns of the same name: 'sex', 'sex'"),
        (lambda X: X.assign(age=1e39), "'age' is beyond the range of float32 at 0, 1, 2, 3, 4 and 19 more"),
        (lambda X: X.assign(age=X["age"] + 1j), "'age' holds complex numbers"),
    ],
)
def test_columns_of_another_kind_than_those_of_fit_are_refused(
    change: Callable[[pd.DataFrame], Any], message: str, X: pd.DataFrame, y: np.ndarray
) -> None:
    with pytest.raises(BagError, match=message):
        quick().fit(X, y).predict(change(X))


@pytest.mark.parametrize("labels", [[0, "tumoral"] * 12, ["0", 1] * 12, [True, "True"] * 12, ["a", 1.5] * 12])
def test_labels_of_numbers_and_words_are_refused(labels: list[Any], X: pd.DataFrame) -> None:
    for y in (labels, np.array(labels, dtype=object), pd.Series(labels, dtype=object)):
        with pytest.raises(BagError, match="Expected labels of one kind; y holds numbers and words: "):
            quick().fit(X, y)


def test_tensors_in_bfloat16_equal_the_same_numbers_in_float32(X: pd.DataFrame, y: np.ndarray) -> None:
    rounded = [torch.tensor(bag).bfloat16() for bag in X["bag"]]
    model = quick().fit(rounded, y)
    exact = [bag.float().numpy() for bag in rounded]
    np.testing.assert_array_equal(model.predict_proba(rounded), quick().fit(exact, y).predict_proba(exact))


# The names of the package.


def test_importing_the_package_loads_nothing_heavy_and_offers_its_names() -> None:
    script = """
import sys, mil_toolkit
assert not {"torch", "numpy", "pandas", "sklearn"} & set(sys.modules)
assert set(mil_toolkit.__all__) <= set(dir(mil_toolkit))
for name in mil_toolkit.__all__:
    assert getattr(mil_toolkit, name).__doc__, name
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mil_toolkit.nonsense  # noqa: B018
