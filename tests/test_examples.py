"""The examples run from beginning to end, with commands that are found on PATH."""

import csv
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.paths import ROOT
from support.studies import Tiny

SCRIPT = ROOT / "examples" / "founding_report.sh"
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


def run_script(folder: Path, *argv: object, **told: str) -> subprocess.CompletedProcess[str]:
    """Run the script in `folder`, with commands that run this source tree."""
    programs = folder / "bin"
    programs.mkdir()
    for name in COMMANDS:
        program = programs / f"mil-{name}"
        program.write_text(
            f"#!{sys.executable}\nimport sys\nfrom mil_toolkit.cli.{name} import main\nsys.exit(main())\n"
        )
        program.chmod(0o755)
    own = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, argv)],
        cwd=folder,
        env={**os.environ, **own, **told},
        capture_output=True,
        text=True,
        check=False,
    )


def comparison(text: str) -> Mapping[str, list[str]]:
    """The cells of each row of the Markdown table, by the row's first cell."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_founding_report_is_rerun_from_beginning_to_end(tiny: Tiny, tmp_path: Path) -> None:
    done = run_script(tmp_path, tiny.cohort_toml, **QUICK, FINETUNE="1")
    assert done.returncode == 0, done.stderr
    for told in ("frozen by default", "End to end, in every outer fold", "public leaderboard is left out"):
        assert told in done.stderr
    for part in ("training", "validation", "outer", "pooling-mean"):
        assert f"\n{part} " in done.stdout

    output = tmp_path / "founding"
    table = (output / "comparison.md").read_text()
    assert done.stdout.endswith(table)
    rows = comparison(table)
    assert rows["patients"][:2] == ["204, of these 142 + 42", "24 labelled"]
    assert "142 + 42 is 184" in rows["patients"][-1]
    assert "cannot be" in rows["validation accuracy"][-1]
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


def test_fine_tuning_is_asked_for_by_0_or_1(tiny: Tiny, tmp_path: Path) -> None:
    done = run_script(tmp_path, tiny.cohort_toml, **QUICK, FINETUNE="yes")
    assert done.returncode == 2 and done.stdout == "" and "neither 0 nor 1" in done.stderr
    assert not (tmp_path / "founding").exists()


@pytest.mark.parametrize("argv", [(), ("one.toml", "two.toml")])
def test_the_script_wants_one_cohort(argv: tuple[str, ...], tmp_path: Path) -> None:
    done = run_script(tmp_path, *argv, **QUICK)
    assert done.returncode == 2 and "usage:" in done.stderr and done.stdout == ""


def test_a_failing_command_ends_the_script(tmp_path: Path) -> None:
    done = run_script(tmp_path, tmp_path / "nowhere.toml", **QUICK)
    assert done.returncode == 3 and "nowhere.toml" in done.stderr
    assert not (tmp_path / "founding" / "comparison.md").exists()


def test_the_quickstart_runs_as_it_stands(
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
