"""Commands that take long say what is left: by a bar on a terminal, by lines of the log elsewhere."""

import io
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.commands import Command
from support.studies import Tiny
from support.tiny_images import BAGS, write_cohort

from mil_toolkit.core import progress

LINE = r"^{}: \d+ of \d+ {} after \d+ s: about \d+ s left\.$"
EXTRACT = ("extract", "cohort.toml", "--backbone", "resnet18", "--weights", "random", "--image-size", "32")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(name="calls")
def _calls(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence[object]]:
    """Calls of commands that have something to do, by command."""
    study = shutil.copytree(tiny.study, tmp_path / "study")
    write_cohort(tmp_path, BAGS)
    monkeypatch.chdir(tmp_path)
    of_study = (tiny.cohort_toml, "--study", study, "--features", tiny.features)
    return {
        "extract": EXTRACT,
        "ablate": ("ablate", *of_study, "--workers", 1),
        "fit": ("fit", *of_study),
        "report": ("report", study, "--force"),
    }


@pytest.mark.parametrize(
    ("name", "task", "units"),
    [
        ("extract", "embedding", "images"),
        ("ablate", "ablation", "variants in folds"),
        ("report", "drawing images", "patients"),
    ],
)
def test_a_log_gets_lines_and_stdout_the_result(
    name: str,
    task: str,
    units: str,
    calls: dict[str, Sequence[object]],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_SHARE", 0.0)
    done = command(*calls[name])
    assert done.code == 0
    assert re.search(LINE.format(task, units), done.err, re.MULTILINE) and "%|" not in done.err
    assert not re.search(LINE.format(task, units), done.out, re.MULTILINE) and "%|" not in done.out


@pytest.mark.parametrize(("name", "task"), [("extract", "embedding"), ("fit", "fitting")])
def test_a_terminal_gets_a_bar_unless_it_is_to_be_quiet(
    name: str,
    task: str,
    calls: dict[str, Sequence[object]],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    done = command(*calls[name])
    assert done.code == 0 and "%|" not in done.out
    assert f"\r{task}: 100%|" in shown.getvalue() and "left." not in shown.getvalue()

    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    assert command(*calls[name], "--quiet").code == 0 and quiet.getvalue() == ""
