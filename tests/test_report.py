"""The report: what it shows of a study, what it leaves out, and that it is one file which asks for nothing."""

from pathlib import Path

import pytest
from support import Command, Tiny

from mil_toolkit.report.page import write_report


@pytest.fixture(scope="module")
def page(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the tiny study."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(tiny.study, path)
    return path.read_text()


def test_the_command_writes_the_report_where_it_is_told(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    done = command("report", tiny.study, "--output", tmp_path / "r.html", "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(tmp_path / "r.html")
    assert done.json["bytes"] == (tmp_path / "r.html").stat().st_size


def test_the_same_folder_gives_the_same_bytes(tiny: Tiny, tmp_path: Path, page: str) -> None:
    write_report(tiny.study, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page
