"""The examples run from beginning to end, and every script answers --help or imports."""

import csv
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from support.paths import ROOT, needed
from support.programs import installed_programs
from support.studies import Tiny

from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.study import choice

HELPERS = ("alterations", "array_cohorts")  # which benchmarks import
BENCHMARKS = sorted(script for script in (ROOT / "benchmarks").glob("*.py") if script.stem not in HELPERS)
SCRIPT = ROOT / "examples" / "founding_report.sh"
ENCODERS_SCRIPT = ROOT / "examples" / "encoders.sh"
RunScript = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = ("extract", "tune", "fit", "predict", "ablate")
QUICK = {
    "BACKBONES": "resnet18",
    "WEIGHTS": "random",
    "IMAGE_SIZE": "32",
    "TRIALS": "1",
    "EPOCHS": "2",
    "REPEATS": "1",
    "OUTER": "2",
    "FOLDS": "2",
    "DEVICE": "cpu",
    "TUNE_EPOCHS": "1",
}


@pytest.fixture(scope="module", name="programs")
def _programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the commands of this source tree as programs."""
    folder = tmp_path_factory.mktemp("programs")
    with installed_programs(folder, COMMANDS):
        yield folder


@pytest.fixture(name="run_script")
def _run_script(programs: Path) -> RunScript:
    """Return a function that runs the script in a folder, with the commands on PATH."""

    def run_script(
        folder: Path, *argv: object, script: Path = SCRIPT, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(script), *map(str, argv)],
            cwd=folder,
            env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run_script


def comparison(text: str) -> Mapping[str, list[str]]:
    """Return the cells of each row of the Markdown table, by the row's first cell."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_founding_report_is_repeated_from_beginning_to_end(
    run_script: RunScript, tiny: Tiny, tmp_path: Path
) -> None:
    done = run_script(tmp_path, tiny.cohort_toml, **QUICK, FINETUNE="1")
    assert done.returncode == 0, done.stderr
    for words in ("frozen by default", "End to end, in every outer fold", "leaderboard is not repeated"):
        assert words in done.stderr
    for part in ("training", "validation", "outer", "pooling-mean"):
        assert f"\n{part} " in done.stdout

    output = tmp_path / "founding"
    table = (output / "comparison.md").read_text()
    assert done.stdout.endswith(table)
    rows = comparison(table)
    assert rows["patients"][:2] == ["204, of these 142 + 42", "24 labelled"]
    assert "142 + 42 is 184" in rows["patients"][-1]
    assert "impossible" in rows["validation accuracy"][-1]
    figures = {
        "training accuracy": "93 %", "training balanced accuracy": "90 %", "validation accuracy": "94 %",
        "validation sensitivity": "92 %", "validation specificity": "80 %",
        "validation balanced accuracy": "86 %", "metadata straight into the classifier": "73 %",
        "mean instead of attention": "80 %", "images only": "57 %", "metadata only": "64 %",
    }  # fmt: skip
    for name, figure in figures.items():
        report, single, nested, *_ = rows[name]
        assert report == figure and "%" in single and "%" in nested
    for name in [*list(figures)[2:], "trained end to end: balanced accuracy"]:
        assert " to " in rows[name][2]  # the interval
    (mask,) = (row for name, row in rows.items() if name.startswith("saturation mask (resnet18-random"))
    assert mask[0] == "about 10 points lower" and "%" in mask[1] and mask[3][0] in "+-"

    with (output / "submission.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3  # the unlabelled patients
    for name in ("single/full/model", "nested/ablation"):
        assert (output / name / "scores.json").is_file()


def test_finetune_must_be_0_or_1(run_script: RunScript, tiny: Tiny, tmp_path: Path) -> None:
    done = run_script(tmp_path, tiny.cohort_toml, **QUICK, FINETUNE="yes")
    assert done.returncode == 2 and done.stdout == "" and "FINETUNE must be 0 or 1, not yes" in done.stderr
    assert not (tmp_path / "founding").exists()


def test_encoders_are_compared_from_beginning_to_end(
    run_script: RunScript, tiny: Tiny, tmp_path: Path
) -> None:
    variables = {**QUICK, "BACKBONES": "resnet18 timm:test_vit", "IMAGE_SIZE": "160", "PROBE": "4"}
    done = run_script(tmp_path, tiny.cohort_toml, **variables, script=ENCODERS_SCRIPT)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()[:3]]
    assert [row[0] for row in table] == ["backbone", "resnet18", "timm:test_vit"]
    assert [row[3] for row in table[1:]] == ["512", "64"]
    assert "Nested cross-validation of resnet18" in done.stderr
    scores = json.loads((tmp_path / "encoders" / "ablation" / "scores.json").read_text())
    (other,) = (name for name in scores["variants"] if name.startswith("timm_test_vit-random-160"))
    difference = scores["variants"][other]["difference"]["differences"]["balanced_accuracy"]
    assert difference["low"] <= difference["value"] <= difference["high"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"BACKBONES": "resnet18"}, "BACKBONES must name at least two encoders, not resnet18"),
        ({"WEIGHTS": "a b c"}, "got 3 for 2"),
    ],
)
def test_encoders_and_weights_must_match(
    run_script: RunScript, tiny: Tiny, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    names = {**QUICK, "BACKBONES": "resnet18 resnet34", **variables}
    done = run_script(tmp_path, tiny.cohort_toml, **names, script=ENCODERS_SCRIPT)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr


@pytest.mark.parametrize("argv", [(), ("one.toml", "two.toml")])
def test_the_script_expects_exactly_one_cohort(
    argv: tuple[str, ...], run_script: RunScript, tmp_path: Path
) -> None:
    done = run_script(tmp_path, *argv, **QUICK)
    assert done.returncode == 2 and "usage:" in done.stderr and done.stdout == ""


def test_a_failing_command_ends_the_script(run_script: RunScript, tmp_path: Path) -> None:
    done = run_script(tmp_path, tmp_path / "nowhere.toml", **QUICK)
    assert done.returncode == 3 and "nowhere.toml" in done.stderr
    assert not (tmp_path / "founding" / "comparison.md").exists()


def test_the_quickstart_runs_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quickstart.py", str(tmp_path / "quickstart")])
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "balanced accuracy on held-out patients (outer folds): 0." in out
    assert "best pooling: " in out
    for column in ("probability", "prediction", "spread", "most attended"):
        assert column in out
    assert sum(line.startswith("P0") for line in out.splitlines()) == 4  # the unlabelled patients


# Benchmarks and the script of the pictures: they take too long to run here.


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda script: script.stem)
def test_every_benchmark_answers_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")  # restored afterwards, whatever the script sets
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    monkeypatch.syspath_prepend(script.parent)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    for name in ("extraction", "classical_data", *HELPERS):  # which other benchmarks import
        sys.modules.pop(name, None)
    assert stop.value.code == 0
    assert f"usage: {script.name}" in capsys.readouterr().out


