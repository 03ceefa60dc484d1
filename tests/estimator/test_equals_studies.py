"""The estimators equal the models of mil-tune and mil-fit of every kind of outcome, to rounding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.outcomes import DECLARED, drawn_cohort
from support.paths import installed

from mil_toolkit import MILClassifier, MILRegressor, MILSurvival, load_patients
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.predict import predict
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.study.tune import tune

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "classes": (MILClassifier, {}),
    "ordered": (MILClassifier, {"order": ["b", "c", "a"]}),
    "number": (MILRegressor, {}),
    "logarithm": (MILRegressor, {"transform": "log"}),
    "survival": (MILSurvival, {"horizon": 5.0}),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_estimator_equals_a_study_with_one_configuration(name: str, tmp_path: Path) -> None:
    """Folds, epochs, calibration and members are exactly those of mil-tune and mil-fit."""
    installed("sksurv")  # for the baselines of survival
    estimator, parameters = KINDS[name]
    cohort = drawn_cohort(tmp_path, DECLARED[name])
    config = StudyConfig(trials=1, folds=2, members=2, outer_folds=0, seed=3, settings={"epochs": (4,)})
    tune(cohort, None, tmp_path / "study", config, "cpu")
    bundle = fit(cohort, None, tmp_path / "study", tmp_path / "model", "cpu")
    expected = predict(bundle, cohort, None).table

    X, y = load_patients(cohort.labelled(), None)
    options: dict[str, Any] = {"folds": 2, "members": 2, "epochs": 4, "seed": 3, "device": "cpu"}
    model = estimator(**options, **parameters).fit(X, y)
    assert model.n_epochs_ == bundle.about.epoch and model.decision_ == bundle.decision
    everyone, outcomes = load_patients(cohort, None)
    assert len(outcomes) == 36 and len(y) == 33
    if estimator is MILClassifier:
        columns = [f"probability:{grade}" for grade in "abc"]
        np.testing.assert_allclose(model.predict_proba(everyone), expected[columns], rtol=1e-12)
        names = np.array(bundle.about.predicted.class_names)
        assert list(model.predict(everyone)) == list(names[expected["prediction"]])
        spreads = [f"spread:{grade}" for grade in "abc"]
    else:
        value = "risk" if name == "survival" else "predicted"
        np.testing.assert_allclose(model.predict(everyone), expected[value], rtol=1e-12)
        spreads = ["spread:risk"] if name == "survival" else ["spread"]
    np.testing.assert_allclose(
        model.spread(everyone).reshape(36, -1), expected[spreads].to_numpy(), rtol=1e-9, atol=1e-15
    )


def test_outcomes_of_a_cohort_become_y(tmp_path: Path) -> None:
    cohort = drawn_cohort(tmp_path, DECLARED["survival"])
    _, y = load_patients(cohort, None)
    assert y.dtype.names == ("event", "time") and y["event"].dtype == bool
    np.testing.assert_array_equal(y["time"][:33], cohort.labels[:33, 0])
    np.testing.assert_array_equal(y["event"][:33], cohort.labels[:33, 1] == 1)
    assert np.isnan(y["time"][33:]).all() and not y["event"][33:].any()
    _, numbers = load_patients(drawn_cohort(tmp_path, DECLARED["number"]), None)
    assert (numbers[:33] > 0).all() and np.isnan(numbers[33:]).all()
    _, words = load_patients(drawn_cohort(tmp_path, DECLARED["ordered"]), None)
    assert set(words[:33]) == {"a", "b", "c"} and list(words[33:]) == [None] * 3
