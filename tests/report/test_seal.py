"""Whether a report is up to date: never after a change of anything that it may show."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import Command
from support.reports import rewrite
from support.studies import Tiny

from mil_toolkit.core.run_log import LOG
from mil_toolkit.report import page, seal
from mil_toolkit.report.seal import GENERATOR, MOST_BYTES, current_report, inputs_digest, with_seal
from mil_toolkit.study.folder import Study
from mil_toolkit.study.verification import verify

NOTE = 'One "image" is > 3 & missing.'
PAGE = b"<!doctype html>\n" + GENERATOR + b"<p>a page</p>\n" * 30


def inputs(study: Path) -> str:
    return inputs_digest(study, False, MOST_BYTES)


def flip(path: Path) -> None:
    """Change a byte of a file but neither its size nor its mtime."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(name="sealed")
def _sealed(copied: Path) -> Path:
    """A page in the study's folder that counts as its report."""
    path = copied / "report.html"
    path.write_bytes(with_seal(PAGE, inputs(copied), (NOTE,)))
    return path


@pytest.fixture(name="moved")
def _moved(copied: Path, tiny: Tiny, tmp_path: Path) -> Path:
    """A study whose cohort and features lie beside it, for tests to change."""
    for folder in (tiny.cohort_toml.parent, tiny.features):
        shutil.copytree(folder, tmp_path / folder.name)
    toml, features = tmp_path / tiny.cohort_toml.parent.name / "cohort.toml", tmp_path / tiny.features.name
    rewrite(copied / "sources.json", lambda sources: sources.update(cohort=str(toml), features=str(features)))
    return copied


def test_a_page_of_scores_that_were_verified_before_is_not_up_to_date(copied: Path) -> None:
    """The study may have changed since, and nobody would verify it again."""
    page.write_report(copied, scores=verify(Study.open(copied)))
    assert current_report(copied) is None


