"""mil-tune: output, options, and behaviour when it is busy or interrupted."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.cli import tune
from mil_toolkit.core.locks import exclusive
from mil_toolkit.study import trial
from mil_toolkit.training.procedure import run_trial


def test_tune_prints_json(tiny_options: Sequence[object], tmp_path: Path, command: Command) -> None:
    done = command("tune", *tiny_options, "--outer-folds", 2, "--study", tmp_path / "study", "--json")
    assert done.code == 0 and "Traceback" not in done.err
    data = done.json
    assert data["study"] == str(tmp_path / "study")
    assert data["trials"] == 2 * 3 and data["seconds_per_trial"] > 0
    assert data["best"].keys() <= set(pd.read_csv(tmp_path / "study" / "trials.csv").columns)
    for part in ("inner", "outer"):
        assert {"balanced_accuracy", "sensitivity", "specificity", "auc"} <= data[part].keys()
        assert {"value", "patients", "repeats"} <= data[part]["balanced_accuracy"].keys()
        assert data[part]["balanced_accuracy"]["patients"] == 24


def test_the_number_of_threads_belongs_to_the_study(
    tiny_options: Sequence[object], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 1 unless it is given, whatever the environment says; a resumed study keeps its own."""
    used: list[int] = []

    def recorded(*arguments: Any) -> Any:
        used.append(torch.get_num_threads())
        return run_trial(*arguments)

    monkeypatch.setattr(trial, "run_trial", recorded)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    few = ("tune", *tiny_options, "--trials", 1, "--outer-folds", 0, "--study")
    assert command(*few, tmp_path / "one").code == 0
    assert json.loads((tmp_path / "one" / "config.json").read_text())["study"]["threads"] == 1
    study = (*few, tmp_path / "two")
    assert command(*study, "--threads", 2).code == 0 and used == [1, 2]
    for name in ("DONE", "best.json", "optuna.db"):
        (tmp_path / "two" / name).unlink()
    assert command(*study).code == 0 and used == [1, 2, 2]
    refused = command(*study, "--threads", 1)
    assert refused.code == 3 and "study.threads: 2 there, 1 now" in refused.err
    assert command(*few, tmp_path / "three", "--threads", 0).code == 2


def test_tune_says_which_score_is_optimistic(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    nested = command("tune", *tiny_options, "--outer-folds", 2, "--study", tmp_path / "nested").out
    for word in ("training", "validation", "outer", "accuracy", "balanced_accuracy", "sensitivity"):
        assert word in nested
    assert "optimistic" in nested
    assert "referred to flow cytometry" in nested and "over single members (seeds)" in nested
    plain = command("tune", *tiny_options, "--outer-folds", 0, "--study", tmp_path / "plain")
    assert "optimistic" in plain.out and "no score on held-out patients" in plain.out
    assert json.loads((tmp_path / "plain" / "scores.json").read_text())["outer"] is None


def test_the_primary_metric_is_fixed_and_carries_the_verdict(
    tiny: Tiny, tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    nested = ("tune", *tiny_options, "--outer-folds", 2, "--study", tmp_path, "--primary-metric")
    done = command(*nested, "brier")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "config.json").read_text())["study"]["primary_metric"] == "brier"
    outer = json.loads((tmp_path / "scores.json").read_text())["outer"]["brier"]
    head, *rows = done.out.splitlines()
    assert head.split()[-1] == "brier" and f"{outer['value']:.3f}" in rows[2]
    assert f"Brier on held-out patients (nested cross-validation): {outer['value']:.3f}" in done.out
    assert "Verdict, by the primary metric (brier; all others are secondary): On held-out" in done.out
    assert "Gain over metadata_logistic_c1 in brier (lower is better): " in done.out
    refused = command(*nested, "auc")
    assert refused.code == 3 and "study.primary_metric: 'brier' there, 'auc' now" in refused.err
    unusable = command(*nested, "calibration_error")
    assert unusable.code == 2 and "calibration_error" in unusable.err


