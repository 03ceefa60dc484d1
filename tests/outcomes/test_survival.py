"""Survival: declaration, strata, calibration and regressions, and the commands on a drawn cohort."""

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from support.paths import installed

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.cli import fit, predict, tune
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.evaluation.discrete_time import hazard_rows, to_intervals
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.survival_metrics import grid_of
from mil_toolkit.outcomes.kinds import decode_decision
from mil_toolkit.outcomes.survival import INTERVALS, FittedSurvival, Survival, SurvivalRule, hazard_regression
from mil_toolkit.study.survival_rivals import cox, linear_hazards

RULE = ThresholdRule("share")
OUTCOME = Survival("OS", "DEAD", 5)


def drawn(count: int = 400, effect: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return columns (n, 2), of which the first raises the hazard, and targets with random censoring."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 2))
    times, limits = random.exponential(6 * np.exp(-effect * x[:, 0])), random.uniform(1, 15, count)
    return x, np.stack([np.minimum(times, limits), times <= limits], axis=-1).astype(float)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Survival("OS", "DEAD", 0), "horizon must be above 0, in the unit of the times, not 0."),
        (Survival("OS", "DEAD", float("inf")), "horizon must be above 0, in the unit of the times, not inf."),
        (Survival("OS", "DEAD", float("nan")), "horizon must be above 0, in the unit of the times, not nan."),
        (Survival("OS", "OS", 5), "time and event are both 'OS'; they need a column each."),
    ],
)
def test_a_wrong_declaration_is_a_problem(outcome: Survival, expected: str) -> None:
    assert list(outcome.declaration_problems({"time", "event", "horizon"})) == [expected]


def test_all_three_keys_are_needed() -> None:
    assert OUTCOME.missing_keys({"horizon"}) == ["time", "event"]
    assert OUTCOME.missing_keys({"time", "event"}) == ["horizon"]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([[1, 0], [9, 0]], "patients who are all censored"),
        ([[6, 1], [9, 0]], "first event is at 6: none of 1 events happened up to the horizon of 5"),
        ([[1, 1], [4, 0]], "patients who were followed up to 4, before the horizon of 5"),
    ],
)
def test_patients_from_whom_no_risk_can_be_learned_lack_something(
    targets: list[list[float]], expected: str
) -> None:
    lack = OUTCOME.lack(np.array(targets))
    assert lack is not None and expected in lack.what
    assert not OUTCOME.scoring.scorable(np.array(targets))


def test_an_event_at_the_horizon_is_within_it() -> None:
    targets = np.array([[5, 1], [5.1, 1], [2, 0], [1, 1]])
    assert OUTCOME.strata(targets).tolist() == [1, 0, 0, 1]
    assert OUTCOME.lack(targets) is None


def test_the_risk_is_one_minus_the_survival_at_the_horizon_and_never_falls() -> None:
    outcome = OUTCOME.fitted(drawn()[1])
    outputs = np.random.default_rng(1).normal(size=(3, 7, INTERVALS))
    values = SurvivalRule(5, outcome.cuts).predict(outputs).values
    assert values.shape == (3, 7, 1 + len(grid_of(5)))
    np.testing.assert_allclose(values[..., 0], 1 - values[..., -1])
    assert (np.diff(values[..., 1:]) <= 1e-12).all()
    assert outcome.scoring.values[:2] == ("risk", "survival:0.5")


def test_outputs_beyond_the_used_intervals_change_nothing() -> None:
    targets = np.array([[1, 1], [1, 1], [2, 1], [8, 0], [2, 1]], dtype=float)
    outcome = OUTCOME.fitted(targets)
    assert len(outcome.cuts) < INTERVALS
    assert outcome.training_targets(targets)[:, 0].max() <= len(outcome.cuts)
    rule, outputs = SurvivalRule(5, outcome.cuts), np.zeros((2, INTERVALS))
    outputs[1, len(outcome.cuts) :] = 9
    assert np.array_equal(*rule.predict(outputs).values)