def test_a_report_is_drawn_only_if_it_is_not_up_to_date_or_forced(
    copied: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = command("report", copied, "--json")
    assert first.code == 0 and first.json["drawn"] is True
    content = (copied / "report.html").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(page, "write_report", None)  # not reached
        again = command("report", copied, "--json")
        assert again.json == {**first.json, "drawn": False}
        words = f"{copied}/report.html is up to date: {len(content) / 1e6:.1f} MB.\n"
        assert command("report", copied).out == words
        assert command("report", f"{copied}/../{copied.name}/").code == 0  # named in another way
    forced = command("report", copied, "--force", "--json")
    assert forced.json == first.json and (copied / "report.html").read_bytes() == content
    flip(copied / "predictions.csv")
    assert command("report", copied).code == 3  # as without an older report


def test_a_sealed_page_has_its_notes(sealed: Path) -> None:
    report = current_report(sealed.parent)
    assert report is not None and not report.drawn
    assert report.notes == (NOTE,) and report.size == sealed.stat().st_size
    assert current_report(sealed.parent, anonymise=True) is None


def test_every_file_of_the_study_counts(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "_code", list)  # it takes most of the time, and stays the same
    files = [path for path in copied.rglob("*") if path.is_file() and path.stat().st_size]
    names = {path.relative_to(copied).as_posix() for path in files}
    assert {"config.json", "predictions.csv", "outer/repeat1-fold1/best.json", "model/config.json"} < names
    for path in files:
        if path.suffix != ".html" and not path.name.startswith(".") and path.name != LOG:
            before = inputs(copied)
            flip(path)
            assert inputs(copied) != before, path


def test_new_and_vanished_files_and_folders_of_the_study_count(copied: Path, tmp_path: Path) -> None:
    digests = [inputs(copied)]
    changes: list[Callable[[], object]] = [
        (copied / "DONE").unlink,
        (copied / "canary.json").touch,
        (copied / "ablation").mkdir,
        lambda: (copied / "outer" / "repeat1-fold1").rename(copied / "outer" / "repeat1-fold9"),
        lambda: (copied / "model").rename(tmp_path / "model"),
        lambda: (copied / "epochs").rename(tmp_path / "epochs"),
        (copied / "sources.json").unlink,
    ]
    for change in changes:
        change()
        digests.append(inputs(copied))
    assert len(set(digests)) == len(digests)


def test_reports_locks_and_logs_in_the_study_do_not_count(copied: Path) -> None:
    before = inputs(copied)
    for name in ("report.html", "anonymous.HTM", ".lock", ".claim", LOG):
        (copied / name).write_text("x")
    assert inputs(copied) == before


def test_options_and_versions_count(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [
        inputs(copied),
        inputs_digest(copied, True, MOST_BYTES),
        inputs_digest(copied, False, MOST_BYTES - 1),
    ]
    monkeypatch.setattr(seal, "version", lambda name: "0" if name == "matplotlib" else "1")
    digests.append(inputs(copied))
    monkeypatch.setattr(seal, "version", lambda name: "1")
    digests.append(inputs(copied))
    assert len(set(digests)) == 5


@pytest.mark.parametrize("name", ["core/a.py", "report/templates/report.html", "report/templates/report.css"])
def test_the_code_counts(name: str, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "package" / name
    path.parent.mkdir(parents=True)
    path.write_text("x = 1")
    (tmp_path / "package" / "a.pyc").write_text("x = 1")  # follows from the code
    monkeypatch.setattr(seal, "__file__", str(tmp_path / "package" / "report" / "seal.py"))
    digests = [inputs(copied)]
    (tmp_path / "package" / "a.pyc").unlink()
    assert inputs(copied) == digests[0]
    flip(path)
    digests.append(inputs(copied))
    path.rename(path.with_name(f"other{path.suffix}"))
    digests.append(inputs(copied))
    assert len(set(digests)) == 3


def changed_data(root: Path, cohort: Path, features: Path) -> Iterator[Path]:
    """Change one file after another of the data of a study; yield what was changed."""
    image = next((cohort / "images").glob("*/*.jpg"))
    for path in (image, cohort / "patients.csv", *features.glob("*.h5"), features / "spec.json"):
        flip(path)
        yield path
    for change in (
        lambda: image.rename(image.with_name("new.jpg")),
        image.with_name("new.jpg").unlink,
        (image.parent / "second.png").touch,
        (image.parent / "empty").mkdir,
        (cohort / "images" / "NEW").mkdir,
        lambda: (cohort / "images").rename(root / "elsewhere"),
        lambda: features.rename(root / "features"),
        lambda: flip(cohort / "cohort.toml"),
    ):
        change()
        yield image


def test_every_change_of_the_cohort_and_the_features_counts(moved: Path, tiny: Tiny, tmp_path: Path) -> None:
    cohort, features = tmp_path / tiny.cohort_toml.parent.name, tmp_path / tiny.features.name
    digests = [inputs(moved)]
    for path in changed_data(tmp_path, cohort, features):
        digests.append(inputs(moved))
        assert len(set(digests)) == len(digests), path
    shutil.rmtree(cohort)
    assert inputs(moved) not in digests


def test_other_files_beside_the_data_do_not_count(moved: Path, tiny: Tiny, tmp_path: Path) -> None:
    cohort, features = tmp_path / tiny.cohort_toml.parent.name, tmp_path / tiny.features.name
    before = inputs(moved)
    for path in (cohort / "predictions.csv", next((cohort / "images").iterdir()) / "notes.txt"):
        path.touch()
    (features / "rehashes.json").write_text("{}")
    assert inputs(moved) == before


def test_the_images_of_an_image_table_count(moved: Path, tiny: Tiny, tmp_path: Path) -> None:
    cohort, outside = tmp_path / tiny.cohort_toml.parent.name, tmp_path / "outside" / "a.jpg"
    outside.parent.mkdir()
    outside.write_bytes(b"12")
    (cohort / "images.csv").write_text("patient,path\nP001,../outside/a.jpg\nP001,..\\outside\\b.jpg\n")
    text = (cohort / "cohort.toml").read_text()
    (cohort / "cohort.toml").write_text(text.replace("images = [", 'image_table = "images.csv"\n# ['))
    digests = [inputs(moved)]
    for change in (
        lambda: flip(outside),
        outside.with_name("b.jpg").touch,
        outside.unlink,
        lambda: flip(cohort / "images.csv"),
        (cohort / "images.csv").unlink,
    ):
        change()
        digests.append(inputs(moved))
    assert len(set(digests)) == len(digests)


def test_a_page_that_was_cut_or_edited_is_not_a_current_report(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, digest = sealed.read_bytes(), inputs(sealed.parent)
    monkeypatch.setattr(seal, "inputs_digest", lambda *_: digest)  # nothing else has changed
    for length in range(0, len(content), 41):
        sealed.write_bytes(content[:length])
        assert current_report(sealed.parent) is None, length
    for place in range(0, len(content), 7):
        sealed.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert current_report(sealed.parent) is None, place
    for other in (content + b"\n", content.replace(b"a page", b"a pagan"), PAGE, b""):
        sealed.write_bytes(other)
        assert current_report(sealed.parent) is None
    sealed.write_bytes(content)
    assert current_report(sealed.parent) is not None


@pytest.mark.parametrize("notes", ["", "{", "1", "[1]", "{&quot;a&quot;: 1}", "[" * 20000, "\xff"])
def test_a_foreign_seal_is_no_error(notes: str, copied: Path) -> None:
    meta = f'<meta name="mil_toolkit:seal" content="{"0" * 64} {notes}">\n'
    (copied / "report.html").write_bytes(PAGE.replace(GENERATOR, GENERATOR + meta.encode("latin-1")))
    assert current_report(copied) is None


def test_what_is_not_a_page_is_not_a_current_report(copied: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path / "pipe", tmp_path):
        assert current_report(copied, path) is None
    assert current_report(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "[", '{"working_folder": 1}'])
def test_sources_that_cannot_be_read_make_no_current_report(text: str, sealed: Path) -> None:
    (sealed.parent / "sources.json").write_text(text)
    assert current_report(sealed.parent) is None


def test_a_page_of_another_study_is_not_its_report(sealed: Path, study: Path, tmp_path: Path) -> None:
    assert current_report(study, sealed) is None
    shutil.copy2(sealed, tmp_path / "copy.html")
    assert current_report(sealed.parent, tmp_path / "copy.html") is not None  # wherever the page is