def test_the_default_primary_metric_is_balanced_accuracy_whatever_the_objective(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    options = ("--objective", "auc", "--trials", 1, "--outer-folds", 2, "--study", tmp_path)
    done = command("tune", *tiny_options, *options)
    assert "Verdict, by the primary metric (balanced accuracy; all others are secondary)" in done.out
    for name in ("metadata_logistic", "metadata_logistic_c1"):
        assert f"baseline {name} " in done.out and f"Gain over {name} in balanced accuracy" in done.out


def test_a_confidence_that_too_few_patients_can_give_is_refused_before_anything_is_written(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    study = ("--outer-folds", 2, "--study", tmp_path / "s", "--sensitivity")
    done = command("tune", *tiny_options, *study, 0.95, "--sensitivity-confidence", 0.95)
    assert done.code == 3 and not (tmp_path / "s").exists()
    assert "needs at least 59 positive patients" in done.err
    for search, positives in (("repeat1-fold1", 7), ("repeat1-fold2", 7), ("final", 14)):
        assert f"search {search}: " in done.err and f"there are only {positives}." in done.err
    alone = command("tune", *tiny_options, "--study", tmp_path / "s", "--sensitivity-confidence", 0.9)
    assert alone.code == 2 and "--sensitivity-confidence needs --sensitivity" in alone.err


def test_the_lower_bound_of_the_sensitivity_is_reached_in_inner_cross_validation(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    study = ("--outer-folds", 0, "--study", tmp_path / "s", "--sensitivity", 0.6)
    done = command("tune", *tiny_options, *study, "--sensitivity-confidence", 0.9)
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "s" / "out_of_fold.csv")
    positives = table[table["label"] == 1]
    detected = int(positives["prediction"].sum())
    exact = binomtest(detected, len(positives), alternative="greater").proportion_ci(0.9, method="exact")
    fewer = binomtest(detected - 1, len(positives), alternative="greater").proportion_ci(0.9, method="exact")
    assert exact.low >= 0.6 > fewer.low


def test_quick_has_no_outer_folds_and_given_options_win(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    options = ("--features", tiny.features, "--quick", "--trials", 1, "--epochs", 2, "--folds", 2)
    done = command("tune", tiny.cohort_toml, *options, "--study", tmp_path / "s")
    assert done.code == 0 and "--quick is only a first look" in done.out
    told = json.loads((tmp_path / "s" / "config.json").read_text())["study"]
    assert (told["trials"], told["outer_folds"], told["members"]) == (1, 0, 1)


def test_a_wide_search_begins_with_the_defaults_and_the_starting_points(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    few = ("--trials", 4, "--epochs", 1, "--folds", 2, "--members", 1, "--outer-folds", 0)
    data = (tiny.cohort_toml, "--features", tiny.features, "--study", tmp_path / "study")
    done = command("tune", *data, *few, "--preset", "wide", "--json")
    assert done.code == 0, done.err
    trials = pd.read_csv(tmp_path / "study" / "trials.csv").head(3)
    assert trials["components"].tolist() == [64, 0, 0]
    assert trials["instance_layers"].tolist() == [0, 0, 2]
    assert trials["pooling"].tolist() == ["attention", "gated-attention", "gated-attention"]
    assert trials["zero_start"].tolist() == [True, False, False]


def test_a_wrong_number_of_outer_folds_names_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tune.main(["c.toml", "--study", str(tmp_path), "--outer-folds", "x"])
    assert "--outer-folds: expected a whole number, groups or official, not 'x'" in capsys.readouterr().err


def test_a_study_in_use_is_not_touched(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    study = tmp_path / "study"
    with exclusive(study):
        done = command("tune", *tiny_options, "--study", study)
    assert done.code == 75 and done.out == "" and "Traceback" not in done.err
    assert str(study) in done.err
    assert [path.name for path in study.iterdir()] == [".lock"]
    assert command("tune", *tiny_options, "--outer-folds", 0, "--study", study).code == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_exits_with_130(
    sent: signal.Signals, tiny_options: Sequence[object], tmp_path: Path
) -> None:
    argv = [str(each) for each in (*tiny_options, "--trials", 500, "--study", tmp_path)]
    process = start("tune", argv)
    wait_for(tmp_path / "epochs" / "trial0001.jsonl", process)  # of the search on all patients, the first
    process.send_signal(sent)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err and err.endswith("mil-tune: interrupted\n")


def start(name: str, argv: Sequence[str]) -> subprocess.Popen[str]:
    script = f"import sys; from mil_toolkit.cli.{name} import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", script, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate(timeout=1)
        time.sleep(0.02)


# The learning curve.


def test_a_learning_curve_follows_the_study(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    options = (*tiny_options, "--outer-folds", 2, "--study", tmp_path / "study", "--learning-curve")
    done = command("tune", *options, "--interval-width", 0.2, "--json")
    assert done.code == 0, done.err
    curve = done.json["learning_curve"]
    assert [point["share"] for point in curve["points"]] == [0.4, 0.6, 0.8, 1.0]
    assert curve["width"] == 0.2 and curve["patients_for_width"] > 0
    assert json.loads((tmp_path / "study" / "learning_curve.json").read_text()) == curve
    again = command("tune", *options)
    assert "Twice as many training patients (24 instead of 12)" in again.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--outer-folds", "0", "--learning-curve"), "--learning-curve needs outer folds"),
        (("--interval-width", "0"), "--interval-width must lie between 0 and 1, not 0"),
        (("--interval-width", "nan"), "--interval-width must lie between 0 and 1, not nan"),
    ],
)
def test_options_of_the_learning_curve_are_checked_first(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main(["absent.toml", "--study", str(tmp_path / "study"), *options]) == 2
    assert message in capsys.readouterr().err
