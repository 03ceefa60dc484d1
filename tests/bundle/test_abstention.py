"""Sets of new patients: from the study's held-out predictions, and what is said about them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.bundles import ABOUT
from support.studies import Tiny

from mil_toolkit.bundle.abstention import notes, set_columns, training_note
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.predict import predict
from mil_toolkit.bundle.records import About
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.evaluation.conformal import HeldOutScores
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.kinds import OutcomeRecord
from mil_toolkit.study.abstention import Calibration, calibrate, coverage
from mil_toolkit.study.folder import Study
from mil_toolkit.study.tables import publish_table, read_predictions


def sets_of(about: About, values: np.ndarray, alpha: float) -> list[str]:
    """Return the column `set`."""
    return list(set_columns(about, values, alpha)["set"])


def evenly(count: int) -> HeldOutScores:
    """Return scores from 0 to 1 of so many patients."""
    return HeldOutScores.of(np.linspace(0, 1, count), np.arange(count))


def test_two_classes_are_called_positive_negative_or_either() -> None:
    about = replace(ABOUT, calibration=Calibration("outer", [evenly(101), evenly(101)]))
    values = np.array([0.05, 0.5, 0.97])
    assert sets_of(about, values, 0.1) == ["negative", "either", "positive"]


def test_several_classes_are_named() -> None:
    outcome = OutcomeRecord("classes", {"label": "d", "classes": ["a", "b", "c"]})
    calibration = Calibration("outer", [evenly(101)] * 3)
    about = replace(
        ABOUT, outcome=outcome, class_names=("a", "b", "c"), class_counts=(4, 4, 4), calibration=calibration
    )
    values = np.array([[0.9, 0.06, 0.04], [0.4, 0.55, 0.05]])
    assert sets_of(about, values, 0.1) == ["a", "a | b"]


def of_number(transform: str | None, scores: HeldOutScores) -> About:
    """Return the description of a model of a number with these scores of held-out patients."""
    declared = {"target": "blasts"} | ({"transform": transform} if transform else {})
    calibration = Calibration("outer", [scores])
    outcome = OutcomeRecord("number", declared)
    return replace(ABOUT, outcome=outcome, class_names=(), class_counts=(), calibration=calibration)


@pytest.mark.parametrize(
    ("transform", "expected", "least"),
    [(None, [-1.0, 3.0], -np.inf), ("log", [np.exp(-2), np.exp(2)], 0.0)],
)
def test_a_number_has_an_interval(
    transform: str | None, expected: list[float], least: float, tmp_path: Path
) -> None:
    about = of_number(transform, HeldOutScores.of(np.full(99, 2.0), np.arange(99)))
    columns = set_columns(about, np.array([1.0]), 0.1)
    assert list(columns) == ["set_low", "set_high"]
    np.testing.assert_allclose(np.concatenate([*columns.values()]), expected)
    few = of_number(transform, evenly(5))
    infinite = set_columns(few, np.array([1.0]), 0.1)
    assert np.concatenate([*infinite.values()]).tolist() == [least, np.inf]
    assert any("infinite" in line for line in notes(few, 0.1))
    for place, ends in enumerate((columns, infinite)):  # a minus sign does not turn a number into text
        path = tmp_path / f"{place}.csv"
        publish_table(path, pd.DataFrame({"patient_id": ["P"]} | ends))
        assert "'" not in path.read_text()
        pd.testing.assert_frame_equal(pd.read_csv(path)[list(ends)], pd.DataFrame(ends))


def test_a_class_with_too_few_patients_is_in_every_set_and_named_once() -> None:
    about = replace(ABOUT, calibration=Calibration("inner", [evenly(5), evenly(101)]))
    assert sets_of(about, np.array([0.001, 0.999]), 0.1) == ["negative", "either"]
    first, second = notes(about, 0.1)
    assert "inner folds, which also chose" in first
    assert second.startswith("Every set contains negative") and "5 independent" in second


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(UsageError, match=r"an older version wrote it. Fit the model again with mil-fit\."):
        sets_of(ABOUT, np.array([0.5]), 0.1)
    with pytest.raises(UsageError, match=r"it is anonymous.*without --anonymous\."):
        sets_of(replace(ABOUT, fitted_on="anonymous"), np.array([0.5]), 0.1)
    with pytest.raises(UsageError, match=r"backbone was fine-tuned\. Leave --abstain out\."):
        sets_of(replace(ABOUT, finetuned=FinetuneConfig("layer4")), np.array([0.5]), 0.1)
    for alpha in (0.0, 1.0, 1 - 1e-12, -1.0, float("nan")):
        with pytest.raises(UsageError, match=r"above 0 and at most 0\.99"):
            sets_of(ABOUT, np.array([0.5]), alpha)
    outcome = OutcomeRecord("survival", {"time": "t", "event": "e"})
    survival = replace(ABOUT, outcome=outcome, class_names=(), class_counts=())
    with pytest.raises(UsageError, match="survival"):
        sets_of(survival, np.array([0.5]), 0.1)


def test_the_largest_rate_has_finite_intervals_of_any_patients() -> None:
    ends = set_columns(of_number(None, evenly(3)), np.array([1.0]), 0.99)
    assert np.isfinite(np.concatenate([*ends.values()])).all()
    few = set_columns(of_number(None, evenly(0)), np.array([1.0]), 0.99)
    assert np.isinf(np.concatenate([*few.values()])).all()


def test_training_patients_are_counted_where_there_are_any() -> None:
    assert training_note(0) is None
    assert "The sets of 2 training patients are not valid" in str(training_note(2))


def test_the_bundle_stores_the_outer_predictions_of_its_study(tiny: Tiny) -> None:
    study, bundle = Study.open(tiny.study), ModelBundle.load(tiny.bundle)
    table = read_predictions(study.final.predictions)
    stored = bundle.about.calibration
    assert stored is not None and stored.source == "outer"
    assert stored == calibrate(study, outer=True)
    positives = table[table["label"] == 1]
    np.testing.assert_allclose(stored.classes[1].scores, np.sort(1 - positives["probability"]))
    assert [known.units for known in stored.classes] == list(bundle.about.class_counts)
    inner = calibrate(study, outer=False)
    assert inner is not None and inner.source == "inner" and inner != stored


def test_predictions_have_a_set_where_one_is_asked_for(tiny: Tiny) -> None:
    bundle = ModelBundle.load(tiny.bundle)
    plain = predict(bundle, tiny.cohort, tiny.cache).table
    table = predict(bundle, tiny.cohort, tiny.cache, abstain=0.3).table
    assert set(table["set"]) <= {"positive", "negative", "either"}
    assert table["set"].tolist() == sets_of(bundle.about, table["probability"].to_numpy(), 0.3)
    pd.testing.assert_frame_equal(table.drop(columns="set"), plain)


def test_coverage_leaves_each_fold_out_of_its_calibration(tiny: Tiny) -> None:
    study = Study.open(tiny.study)
    predictions = read_predictions(study.final.predictions)
    measured = coverage(Binary().sets, study.table(predictions), 0.3)
    inside, many = [], []
    for fold, rows in predictions.groupby("fold"):
        others = predictions[predictions["fold"] != fold]
        for _, row in rows.iterrows():
            p_values = []
            for label in (0, 1):
                known = others[others["label"] == label]["probability"]
                new = row["probability"]
                more = (known >= new).sum() if label == 0 else (known <= new).sum()
                p_values.append((1 + more) / (1 + len(known)))
            kept = [value > 0.3 + 1e-9 for value in p_values]
            kept = kept if any(kept) else [True, True]
            inside.append(kept[int(row["label"])])
            many.append(all(kept))
    assert measured.covered.value == pytest.approx(np.mean(inside))
    assert measured.undecided == pytest.approx(np.mean(many))
    assert measured.covered.low < measured.covered.value < measured.covered.high or np.mean(inside) == 1
    assert len(measured.classes) == 2