def test_calibration_mends_hazards_that_are_too_low() -> None:
    x, targets = drawn()
    outcome = OUTCOME.fitted(targets)
    outputs = linear_hazards(x, targets, outcome, x, 1.0)
    rule = outcome.decide(outputs - 2, targets, RULE, None)
    again = outcome.decide(outputs, targets, RULE, None)
    assert rule.slope == pytest.approx(again.slope, abs=0.02)
    assert rule.intercept == pytest.approx(again.intercept + 2 * rule.slope, abs=0.02)
    metric = outcome.scoring.metrics["calibration_at_horizon"]
    folds = np.zeros(len(x))
    before = metric.value(outcome.predicted(outputs - 2, targets, folds))
    values = rule.predict(outputs - 2).values
    after = metric.value(Predicted(targets, values, folds, folds))
    assert after < 0.03 < before


def test_without_covariates_the_hazards_are_those_of_the_life_table() -> None:
    _, targets = drawn()
    outcome = OUTCOME.fitted(targets)
    start = hazard_regression(np.zeros((len(targets), 1)), targets, outcome, 1e6)
    _, interval, event = hazard_rows(to_intervals(targets[:, 0], targets[:, 1] == 1, np.array(outcome.cuts)))
    shares = np.bincount(interval, event) / np.bincount(interval)
    np.testing.assert_allclose(expit(start[-1, : len(outcome.cuts)]), shares, atol=1e-3)


def test_cox_regression_is_that_of_scikit_survival() -> None:
    library = installed("sksurv.linear_model")
    x, targets = drawn()
    outcome = OUTCOME.fitted(targets)
    outputs = cox(x, targets, outcome, x[:6], 10.0)
    y = np.array(list(zip(targets[:, 1] == 1, targets[:, 0], strict=True)), dtype="?,f8")
    model = library.CoxPHSurvivalAnalysis(alpha=0.1).fit(x, y)
    expected = [curve(np.array(outcome.cuts)) for curve in model.predict_survival_function(x[:6])]
    hazards = expit(outputs[:, : len(outcome.cuts)])
    np.testing.assert_allclose(np.cumprod(1 - hazards, 1), expected, atol=1e-5)


@pytest.mark.parametrize("regression", [cox, linear_hazards])
def test_regressions_order_patients_by_what_raises_the_hazard(regression: object) -> None:
    installed("sksurv")
    assert callable(regression)
    x, targets = drawn()
    outcome = OUTCOME.fitted(targets)
    predicted = outcome.predicted(regression(x, targets, outcome, x, 1.0), targets, np.zeros(len(x)))
    assert outcome.scoring.metrics["concordance_harrell"].value(predicted) > 0.7
    constant = outcome.predicted(np.zeros((len(x), INTERVALS)), targets, np.zeros(len(x)))
    assert outcome.scoring.metrics["concordance_harrell"].value(constant) == 0.5
    better, worse = (
        outcome.scoring.metrics["integrated_brier"].value(each) for each in (predicted, constant)
    )
    assert better < worse


def test_a_regression_of_a_single_interval_is_finite() -> None:
    targets = np.array([[1, 1], [1, 1], [9, 0]], dtype=float)
    outcome = FittedSurvival("OS", "DEAD", 5, cuts=(5.0,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(linear_hazards(np.eye(3), targets, outcome, np.eye(3), 1.0)).all()
        everyone = hazard_regression(np.eye(3)[:2], targets[:2], outcome, 1.0)
    assert not everyone.any()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"cuts": [1.0, 3.0]}, "ascending times above 0, one of which is the horizon"),
        ({"cuts": [5.0, 1.0]}, "ascending times above 0, one of which is the horizon"),
        ({"slope": -1.0}, "not both above 0"),
    ],
)
def test_a_rule_of_impossible_numbers_has_problems(changed: dict[str, object], expected: str) -> None:
    value = {"kind": "survival", "horizon": 5.0, "cuts": [1.0, 5.0], "slope": 1.0, "intercept": 0.0}
    assert not list(decode_decision(object, value).problems())
    assert expected in " ".join(decode_decision(object, value | changed).problems())


