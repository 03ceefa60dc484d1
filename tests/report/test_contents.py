"""What is read of a study folder, also of older studies."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.reports import thumbnails, written

from mil_toolkit.core.errors import DataError
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.page import write_report


def test_an_older_study_that_lacks_files_has_a_report(copied: Path, tmp_path: Path) -> None:
    for name in ("patients.json", "sources.json", "audit.json"):
        (copied / name).unlink()
    for each in copied.glob("outer/*/attention.csv"):
        each.unlink()
    shutil.rmtree(copied / "epochs")
    shown = written(copied, tmp_path / "r.html")
    assert "older version" in shown and "no stored attention" in shown and not thumbnails(shown)


def test_a_broken_file_is_reported(copied: Path, tmp_path: Path) -> None:
    (copied / "scores.json").write_text("{")
    with pytest.raises(DataError, match=r"scores\.json cannot be read"):
        write_report(copied, tmp_path / "r.html")


@pytest.mark.parametrize(
    ("outcome", "names"),
    [
        (Binary("D", 1, 0), ("negative (0)", "positive (1)")),
        (Binary("D", "tumoral", "reactive"), ("reactive", "tumoral")),
        (Classes("D", ("A", "B")), ("A", "B")),
    ],
)
def test_only_short_names_of_positive_and_negative_are_explained(
    outcome: Outcome, names: tuple[str, ...]
) -> None:
    contents = SimpleNamespace(study=SimpleNamespace(outcome=outcome), patients=None)
    assert Contents.class_names.fget(contents) == names  # type: ignore[attr-defined]
