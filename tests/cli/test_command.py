"""Every command as its user meets it: help, results, progress, exit codes and errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from support.commands import Command
from support.paths import COMMANDS
from support.studies import Tiny

from mil_toolkit.cli import command as frame
from mil_toolkit.cli import tune
from mil_toolkit.core.errors import BusyError, DataError, UsageError
from mil_toolkit.core.locks import exclusive

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]


def no_traceback(text: str) -> bool:
    return "Traceback" not in text and "defect" not in text


# Help.


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_does(name: str, command: Command) -> None:
    done = command(name, "--help")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith(f"usage: mil-{name} ")
    assert "(default: None)" not in done.out and "(default: [])" not in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_nothing_heavy(name: str) -> None:
    """What makes help answer at once; the time itself depends on the machine."""
    script = f"""
import sys
from mil_toolkit.cli.{name} import main
try:
    main(["--help"])
except SystemExit:
    heavy = {{"torch", "numpy", "pandas", "optuna", "sklearn", "PIL", "h5py"}} & set(sys.modules)
    sys.exit(f"help loads {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_a_usage_error(name: str, command: Command) -> None:
    done = command(name, "--no-such-option")
    assert done.code == 2 and done.out == "" and done.err.startswith(f"usage: mil-{name} ")


# The frame: errors and exit codes.


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("That cannot work."), 2),
        (DataError(["row 3: one.", "row 5: another."]), 3),
        (BusyError("Try again."), 75),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_told_without_a_traceback(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> frame.Outcome:
        raise error

    assert frame.run(frame.command_parser("mil-test", "A test."), fail, []) == code
    out, err = capsys.readouterr()
    assert out == "" and no_traceback(err)
    assert err == f"mil-test: {str(error) or 'interrupted'}\n"


def test_an_interrupt_stays_one_where_a_library_stumbles_over_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> frame.Outcome:
        try:
            raise KeyboardInterrupt
        finally:
            raise UnboundLocalError("updated_state")  # as optuna does, where it is stopped between two lines

    assert frame.run(frame.command_parser("mil-test", "A test."), fail, []) == 130
    assert capsys.readouterr().err == "mil-test: interrupted\n"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_command_that_ends_already(sent: signal.Signals) -> None:
    """And Python shows no traceback of what it does at its end."""
    script = f"""
import atexit, os, sys
from mil_toolkit.cli import command
def stop(_):
    os.kill(os.getpid(), {int(sent)})
atexit.register(stop, None)
sys.exit(command.run(command.command_parser("mil-test", "A test."), stop, []))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-sent, "mil-test: interrupted\n")


@pytest.mark.parametrize("full", [False, True], ids=["closed", "full"])
def test_a_stdout_that_takes_nothing_shows_no_traceback(full: bool) -> None:
    script = """
import sys
from mil_toolkit.cli import command
told = command.Outcome("done", {}, 4)
sys.exit(command.run(command.command_parser("mil-test", "A test."), lambda _: told, []))
"""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, open("/dev/full", "w") as device:
        stdout = device if full else closed
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "mil-test: done, but stdout cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == ((2, said) if full else (4, ""))


def test_a_defect_of_ours_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> frame.Outcome:
        raise ZeroDivisionError("never meant to happen")

    assert frame.run(frame.command_parser("mil-test", "A test."), fail, []) == 1
    assert "Traceback" in (err := capsys.readouterr().err)
    assert "this is a defect of mil_toolkit, not of your data." in err


# The results.


def test_init_reads_a_table_and_writes_a_cohort(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    cohort, output = tiny.cohort_toml.parent, tmp_path / "cohort.toml"
    done = command("init", cohort / "patients.csv", cohort / "images", "--output", output, "--json")
    assert done.code == 0 and output.is_file()
    assert done.json["output"] == str(output) and done.json["patients"] == 27
    assert {"doubts", "problems"} <= done.json.keys()


def test_extract_prints_the_cache_folder_alone(tiny: Tiny, command: Command) -> None:
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 32)
    done = command("extract", tiny.cohort_toml, *options, "--cache", tiny.folder / "cache")
    assert done.code == 0 and done.out == f"{tiny.features}\n"
    assert "27 patients" in done.err and ": 0 embedded, 0 skipped" in done.err


def test_extract_tells_json(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 32, "--dry-run", "--json")
    told = command("extract", tiny.cohort_toml, *options, "--cache", tmp_path).json
    assert told["patients"] == 27 and told["images"] == told["extracted"] > 27
    assert told["skipped"] == [] and told["images_per_second"] >= 0
    assert Path(told["features"]).name == tiny.features.name


def test_an_unreadable_image_is_named_or_skipped(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    broken = tmp_path / "cohort" / "images" / "P002" / "000.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 32, "--cache", tmp_path / "c")
    failed = command("extract", tmp_path / "cohort" / "cohort.toml", *options)
    assert failed.code == 3 and failed.out == "" and no_traceback(failed.err)
    assert "P002/000.jpg" in failed.err
    done = command("extract", tmp_path / "cohort" / "cohort.toml", *options, "--on-error", "skip", "--json")
    assert done.code == 4
    assert [line for line in done.json["skipped"] if "P002/000.jpg" in line] == done.json["skipped"] != []


def test_tune_tells_json(tiny_options: Sequence[object], tmp_path: Path, command: Command) -> None:
    done = command("tune", *tiny_options, "--outer-folds", 2, "--study", tmp_path / "study", "--json")
    assert done.code == 0 and no_traceback(done.err)
    told = done.json
    assert told["study"] == str(tmp_path / "study")
    assert told["trials"] == 2 * 3 and told["seconds_per_trial"] > 0
    assert told["best"].keys() <= set(pd.read_csv(tmp_path / "study" / "trials.csv").columns)
    for part in ("inner", "outer"):
        assert {"balanced_accuracy", "sensitivity", "specificity", "auc"} <= told[part].keys()
        assert {"value", "patients", "repeats"} <= told[part]["balanced_accuracy"].keys()
        assert told[part]["balanced_accuracy"]["patients"] == 24


def test_tune_says_which_score_is_optimistic(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    nested = command("tune", *tiny_options, "--outer-folds", 2, "--study", tmp_path / "nested").out
    for word in ("training", "validation", "outer", "accuracy", "balanced_accuracy", "sensitivity"):
        assert word in nested
    assert "optimistic" in nested
    assert "referred to flow cytometry" in nested and "over single members (seeds)" in nested
    plain = command("tune", *tiny_options, "--outer-folds", 0, "--study", tmp_path / "plain")
    assert "optimistic" in plain.out and "no honest score" in plain.out
    assert json.loads((tmp_path / "plain" / "scores.json").read_text())["outer"] is None


def test_a_first_look_has_no_outer_folds_and_what_is_told_wins(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    options = ("--features", tiny.features, "--quick", "--trials", 1, "--epochs", 2, "--folds", 2)
    done = command("tune", tiny.cohort_toml, *options, "--study", tmp_path / "s")
    assert done.code == 0 and "--quick is a first look" in done.out
    told = json.loads((tmp_path / "s" / "config.json").read_text())["study"]
    assert (told["trials"], told["outer_folds"], told["members"]) == (1, 0, 1)


def test_fit_and_predict_tell_json(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    common = (tiny.cohort_toml, "--features", tiny.features, "--json")
    fitted = command("fit", *common, "--study", tiny.study, "--output", tmp_path / "model").json
    assert fitted["bundle"] == str(tmp_path / "model") and fitted["members"] == 2
    assert 1 <= fitted["epochs"] <= 3 and 0 < fitted["threshold"] < 1
    told = command("predict", tmp_path / "model", *common, "--output", tmp_path / "p.csv").json
    assert told["predictions"] == str(tmp_path / "p.csv") and told["patients"] == 27


def test_features_may_be_left_out_where_one_cache_exists(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.folder)
    done = command("fit", tiny.cohort_toml, "--study", tiny.study, "--output", tmp_path / "model")
    assert done.code == 0


# What goes wrong.


def wrong_calls(tiny: Tiny, tmp: Path) -> dict[str, tuple[int, str, tuple[object, ...]]]:
    """By what is wrong: the exit code, words of the message, and the call."""
    toml, features, empty = tiny.cohort_toml, ("--features", tiny.features), tmp / "empty"
    empty.mkdir()
    tune = ("tune", toml, *features, "--study", tmp / "study")
    return {
        "no cohort": (3, "nowhere.toml", ("tune", tmp / "nowhere.toml", "--study", tmp / "study")),
        "no cache": (3, "is not a feature cache", ("tune", toml, "--features", empty, "--study", tmp / "study")),
        "no study": (3, "is no study: it has no config.json", ("fit", toml, *features, "--study", empty)),
        "no bundle": (3, "config.json", ("predict", empty, toml, *features)),
        "no table": (3, "nowhere.csv", ("init", tmp / "nowhere.csv", empty)),
        "wrong settings": (2, "--set poling=mean", (*tune, "--set", "poling=mean", "--set", "hidden=x")),
        "no trials": (2, "--trials must be at least 1", (*tune, "--trials", 0)),
        "no epochs": (2, "--epochs must be at least 1, not 0.", (*tune, "--epochs", 0)),
        "one outer fold": (2, "--outer-folds must be 0", (*tune, "--outer-folds", 1)),
        "many folds": (3, "fold", (*tune, "--folds", 20)),
        "intervals in a grid": (2, "learning_rate", (*tune, "--sampler", "grid")),
        "unknown device": (2, "--device 'tpu'", (*tune, "--device", "tpu")),
        "absent card": (2, "cuda:7", (*tune, "--device", "cuda:7")),
        "nothing to look at": (2, "neither images nor metadata", (*tune, "--set", "image_branch=false", "--set", "metadata_branch=none")),
        "unknown backbone": (2, "resnet", ("extract", toml, "--backbone", "resnet99", "--cache", tmp / "c")),
        "unknown weights": (2, "nowhere.pth", ("extract", toml, "--weights", "nowhere.pth", "--cache", tmp / "c")),
        "unknown share": (2, "--shard", ("extract", toml, "--weights", "random", "--shard", "5/2", "--cache", tmp / "c")),
        "submission header": (2, "--submission-header", ("predict", tiny.bundle, toml, "--submission-header", "ID")),
        "demo over something": (2, "not an empty folder", ("demo", "--output", tiny.folder)),
    }  # fmt: skip


WRONG = (
    "no cohort",
    "no cache",
    "no study",
    "no bundle",
    "no table",
    "wrong settings",
    "no trials",
    "no epochs",
    "one outer fold",
    "many folds",
    "intervals in a grid",
    "unknown device",
    "absent card",
    "nothing to look at",
    "unknown backbone",
    "unknown weights",
    "unknown share",
    "submission header",
    "demo over something",
)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mistake_is_told_plainly(wrong: str, tiny: Tiny, tmp_path: Path, command: Command) -> None:
    code, words, call = wrong_calls(tiny, tmp_path)[wrong]
    done = command(*call)
    assert (done.code, done.out) == (code, "")
    assert no_traceback(done.err) and words in done.err
    assert done.err.startswith(f"mil-{call[0]}: ")
    assert not (tmp_path / "study" / "DONE").exists()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("extract", ("--backbone", "resnet19"), "--backbone 'resnet19' is not one of"),
        ("extract", ("--weights", "nowhere.pth"), "there is no such file"),
        ("extract", ("--shard", "0/3"), "--shard '0/3'"),
        (
            "extract",
            ("--image-size", 0, "--workers", -1),
            "--image-size must be at least 32, not 0.\n--workers",
        ),
        ("extract", ("--device", "tpu"), "--device 'tpu'"),
        ("tune", ("--study", "s", "--device", "tpu"), "--device 'tpu'"),
        ("fit", ("--study", "s", "--device", "tpu"), "--device 'tpu'"),
        ("ablate", ("--study", "s", "--device", "tpu"), "--device 'tpu'"),
    ],
)
def test_options_are_checked_before_the_cohort_is_read(
    name: str, options: Sequence[object], words: str, tmp_path: Path, command: Command
) -> None:
    done = command(name, tmp_path / "nowhere.toml", *options)
    assert done.code == 2 and words in done.err and "nowhere.toml" not in done.err


def test_a_wrong_number_of_outer_folds_is_told_as_a_user_knows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tune.main(["c.toml", "--study", str(tmp_path), "--outer-folds", "x"])
    assert "--outer-folds: expected a whole number or groups, not 'x'" in capsys.readouterr().err


def test_every_bad_cell_is_named_at_once(edit_cohort: EditCohort, tmp_path: Path, command: Command) -> None:
    def spoil(table: pd.DataFrame) -> None:
        table.loc[2, "BIRTH"] = "1950-01-31"
        table.loc[5, "DIAGNOSIS"] = "unsure"

    toml = edit_cohort(spoil)
    for name in ("extract", "tune"):
        done = command(name, toml, *(("--study", tmp_path / "s") if name == "tune" else ()))
        assert done.code == 3 and done.out == "" and no_traceback(done.err)
        for words in ("row 4", "P003", "1950-01-31", "row 7", "P006", "unsure"):
            assert words in done.err


def test_a_busy_study_is_left_alone(tiny_options: Sequence[object], tmp_path: Path, command: Command) -> None:
    study = tmp_path / "study"
    with exclusive(study):
        done = command("tune", *tiny_options, "--study", study)
    assert done.code == 75 and done.out == "" and no_traceback(done.err)
    assert str(study) in done.err
    assert [path.name for path in study.iterdir()] == [".lock"]
    assert command("tune", *tiny_options, "--outer-folds", 0, "--study", study).code == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_ends_with_130(
    sent: signal.Signals, tiny_options: Sequence[object], tmp_path: Path
) -> None:
    argv = [str(each) for each in (*tiny_options, "--trials", 500, "--study", tmp_path)]
    process = start("tune", argv)
    wait_for(tmp_path / "outer" / "repeat1-fold1" / "epochs" / "trial0001.jsonl", process)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert no_traceback(err) and err.endswith("mil-tune: interrupted\n")


def start(name: str, argv: Sequence[str]) -> subprocess.Popen[str]:
    script = f"import sys; from mil_toolkit.cli.{name} import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", script, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate(timeout=1)
        time.sleep(0.02)