# The commands.

TOML = """
[cohort]
name = "drawn"
table = "patients.csv"
id = "ID"
time = "OS"
event = "DEAD"
horizon = 5
unlabelled = "?"
{more}
[metadata.marker]
column = "MARKER"
kind = "number"

[metadata.noise]
column = "NOISE"
kind = "number"
"""
TUNE = ("--features", "none", "--trials", "1", "--epochs", "4", "--folds", "2", "--outer-folds", "2")
SMALL = ("--members", "2", "--workers", "1", "--device", "cpu")


def write(folder: Path, edit: dict[int, tuple[str, str]] | None = None, more: str = "") -> Path:
    """Write a cohort of 60 patients, and two whose outcome is unknown; edit: time and event by row."""
    x, targets = drawn(60, effect=1.5)
    rows = [["ID", "OS", "DEAD", "MARKER", "NOISE"]]
    for row, ((marker, noise), (time, event)) in enumerate(zip(x, targets, strict=True), 2):
        cells = (edit or {}).get(row, (f"{time:.3f}", f"{event:.0f}"))
        rows.append([f"P{row}", *cells, f"{marker:.4f}", f"{noise:.4f}"])
    rows += [[f"Q{number}", "?", "?", f"{number}", "0"] for number in (-2, 2)]
    with (folder / "patients.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "cohort.toml").write_text(TOML.format(more=more))
    return folder / "cohort.toml"


def run(command: object, *arguments: object) -> int:
    return int(command.main([str(argument) for argument in arguments]))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a nested study, its bundle, and predictions of its own cohort."""
    installed("sksurv")
    folder = tmp_path_factory.mktemp("survival")
    cohort, study = write(folder), folder / "study"
    assert run(tune, cohort, "--study", study, *TUNE, *SMALL) == 0
    assert run(fit, cohort, "--features", "none", "--study", study, "--device", "cpu") == 0
    bundle = study / "model"
    assert run(predict, bundle, cohort, "--features", "none", "--output", folder / "p.csv") == 0
    return study


def test_a_nested_study_beats_chance_beside_cox_with_intervals(study: Path) -> None:
    scores = json.loads((study / "scores.json").read_text())
    for scored in (scores["outer"], scores["rivals"]["metadata_cox"]):
        assert set(scored) == set(Survival().scoring.metrics)
        harrell = scored["concordance_harrell"]
        assert 0 <= harrell["low"] < harrell["value"] < harrell["high"] <= 1
        assert harrell["value"] > 0.6
        assert scored["integrated_brier"]["low"] > 0
    assert scores["gains"]["metadata_cox"]["discordant"] is None


def test_predictions_hold_risk_survival_and_spread_of_all_patients(study: Path) -> None:
    table = pd.read_csv(study.parent / "p.csv")
    survival = [str(name) for name in table if str(name).startswith("survival:")]
    assert survival == [f"survival:{time:g}" for time in grid_of(5)]
    np.testing.assert_allclose(table["risk"], 1 - table["survival:5"])
    assert (np.diff(table[survival].to_numpy()) <= 0).all()
    risks = dict(zip(table["patient_id"], table["risk"], strict=True))
    assert risks["Q2"] > risks["Q-2"]
    assert table[["time", "event"]].isna().all(axis=1).sum() == 2
    assert {"spread:risk", "spread:5"} <= set(table)


def test_a_finished_study_is_read_again_and_a_new_one_has_the_same_bits(study: Path) -> None:
    before = {path: path.read_bytes() for path in study.rglob("*.csv")}
    assert before
    cohort = study.parent / "cohort.toml"
    assert run(tune, cohort, "--study", study, *TUNE, *SMALL) == 0
    assert run(tune, cohort, "--study", study.parent / "again", *TUNE, *SMALL) == 0
    for path, content in before.items():
        other = study.parent / "again" / path.relative_to(study)
        assert path.read_bytes() == content == other.read_bytes()
    assert (study / "scores.json").read_bytes() == (study.parent / "again" / "scores.json").read_bytes()


def test_the_card_speaks_of_risks(study: Path) -> None:
    card = (study / "model" / "README.md").read_text()
    assert "predicts the risk of the event up to the time 5 (the horizon)" in card
    assert "competing risks" in card
    assert "positive" not in card and "threshold" not in card


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sensitivity", "0.9"], "--sensitivity needs an outcome of two classes"),
        (["--threshold", "half"], "--threshold needs an outcome of two classes"),
        (["--prevalence", "0.1"], "--prevalence needs an outcome of two classes"),
        (["--set", "pooling=mean,clam"], "--set pooling: clam needs an outcome of two classes"),
        (["--objective", "auc"], "--objective must be one of concordance_harrell"),
        (["--primary-metric", "accuracy"], "--primary-metric must be one of concordance_harrell"),
    ],
)
def test_options_of_classes_are_refused(
    tmp_path: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tune, write(tmp_path), "--study", tmp_path / "s", "--features", "none", *options) == 2
    assert expected in capsys.readouterr().err


def test_the_exported_model_returns_the_rows_of_predictions(study: Path) -> None:
    onnxruntime = installed("onnxruntime")
    options = ("--features", "none", "--study", study, "--output", study.parent / "x", "--device", "cpu")
    assert run(fit, study.parent / "cohort.toml", *options, "--onnx") == 0
    table = pd.read_csv(study.parent / "p.csv")
    session = onnxruntime.InferenceSession(
        study.parent / "x" / "head.onnx", providers=["CPUExecutionProvider"]
    )
    columns = [output.name for output in session.get_outputs()]
    others = ("patient_id", "time", "event", "in_domain", "reasons")
    assert columns == [name for name in table if name not in others]
    cohort = read_cohort(study.parent / "cohort.toml", images=False)
    encoder = ModelBundle.load(study.parent / "x").head.encoder
    for place, row in enumerate(encoder.encode(cohort.metadata).to_numpy(np.float32)[:5]):
        outputs = np.concatenate(session.run(None, {"metadata": row}))
        np.testing.assert_allclose(outputs, table.loc[place, columns].to_numpy(float), atol=1e-5)


def test_a_challenge_file_of_classes_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (study / "model", study.parent / "cohort.toml", "--features", "none")
    outputs = ("--output", study.parent / "q.csv", "--submission", study.parent / "s.csv")
    assert run(predict, *arguments, *outputs) == 2
    assert "the outcome survival has none" in capsys.readouterr().err


EVERYONE = range(2, 62)


@pytest.mark.parametrize(
    ("edit", "more", "expected"),
    [
        ({3: ("0", "1")}, "", "row 3 (patient P3): OS '0' is not above 0."),
        ({4: ("1", "dead")}, "", "row 4 (patient P4): DEAD 'dead' is not 1 (event) or 0 (censored)."),
        ({row: ("7", "0") for row in EVERYONE}, "", "has patients who are all censored"),
        ({row: ("7", "1") for row in EVERYONE}, "", "none of 60 events happened up to the horizon of 5"),
        ({row: ("4", "1") for row in EVERYONE}, "", "followed up to 4, before the horizon of 5"),
        (
            {},
            'positive = "x"',
            "time belongs to the outcome survival, but positive declares the outcome binary",
        ),
        ({}, 'exclude = "x"', "exclude belongs to the outcome binary"),
    ],
)
def test_cohorts_that_cannot_be_used_are_refused_before_any_training(
    tmp_path: Path,
    edit: dict[int, tuple[str, str]],
    more: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cohort = write(tmp_path, edit, more)
    assert run(tune, cohort, "--study", tmp_path / "s", *TUNE, *SMALL) == 3
    assert expected in capsys.readouterr().err
