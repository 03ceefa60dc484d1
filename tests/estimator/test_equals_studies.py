"""The estimators equal the models of mil-tune and mil-fit of every kind of outcome, to rounding."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.paths import installed

from mil_toolkit import MILClassifier, MILRegressor, MILSurvival, load_patients
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.predict import predict
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.study.tune import tune

KINDS = {
    "classes": (MILClassifier, {}, 'label = "GRADE"\nclasses = ["a", "b", "c"]'),
    "ordered": (
        MILClassifier,
        {"order": ["b", "c", "a"]},
        'label = "GRADE"\nclasses = ["b", "c", "a"]\nordered = true',
    ),
    "number": (MILRegressor, {}, 'target = "BLASTS"'),
    "logarithm": (MILRegressor, {"transform": "log"}, 'target = "BLASTS"\ntransform = "log"'),
    "survival": (MILSurvival, {"horizon": 5.0}, 'time = "OS"\nevent = "DEAD"\nhorizon = 5'),
}


def cohort_of(folder: Path, declared: str) -> Cohort:
    """Write and read a cohort of 36 patients with two columns of metadata, the last three unlabelled."""
    random = np.random.default_rng(0)
    marker = random.normal(size=36)
    table = pd.DataFrame({"ID": [f"P{place}" for place in range(36)], "MARKER": marker.round(3)})
    table["NOISE"] = random.normal(size=36).round(3)
    table["GRADE"] = np.array(["b", "c", "a"])[np.argsort(np.argsort(marker)) // 12]
    table["BLASTS"] = np.exp(marker + 2).round(2).astype(str)
    table["OS"] = np.exp(1.5 - marker + random.normal(size=36) / 2).round(2).astype(str)
    table["DEAD"] = (np.arange(36) % 3 > 0).astype(int).astype(str)
    table.loc[33:, ["GRADE", "BLASTS", "OS", "DEAD"]] = "?"
    table.to_csv(folder / "patients.csv", index=False)
    columns = "\n".join(
        f'[metadata.{name}]\ncolumn = "{name.upper()}"\nkind = "number"' for name in ("marker", "noise")
    )
    head = 'name = "drawn"\ntable = "patients.csv"\nid = "ID"\nunlabelled = "?"'
    (folder / "cohort.toml").write_text(
        f"[cohort]\n{head}\n{declared}\n{columns}\n[splits]\nstratify = ['label']\n"
    )
    return read_cohort(folder / "cohort.toml", images=False)


@pytest.mark.parametrize("name", KINDS)
def test_the_estimator_equals_a_study_with_one_configuration(name: str, tmp_path: Path) -> None:
    """Folds, epochs, calibration and members are exactly those of mil-tune and mil-fit."""
    installed("sksurv")  # for the baselines of survival
    estimator, parameters, declared = KINDS[name]
    cohort = cohort_of(tmp_path, declared)
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
    cohort = cohort_of(tmp_path, KINDS["survival"][2])
    _, y = load_patients(cohort, None)
    assert y.dtype.names == ("event", "time") and y["event"].dtype == bool
    np.testing.assert_array_equal(y["time"][:33], cohort.labels[:33, 0])
    np.testing.assert_array_equal(y["event"][:33], cohort.labels[:33, 1] == 1)
    assert np.isnan(y["time"][33:]).all() and not y["event"][33:].any()
    _, numbers = load_patients(cohort_of(tmp_path, KINDS["number"][2]), None)
    assert (numbers[:33] > 0).all() and np.isnan(numbers[33:]).all()
    _, words = load_patients(cohort_of(tmp_path, KINDS["ordered"][2]), None)
    assert set(words[:33]) == {"a", "b", "c"} and list(words[33:]) == [None] * 3
