"""The study of mil-tune from outside: what it leaves, going on after a stop, and what must not leak."""

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.commands import Command, outcome
from support.interrupts import interrupts_until_done
from support.processes import ended, fork_command, wait_until
from support.studies import Tiny

from mil_toolkit.cli.tune import score_lines, summary
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.config.run import RunConfig
from mil_toolkit.config.settings import parse_settings
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import tunables
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.seeds import trial_path
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.multiplicity import MaxT, max_t
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.search.samplers import PRUNERS
from mil_toolkit.search.slots import Slots
from mil_toolkit.search.space import SearchedInterval, Space
from mil_toolkit.search.storage import DatabaseStorage
from mil_toolkit.search.trials import Pruned
from mil_toolkit.study import selection
from mil_toolkit.study import trial as trial_module
from mil_toolkit.study import tune as tuning
from mil_toolkit.study.folder import SearchFolder, Study, read_epochs
from mil_toolkit.study.plan import Search, plan_searches
from mil_toolkit.study.tables import outer_attention
from mil_toolkit.study.tune import tune
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.curves import Curves
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import run_trial

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]
QUICK: dict[str, Any] = {"epochs": (2,), "hidden": (32,), "pooling": ("attention",)}
PLAIN = StudyConfig(trials=3, folds=2, outer_folds=0, members=1, settings=QUICK)
NESTED = replace(PLAIN, trials=2, outer_folds=2, members=2)
SEARCHES = (".", "outer/repeat1-fold1", "outer/repeat1-fold2")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def trials(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trials.csv")


# What a study leaves.


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_leaves_its_trials(search: str, tiny: Tiny) -> None:
    table = trials(tiny.study / search)
    assert list(table.columns[:3]) == ["number", "value", "state"]
    assert list(table["number"]) == [0, 1] and set(table["state"]) <= {"COMPLETE", "PRUNED"}
    assert set(table.columns[3:]) < set(tunables(HeadConfig))


@pytest.mark.parametrize("search", SEARCHES)
def test_every_epoch_of_every_trial_has_its_line(search: str, tiny: Tiny) -> None:
    files = sorted((tiny.study / search / "epochs").iterdir())
    assert len(files) == 2
    for file in files:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
        for line in lines:
            for part in ("training", "validation"):
                for name in ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc"):
                    assert 0 <= line[f"{part}_{name}"] <= 1
            validation = (line[f"validation_{name}"] for name in ("sensitivity", "specificity"))
            assert line["validation_balanced_accuracy"] == pytest.approx(sum(validation) / 2)


@pytest.mark.parametrize("surpassed", [True, False])
def test_the_best_trial_is_chosen_where_it_surpasses_the_defaults(
    surpassed: bool, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    critical = 0.0 if surpassed else 100.0

    def max_t_of(*arguments: Any, **options: Any) -> MaxT:
        return replace(max_t(*arguments, **options), critical=critical)

    monkeypatch.setattr(selection, "max_t", max_t_of)
    tuned = tune(tiny.cohort, tiny.cache, tmp_path, replace(PLAIN, trials=4, sampler="random"), "cpu")
    table = trials(tmp_path)
    lowest = table["value"].idxmin()  # the objective is a loss
    assert lowest > 0, "the defaults are to be surpassed here"
    best = table.loc[lowest if surpassed else 0]
    chosen = read_json(tmp_path / "best.json")
    assert chosen["value"] == pytest.approx(best["value"]) and chosen["number"] == best["number"]
    for name, value in chosen["parameters"].items():
        assert best[name] == (pytest.approx(value) if isinstance(value, float) else value)
        assert chosen["config"][name] == value
    passed_over = chosen["passed_over"]
    assert passed_over == read_json(tmp_path / "scores.json")["passed_over"]
    assert (passed_over is None) == surpassed
    if passed_over is not None:
        assert passed_over["trial"] == lowest and passed_over["trials"] == 3
        assert passed_over["lead"] == pytest.approx(table["value"][0] - table["value"][lowest])
        assert passed_over["critical"] == critical and passed_over["error"] > 0
    assert (f"The defaults were kept: trial {lowest} had the best value" in summary(tuned)) != surpassed


def test_every_trial_keeps_the_out_of_fold_logits_of_its_value(tiny: Tiny) -> None:
    study = Study.open(tiny.study)
    workspace = Workspace.of(study, Patients.of(tiny.cohort.labelled(), tiny.cache), "cpu")
    searches, _ = plan_searches(tiny.cohort.labelled(), study.config)
    storage = DatabaseStorage(tiny.study)
    for search in searches:
        held_out = selection.HeldOut.of(search, workspace.patients)
        kept = Slots(storage, search.name, 2, False, PRUNERS["none"](3)).counted
        values = {trial.number: trial.value for trial in kept if trial.complete}
        assert 0 in values
        for trial in kept:
            assert trial.logits is not None and trial.logits.shape == (len(search.patients),)
            if trial.complete:
                loss = METRICS["balanced_log_loss"].of(
                    held_out.predicted(trial.logits), np.ones(len(search.patients))
                )
                assert loss == pytest.approx(trial.value, abs=1e-7)


def test_a_study_of_an_older_version_resumes_without_the_options_that_it_lacks(
    tiny: Tiny, tmp_path: Path
) -> None:
    tune(tiny.cohort, tiny.cache, tmp_path, PLAIN, "cpu")
    before = outcome(tmp_path)
    config = read_json(tmp_path / "config.json")
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as database:
        (text,) = database.execute(
            "select value_json from study_user_attributes where key = 'study'"
        ).fetchone()
        stored = json.loads(text)
        for part in (config, stored):
            for option in ("primary_metric", "sensitivity_confidence", "threads"):
                del part["study"][option]
        database.execute(
            "update study_user_attributes set value_json = ? where key = 'study'", (json.dumps(stored),)
        )
        database.commit()
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("best.json", "scores.json", "DONE"):
        (tmp_path / name).unlink()
    tuned = tune(tiny.cohort, tiny.cache, tmp_path, PLAIN, "cpu")
    assert tuned.study.config.primary_metric == "balanced_accuracy"
    assert outcome(tmp_path) == before


def test_trials_of_an_older_version_are_not_compared(tiny: Tiny, tmp_path: Path) -> None:
    """They have no out-of-fold logits: the defaults are kept."""
    config = replace(PLAIN, trials=4, sampler="random")
    tune(tiny.cohort, tiny.cache, tmp_path, config, "cpu")
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as database:
        database.execute("delete from trial_user_attributes where key = 'logits'")
        database.commit()
    for name in ("best.json", "scores.json", "DONE"):
        (tmp_path / name).unlink()
    tune(tiny.cohort, tiny.cache, tmp_path, config, "cpu")
    lowest = trials(tmp_path)["value"].idxmin()
    expected = {"trial": lowest, "lead": None, "error": None, "critical": None, "trials": None}
    assert read_json(tmp_path / "best.json")["passed_over"] == expected


def test_a_choice_of_an_older_version_passed_nothing_over(tiny: Tiny, tmp_path: Path) -> None:
    older = read_json(tiny.study / "best.json")
    del older["passed_over"]
    (tmp_path / "best.json").write_text(json.dumps(older))
    assert SearchFolder(tmp_path).read_best().passed_over is None


def test_the_columns_of_the_summary_lie_below_each_other(tiny: Tiny) -> None:
    lines = score_lines(Study.open(tiny.study).read_scores(), "balanced_accuracy")
    assert [line.split()[0] for line in lines[1:4]] == ["training", "validation", "outer"]
    assert len(lines) > 5 and len(set(map(len, lines))) == 1


def test_every_labelled_patient_is_predicted_once_by_who_never_saw_it(tiny: Tiny) -> None:
    table = pd.read_csv(tiny.study / "predictions.csv")
    assert list(table.columns[:6]) == [
        "repeat", "fold", "patient_id", "label", "probability", "prediction"
    ]  # fmt: skip
    assert sorted(table["patient_id"]) == sorted(tiny.cohort.labelled().patient_ids)
    splits = read_json(tiny.study / "splits.json")["searches"]
    for fold, rows in table.groupby("fold"):
        search = splits[f"repeat1-fold{fold}"]
        assert sorted(rows["patient_id"]) == sorted(search["test"])
        inner = [patient for each in search["inner"] for patient in each]
        assert len(inner) == len(set(inner)) and not set(inner) & set(search["test"])


def test_the_scores_are_those_of_the_predictions(tiny: Tiny) -> None:
    table, outer = pd.read_csv(tiny.study / "predictions.csv"), read_json(tiny.study / "scores.json")["outer"]
    right = table["label"] == table["prediction"]
    sensitivity, specificity = right[table["label"] == 1].mean(), right[table["label"] == 0].mean()
    assert outer["accuracy"]["value"] == pytest.approx(right.mean())
    assert outer["sensitivity"]["value"] == pytest.approx(sensitivity)
    assert outer["balanced_accuracy"]["value"] == pytest.approx((sensitivity + specificity) / 2)
    assert outer["referred"]["value"] == pytest.approx(table["prediction"].mean())


# The same again, and after a stop.


def test_the_same_command_gives_the_same_bits(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    for name in ("one", "two"):
        assert command("tune", *tiny_options, "--outer-folds", 2, "--study", tmp_path / name).code == 0
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")
    assert len(trials(tmp_path / "one")) == 2 and (tmp_path / "one" / "predictions.csv").exists()


def test_another_seed_gives_another_study(tiny: Tiny, tmp_path: Path) -> None:
    tune(tiny.cohort, tiny.cache, tmp_path / "one", replace(PLAIN, seed=0), "cpu")
    tune(tiny.cohort, tiny.cache, tmp_path / "two", replace(PLAIN, seed=1), "cpu")
    assert not trials(tmp_path / "one").equals(trials(tmp_path / "two"))


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_study_goes_on_after_an_interrupt_as_if_there_was_none(
    sampler: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {name: (getattr(HeadConfig(), name),) for name in tunables(HeadConfig)} | QUICK
    grid = settings | {"components": (16, 32), "class_weights": (True, False)}
    config = (
        replace(NESTED, trials=3)
        if sampler == "tpe"
        else replace(PLAIN, trials=9, sampler="grid", settings=grid)
    )
    tune(tiny.cohort, tiny.cache, tmp_path / "whole", config, "cpu")
    stopped = tmp_path / "stopped"
    stops = interrupts_until_done(
        lambda: tune(tiny.cohort, tiny.cache, stopped, config, "cpu"), stopped, monkeypatch
    )
    assert stops > 1
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_a_killed_process_is_taken_over(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    options = (*tiny_options, "--outer-folds", 0, "--trials", 10, "--study")
    killed = tmp_path / "killed"
    process = fork_command("tune", *options, killed)
    wait_until(lambda: (killed / "epochs" / "trial0002.jsonl").exists() or ended(process))
    os.kill(process, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    before = len(list((killed / "epochs").glob("*.jsonl")))
    assert 3 <= before < 10 and not (killed / "DONE").exists()
    assert command("fit", *options[:3], "--study", killed).code == 3  # it has not ended
    assert command("tune", *options, killed).code == 0
    assert list(trials(killed)["number"]) == list(range(10))
    assert command("tune", *options, tmp_path / "whole").code == 0
    assert outcome(killed) == outcome(tmp_path / "whole")


def test_a_finished_study_is_left_as_it_is(tiny: Tiny, tmp_path: Path) -> None:
    tune(tiny.cohort, tiny.cache, tmp_path, NESTED, "cpu")
    before = outcome(tmp_path)
    tuned = tune(tiny.cohort, tiny.cache, tmp_path, NESTED, "cpu")
    assert outcome(tmp_path) == before and tuned.seconds_per_trial == 0


# Another study in the same folder.


@pytest.mark.parametrize(
    ("missing", "canary"), [("psycopg", True), ("wandb", True), ("device", True), ("database", False)]
)
def test_what_cannot_be_had_leaves_no_study_behind(
    missing: str,
    canary: bool,
    tiny_options: Sequence[object],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if missing in ("psycopg", "wandb"):
        monkeypatch.setitem(sys.modules, missing, None)
    options = {
        "psycopg": ("--storage", "postgresql://127.0.0.1:9/db"),
        "wandb": ("--tracker", "wandb"),
        "device": ("--device", "cuda:99"),
        "database": ("--storage", "postgresql://127.0.0.1:9/db"),
    }
    told = ("tune", *tiny_options, "--outer-folds", 0, "--study", tmp_path / "study")
    refused = command(*told, *options[missing], *(["--canary"] if canary else []))
    assert refused.code == 2 and "Traceback" not in refused.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert command(*told, "--trials", 1).code == 0  # other options than those


@pytest.mark.parametrize("config", [None, "{}", "[]", '{"model_type": "vit"}'])
def test_a_folder_of_something_else_is_no_place_for_a_study(
    config: str | None, tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    (tmp_path / "slide.h5").touch()
    if config:
        (tmp_path / "config.json").write_text(config)
    before = set(tmp_path.rglob("*"))
    for canary in ([], ["--canary"]):
        done = command("tune", *tiny_options, "--study", tmp_path, *canary)
        assert (
            done.code == 2
            and f"{tmp_path} is not a study folder: it holds" in done.err
            and "slide.h5" in done.err
        )
        assert set(tmp_path.rglob("*")) == before


def test_another_study_is_refused_with_each_difference(
    tiny: Tiny, tiny_options: Sequence[object], edit_cohort: EditCohort, tmp_path: Path, command: Command
) -> None:
    study = tmp_path / "study"
    assert command("tune", *tiny_options, "--outer-folds", 0, "--study", study).code == 0
    before = outcome(study)

    options = command(
        "tune", *tiny_options, "--outer-folds", 0, "--study", study, "--seed", 3, "--set", "gamma=1"
    )
    assert "study.seed: 0 there, 3 now" in options.err and "study.settings.gamma" in options.err

    def older(table: pd.DataFrame) -> None:
        table.loc[0, "BIRTH"] = "01/02/1930"

    toml = edit_cohort(older)
    cohort = command("tune", toml, *tiny_options[1:], "--outer-folds", 0, "--study", study)
    assert "cohort.digest" in cohort.err and "study.seed" not in cohort.err

    command("extract", tiny.cohort_toml, "--backbone", "resnet18", "--weights", "random", "--image-size", 40,
            "--cache", tmp_path / "cache")  # fmt: skip
    (other,) = (tmp_path / "cache" / "synthetic").iterdir()
    features = command("tune", *tiny_options, "--features", other, "--outer-folds", 0, "--study", study)
    assert "features.spec.image_size: 32 there, 40 now" in features.err

    for refused in (options, cohort, features):
        assert refused.code == 3 and refused.out == "" and "Traceback" not in refused.err
        assert "config.json describes another study" in refused.err and "--study" in refused.err
    assert outcome(study) == before


def test_a_call_that_cannot_work_claims_no_folder(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    study = ("--outer-folds", 0, "--study", tmp_path / "study")
    grid = command("tune", *tiny_options, *study, "--sampler", "grid")
    assert grid.code == 2
    named = re.findall(r"\w+", grid.err.partition(" for ")[2])
    assert "learning_rate" in named and "instance_loss" not in named  # which has no effect with attention
    for name, about in tunables(HeadConfig).items():
        assert about.low is not None if name in named else about.low is None or about.needs
    nothing = ("--set", "image_branch=false", "--set", "metadata_branch=none")
    assert command("tune", *tiny_options, *study, *nothing).code == 2
    assert command("tune", *tiny_options, *study).code == 0


# What must not leak.


def test_labels_of_outer_test_patients_do_not_reach_their_model(
    tiny: Tiny, edit_cohort: EditCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flipped labels of one fold's test patients change nothing of what this fold chose or predicted."""
    searches, saved = plan_searches(tiny.cohort.labelled(), NESTED)
    hidden = saved.searches["repeat1-fold1"].test

    def flip(table: pd.DataFrame) -> None:
        other = {"tumoral": "reactive", "reactive": "tumoral"}
        test = table["ID"].isin(hidden)
        table.loc[test, "DIAGNOSIS"] = table.loc[test, "DIAGNOSIS"].map(other)

    flipped = read_cohort(edit_cohort(flip))
    assert sum(flipped.labels[:24] != tiny.cohort.labels[:24]) == len(hidden)
    monkeypatch.setattr(tuning, "plan_searches", lambda cohort, config: (searches, saved))
    tune(tiny.cohort, tiny.cache, tmp_path / "told", NESTED, "cpu")
    tune(flipped, tiny.cache, tmp_path / "flipped", NESTED, "cpu")

    fold = Path("outer/repeat1-fold1")
    for name in ("best.json", "trials.csv"):
        assert (tmp_path / "told" / fold / name).read_bytes() == (
            tmp_path / "flipped" / fold / name
        ).read_bytes()
    one, other = (
        pd.read_csv(tmp_path / name / "predictions.csv").set_index("patient_id").sort_index()
        for name in ("told", "flipped")
    )
    for column in ("probability", "prediction"):
        assert one.loc[hidden, column].equals(other.loc[hidden, column])
    assert (one.loc[hidden, "label"] == 1 - other.loc[hidden, "label"]).all()
    rest = one.index.difference(hidden)  # whose models trained on the flipped labels
    assert not one.loc[rest, "probability"].equals(other.loc[rest, "probability"])


def test_each_outer_fold_keeps_the_attention_of_its_model(tiny: Tiny) -> None:
    table = outer_attention(tiny.study)
    assert table is not None
    assert list(table.columns) == ["repeat", "fold", "patient_id", "image", "attention"]
    predicted = pd.read_csv(tiny.study / "predictions.csv").set_index("patient_id")
    assert table.groupby("patient_id")["fold"].agg("unique").map(list).to_dict() == {
        patient: [fold] for patient, fold in predicted["fold"].items()
    }
    np.testing.assert_allclose(table.groupby("patient_id")["attention"].sum(), 1, atol=1e-6)
    images = table.groupby("patient_id")["image"].agg(tuple).to_dict()
    assert images == tiny.cohort.labelled().image_names


# What may be tuned.


def test_metadata_alone(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    options = ("--trials", 2, "--epochs", 2, "--folds", 2, "--outer-folds", 0, "--members", 1)
    done = command("tune", tiny.cohort_toml, "--features", "none", *options, "--study", tmp_path)
    assert done.code == 0, done.err
    assert read_json(tmp_path / "config.json")["features"] is None
    assert read_json(tmp_path / "best.json")["config"]["image_branch"] is False
    assert not {"pooling", "components", "hidden", "fusion"} & set(trials(tmp_path).columns)
    assert outer_attention(tmp_path) is None


def test_images_alone(tiny_options: Sequence[object], tmp_path: Path, command: Command) -> None:
    images = (*tiny_options, "--outer-folds", 0, "--set", "metadata_branch=none", "--study", tmp_path)
    assert command("tune", *images).code == 0
    assert read_json(tmp_path / "best.json")["config"]["metadata_branch"] == "none"
    assert not {"fusion", "auxiliary", "metadata_dropout"} & set(trials(tmp_path).columns)


def test_one_fold_is_a_single_split_of_80_and_20(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    done = command("tune", *tiny_options, "--folds", 1, "--outer-folds", 0, "--study", tmp_path)
    assert done.code == 0, done.err
    (held_out,) = read_json(tmp_path / "splits.json")["searches"]["final"]["inner"]
    assert len(held_out) == 5  # of 24


def test_the_founding_head(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    options = ("--features", tiny.features, "--trials", 2, "--epochs", 2, "--folds", 1, "--outer-folds", 0)
    done = command("tune", tiny.cohort_toml, *options, "--preset", "founding", "--study", tmp_path)
    assert done.code == 0, done.err
    assert read_json(tmp_path / "config.json")["study"]["objective"] == "balanced_accuracy"
    config = read_json(tmp_path / "best.json")["config"]
    expected = {
        "image_branch": True, "standardise": False, "components": 0, "pooling": "attention", "hidden": 128,
        "zero_start": False, "metadata_branch": "mlp", "metadata_hidden": 64, "metadata_dropout": 0.2,
        "fusion": "concat", "embedding_dropout": 0.0, "instance_dropout": 0.0, "class_weights": False,
        "gamma": 0.9, "weight_decay": 0.0,
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    assert config["optimizer"] in ("sgd", "adam") and config["learning_rate"] in (0.001, 0.005, 0.01)
    assert set(trials(tmp_path).columns[3:]) == {"optimizer", "learning_rate"}
    other = tmp_path.with_name(f"{tmp_path.name}-other")  # not inside a study
    overridden = command(
        "tune", tiny.cohort_toml, *options, "--preset", "founding", "--objective", "auc",
        "--set", "gamma=0.95", "--study", other,
    )  # fmt: skip
    assert overridden.code == 0
    assert read_json(other / "config.json")["study"]["objective"] == "auc"
    assert read_json(other / "best.json")["config"]["gamma"] == 0.95


def test_a_grid_walks_every_different_configuration_once(tiny: Tiny, tmp_path: Path) -> None:
    fixed = {name: (getattr(HeadConfig(), name),) for name in tunables(HeadConfig)} | {"epochs": (2,)}
    lists = {"pooling": ("mean", "attention"), "hidden": (32, 64), "components": (16, 32)}
    config = replace(PLAIN, trials=50, sampler="grid", settings=fixed | lists)
    tuned = tune(tiny.cohort, tiny.cache, tmp_path, config, "cpu")
    table = trials(tmp_path)
    assert tuned.trials == len(table) == 2 + 4  # mean pooling has no hidden layer
    assert not table.duplicated(["pooling", "hidden", "components"]).any()


def test_the_first_trial_is_the_defaults(tiny: Tiny) -> None:
    first = trials(tiny.study).iloc[0].dropna()  # empty: without effect in this trial
    assert len(first) > 3 + 5
    for name in first.index[3:]:
        default = getattr(HeadConfig(), name)
        assert first[name] == (pytest.approx(default) if isinstance(default, float) else default)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_trials_that_diverge_are_told_and_do_not_end_the_search(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    huge = (
        "--set",
        "optimizer=sgd",
        "--set",
        "standardise=false",
        "--set",
        "components=0",
        "--outer-folds",
        0,
    )
    rates = "learning_rate=1e30,0.001"
    done = command("tune", *tiny_options, *huge, "--set", rates, "--trials", 6, "--study", tmp_path / "some")
    assert done.code == 0 and "Traceback" not in done.err and "diverged" in done.err
    table = trials(tmp_path / "some")
    assert len(table) == 6
    assert set(table.loc[table["learning_rate"] > 1, "state"]) == {"FAIL"}
    assert read_json(tmp_path / "some" / "best.json")["config"]["learning_rate"] == 0.001

    done = command("tune", *tiny_options, *huge, "--set", "learning_rate=1e30", "--study", tmp_path / "all")
    assert done.code == 3 and "Traceback" not in done.err
    assert "every trial diverged" in done.err and not (tmp_path / "all" / "DONE").exists()


def test_a_class_smaller_than_the_folds_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="inner folds of all labelled patients: the negative class has"):
        tune(tiny.cohort, tiny.cache, tmp_path, replace(PLAIN, folds=15), "cpu")
    with pytest.raises(
        DataError, match="inner folds of the training patients of repeat 1, outer fold 1: the"
    ):
        tune(tiny.cohort, tiny.cache, tmp_path, replace(PLAIN, outer_folds=2, folds=7), "cpu")
    with pytest.raises(DataError, match=r"^the positive class has 14 patients, fewer than the 15"):
        tune(tiny.cohort, tiny.cache, tmp_path, replace(PLAIN, outer_folds=15), "cpu")
    assert not (tmp_path / "config.json").exists()


def test_patients_without_embeddings_are_named(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.features, tmp_path / "features")
    for shard in (tmp_path / "features").glob("*.h5"):
        shard.unlink()
    with pytest.raises(DataError) as caught:
        tune(tiny.cohort, FeatureCache.open(tmp_path / "features"), tmp_path / "study", PLAIN, "cpu")
    told, advice = caught.value.problems
    assert (
        told.startswith("24 of 24 patients have no embeddings") and "P001" in told and "--features" in advice
    )


@pytest.mark.parametrize(("name", "value"), [("trials", 0), ("folds", 0), ("members", 0), ("outer_folds", 1)])
def test_numbers_that_cannot_work_are_refused(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}"):
        StudyConfig(**{name: value})


def test_every_outer_fold_has_its_share_of_tumoral_patients(tiny: Tiny) -> None:
    labels = dict(zip(tiny.cohort.patient_ids, tiny.cohort.labels, strict=True))
    shares = [
        np.mean([labels[patient] for patient in search["test"]])
        for search in read_json(tiny.study / "splits.json")["searches"].values()
        if search["test"]
    ]
    assert len(shares) == 2 and max(shares) - min(shares) <= 1 / 12


# How a study is run.


@pytest.mark.parametrize(("sampler", "pruner"), [("tpe", "hyperband"), ("gp", "median"), ("random", "none")])
def test_every_sampler_and_pruner_goes_on_as_if_never_stopped(
    sampler: str, pruner: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial is stopped once, at an epoch that differs from trial to trial."""
    settings = {"epochs": (9,), "image_branch": (False,)}
    config = replace(PLAIN, trials=14, sampler=sampler, pruner=pruner, settings=settings)
    tune(tiny.cohort, None, tmp_path / "whole", config, "cpu")
    states = set(trials(tmp_path / "whole")["state"])
    assert states == ({"COMPLETE"} if pruner == "none" else {"COMPLETE", "PRUNED"})

    run, stopped = trial_module.run_trial, set[tuple[int, ...]]()

    def stop(*told: Any) -> Any:
        *rest, seed, on_epoch = told

        def stopping(curves: Any, value: float) -> None:
            on_epoch(curves, value)
            if tuple(seed) not in stopped and len(curves.logits) == 1 + len(stopped) % 7:
                stopped.add(tuple(seed))
                raise KeyboardInterrupt

        return run(*rest, seed, stopping)

    monkeypatch.setattr(trial_module, "run_trial", stop)
    while not (tmp_path / "stopped" / "DONE").exists():
        with contextlib.suppress(KeyboardInterrupt):
            tune(tiny.cohort, None, tmp_path / "stopped", config, "cpu")
    assert len(stopped) > 5
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def trained_again(study: Study, patients: Patients, search: Search, number: int) -> float:
    """The value of a stored trial, computed anew; of a pruned one the last that it reported."""
    workspace = Workspace.of(study, patients, "cpu")
    row = trials(study.search_folder(search).path).loc[number].dropna()
    settings = parse_settings([f"{name}={value}" for name, value in row.iloc[3:].items()])
    config = workspace.space.config_of({name: value for name, (value,) in settings.items()})
    reported = len(read_epochs(study.search_folder(search).epochs(number)))
    values: list[float] = []

    def on_epoch(_: Curves, value: float) -> None:
        values.append(value)
        if row["state"] == "PRUNED" and len(values) == reported:
            raise Pruned

    seed = trial_path(study.config.seed, search.path, number)
    with contextlib.suppress(Pruned):
        return run_trial(workspace.inputs(search), config, study.config.objective, seed, on_epoch).value
    return values[-1]


def test_a_stored_trial_trained_again_has_its_stored_value(tiny: Tiny, tmp_path: Path) -> None:
    """Complete or pruned, of an outer fold or the final search."""
    config = replace(NESTED, trials=9, settings={"epochs": (8,), "hidden": (32,)})
    tune(tiny.cohort, tiny.cache, tmp_path, config, "cpu")
    study, labelled, states = Study.open(tmp_path), tiny.cohort.labelled(), set()
    searches = {search.name: search for search in plan_searches(labelled, study.config)[0]}
    for search in (searches["final"], searches["repeat1-fold2"]):
        stored = pd.read_csv(study.search_folder(search).trials, dtype=str)
        for number in (0, 4, 6, 7, 8):
            value = trained_again(study, Patients.of(labelled, tiny.cache), search, number)
            assert value == float(stored.loc[number, "value"])
            states.add(stored.loc[number, "state"])
    assert states == {"COMPLETE", "PRUNED"}


def test_a_time_limit_ends_each_search_with_what_it_has(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    options = (*tiny_options, "--outer-folds", 2, "--trials", 500, "--study", tmp_path)
    done = command("tune", *options, "--timeout", 0.001, "--json")
    assert done.code == 0, done.err
    assert [len(trials(tmp_path / search)) for search in SEARCHES] == [1, 1, 1]
    before = outcome(tmp_path)
    assert command("tune", *options).code == 0 and outcome(tmp_path) == before  # it has chosen for good
    for wrong in (0, -1, "nan"):
        refused = command("tune", *options, "--timeout", wrong)
        assert refused.code == 2 and "--timeout must be above 0" in refused.err


def test_other_splits_and_another_space_are_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another version might bring them."""
    tune(tiny.cohort, tiny.cache, tmp_path, PLAIN, "cpu")
    before = outcome(tmp_path)
    searches, saved = plan_searches(tiny.cohort.labelled(), PLAIN)
    moved = copy.deepcopy(saved)
    moved.searches["final"].inner[0][0] = "P999"
    with monkeypatch.context() as patch, pytest.raises(DataError) as caught:
        patch.setattr(tuning, "plan_searches", lambda *_: (searches, moved))
        tune(tiny.cohort, tiny.cache, tmp_path, PLAIN, "cpu")
    (line,) = [line for line in caught.value.problems if line.startswith("searches.final.inner.fold1:")]
    assert line.endswith("there, P999 now.") and "splits.json" in caught.value.problems[0]
    described = Space.described
    with (
        monkeypatch.context() as patch,
        pytest.raises(DataError, match=r"space\.gamma\.low: 0\.85 there, 0\.5 now"),
    ):
        patch.setattr(
            Space,
            "described",
            lambda self: described(self) | {"gamma": SearchedInterval(0.5, 1.0, False)},
        )
        tune(tiny.cohort, tiny.cache, tmp_path, PLAIN, "cpu")
    assert outcome(tmp_path) == before


@pytest.mark.parametrize("objective", OUTCOME_METRICS["binary"].names)
def test_every_metric_can_be_the_objective(objective: str, tiny: Tiny, tmp_path: Path) -> None:
    """Also those that some predictions leave undefined: such a trial has no value."""
    config = replace(PLAIN, objective=objective, settings={"epochs": (2,), "image_branch": (False,)})
    tune(tiny.cohort, None, tmp_path, config, "cpu")
    table = trials(tmp_path)
    assert len(table) == 3 and (table["value"].isna() == (table["state"] == "FAIL")).all()
    assert np.isclose(table["value"], read_json(tmp_path / "best.json")["value"]).any()


def test_searches_side_by_side_give_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    """With images, whose embeddings the processes share; test_tune_faults has more processes."""
    config = Study.open(tiny.study).config
    tuned = tune(tiny.cohort, tiny.cache, tmp_path, config, "cpu", RunConfig(workers=2))
    own = {
        path: content
        for path, content in outcome(tiny.study).items()
        if not path.startswith(("ablation", "model"))
    }
    assert outcome(tmp_path) == own
    for name in ("config.json", "rivals.csv", "outer/repeat1-fold1/attention.csv", "out_of_fold.csv"):
        assert (tmp_path / name).read_bytes() == (tiny.study / name).read_bytes()
    assert tuned.trials == 6 and tuned.seconds_per_trial > 0


def test_workers_must_be_some(tiny_options: Sequence[object], tmp_path: Path, command: Command) -> None:
    done = command("tune", *tiny_options, "--study", tmp_path, "--workers", 0)
    assert done.code == 2 and "--workers must be at least 1, not 0" in done.err