def test_the_benchmark_of_the_defaults_can_always_take_the_best_trial() -> None:
    """It replaces the function by which a study compares that trial with the defaults."""
    defaults = runpy.run_path(str(ROOT / "benchmarks" / "defaults.py"))
    compared = vars(choice)["best_or_defaults"]
    with defaults["best_always_replaces_defaults"]():
        assert vars(choice)["best_or_defaults"](["defaults"], "best", "auc", None) == ("best", None)
    assert vars(choice)["best_or_defaults"] is compared


def test_the_script_of_the_pictures_explains_itself() -> None:
    needed(importlib.util.find_spec("selenium"), "selenium")
    script = ROOT / "docs" / "pictures.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "python docs/pictures.py" in done.stderr


def test_altered_images_are_embedded_as_those_of_the_cache(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    altered = runpy.run_path(str(ROOT / "benchmarks" / "domain.py"), run_name="domain")["altered"]
    asked: list[tuple[object, ...]] = []

    def note(*arguments: object) -> dict[str, Path]:
        asked.append(arguments)
        return {}

    monkeypatch.setitem(altered.__globals__, "altered_caches", note)
    assert altered(str(tiny.cohort_toml), str(tiny.features), tmp_path, 2) == {}
    ((_, config, _, colour),) = asked
    assert isinstance(config, ExtractionConfig)
    assert (config.image_size, config.weights, colour) == (32, "random", None)
