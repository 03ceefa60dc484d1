"""mil-report: where the report goes, and what is refused."""

import shutil
from pathlib import Path

import pytest
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.core.errors import UsageError
from mil_toolkit.report import page


@pytest.fixture(name="copied")
def _copied(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny study, for tests to change."""
    return Path(shutil.copytree(tiny.study, tmp_path / "study"))


def test_the_report_is_written_to_the_output(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    done = command("report", tiny.study, "--output", tmp_path / "r.html", "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(tmp_path / "r.html")
    assert done.json["bytes"] == (tmp_path / "r.html").stat().st_size
    assert done.json["notes"] == []


def test_the_report_replaces_an_older_report_only(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    table.write_text("ID,LABEL\n")
    page.write_text("<!doctype html>\n<title>x: study report</title><p>the older one</p>")
    assert (
        command("report", tiny.study, "--output", page).code == 0 and "the older one" not in page.read_text()
    )
    monkeypatch.setattr("mil_toolkit.report.page.render", None)  # not reached
    for output, words in (
        (table, "is not a report"),
        (tmp_path, "is not a file"),
        (table / "x", "Not a directory"),
    ):
        done = command("report", tiny.study, "--output", output)
        assert done.code == 2 and words in done.err
    assert table.read_text() == "ID,LABEL\n"


def test_a_folder_that_is_not_a_finished_study_is_refused(
    copied: Path, tmp_path: Path, command: Command
) -> None:
    nothing = command("report", tmp_path)
    assert nothing.code == 3 and "is not a study folder: it has no config.json" in nothing.err
    (copied / "DONE").unlink()
    (copied / "report.html").unlink(missing_ok=True)  # other tests may have written one into the shared study
    stopped = command("report", copied)
    assert stopped.code == 3 and "has not ended" in stopped.err and not (copied / "report.html").exists()
    for done in (nothing, stopped):
        assert done.out == "" and "Traceback" not in done.err


def test_mil_fit_ends_with_the_report(
    tiny: Tiny, copied: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    common = (tiny.cohort_toml, "--features", tiny.features, "--study", copied)
    fitted = command("fit", *common, "--json")
    assert fitted.code == 0 and fitted.json["report"] == str(copied / "report.html")
    assert "Predictions for other patients." in (copied / "report.html").read_text()

    def full(*_: object) -> None:
        raise UsageError("The disk is full.")

    monkeypatch.setattr("mil_toolkit.report.contents.verify", None)  # mil-fit has verified the study
    monkeypatch.setattr(page, "publish", full)
    failed = command("fit", *common)
    assert failed.code == 0 and "No report: The disk is full." in failed.out


# What counts in an image.


def test_saliency_is_off_by_default_and_drawn_on_request(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    page = tmp_path / "r.html"
    plain = command("report", tiny.study, "--output", page, "--json").json
    before = page.read_text()
    assert "the places that count" not in before
    done = command("report", tiny.study, "--output", page, "--saliency", "--json")
    assert done.code == 0, done.err
    html = page.read_text()
    count = html.count(": the places that count")
    assert count > 0 and html.count("data:image/jpeg") == before.count("data:image/jpeg") + count
    assert any("fitted on these patients too" in note for note in done.json["notes"]) and not plain["notes"]
    again = command("report", tiny.study, "--output", page, "--saliency", "--json").json
    assert not again["drawn"]
    without = command("report", tiny.study, "--output", page, "--json").json
    assert without["drawn"] and page.read_text() == before


def test_saliency_needs_a_model(copied: Path, tmp_path: Path, command: Command) -> None:
    shutil.rmtree(copied / "model")
    done = command("report", copied, "--output", tmp_path / "r.html", "--saliency")
    assert done.code == 2 and "--saliency: the study has no model. Run mil-fit first." in done.err
    weights = command("report", copied, "--output", tmp_path / "r.html", "--weights", tmp_path / "w.pt")
    assert weights.code == 2 and "--weights is for --saliency only" in weights.err
