"""Digests of the states of files: every change is recognised, and old files are not read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mil_toolkit.core import places
from mil_toolkit.core.file_state import FileState
from mil_toolkit.core.places import Place, states_digest


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A folder with two files, one of them in a folder below it, and an empty folder."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.csv").write_text("12")
    (folder / "below" / "b.csv").write_text("34")
    return folder


def rewrite_as_before(folder: Path) -> None:
    """Change the content of a file but neither its size nor its mtime."""
    path, status = folder / "a.csv", (folder / "a.csv").stat()
    path.write_text("13")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_file(folder: Path) -> None:
    (folder / "new").write_text("13")
    (folder / "new").rename(folder / "below/b.csv")


CHANGES: list[Callable[[Path], object]] = [
    rewrite_as_before,
    replace_file,
    lambda folder: (folder / "below/c.csv").touch(),
    lambda folder: (folder / "a.csv").unlink(),
    lambda folder: (folder / "a.csv").rename(folder / "b.csv"),
    lambda folder: (folder / "below/b.csv").rename(folder / "b.csv"),
    lambda folder: (folder / "second").mkdir(),
    lambda folder: (folder / "empty").rmdir(),
    lambda folder: (folder / "empty").rename(folder / "renamed"),
    lambda folder: (folder / "link").symlink_to("nowhere"),
    lambda folder: folder.rename(folder.with_name("other")),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_changes_the_digest(change: Callable[[Path], object], folder: Path) -> None:
    before = states_digest([Place(folder)])
    assert states_digest([Place(folder)]) == before
    change(folder)
    assert states_digest([Place(folder)]) != before


def test_files_that_do_not_count_change_nothing(folder: Path) -> None:
    place = Place(folder, lambda name: name.endswith(".csv"))
    before = states_digest([place])
    (folder / "below" / "notes.txt").touch()
    (folder / ".tmp-0123").mkdir()
    (folder / ".tmp-0123" / "c.csv").touch()
    assert states_digest([place]) == before


def test_a_missing_place_differs_from_an_empty_file_and_an_empty_folder(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    missing = states_digest([place])
    place.path.touch()
    empty = states_digest([place])
    place.path.unlink()
    place.path.mkdir()
    assert len({missing, empty, states_digest([place])}) == 3
    assert states_digest([Place(tmp_path / "a\0b")]) != missing  # cannot exist


def test_circles_of_links_end_and_linked_folders_count(folder: Path, tmp_path: Path) -> None:
    (folder / "circle").symlink_to(folder)
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    before = states_digest([Place(folder)])
    (tmp_path / "elsewhere" / "c.csv").touch()
    assert states_digest([Place(folder)]) != before


@pytest.fixture(name="coarse_clock")
def _coarse_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock under which every file has the state that its mtime in whole seconds is."""

    def state_of(status: os.stat_result) -> FileState:
        second = int(status.st_mtime) * 10**9
        return FileState(0, 0, 0, second, second)

    monkeypatch.setattr(FileState, "of", state_of)


@pytest.mark.usefixtures("coarse_clock")
def test_a_second_change_that_leaves_the_state_is_recognised(folder: Path) -> None:
    """As soon after the first as the clock does not tell apart."""
    os.utime(folder / "below/b.csv", (1000, 1000))
    before = states_digest([Place(folder)])
    rewrite_as_before(folder)
    assert states_digest([Place(folder)]) != before


@pytest.mark.usefixtures("coarse_clock")
def test_only_the_files_that_were_written_last_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(places, "digest_file", lambda path: read.append(path.name))
    os.mkfifo(folder / "pipe")
    for name, seconds in (("a.csv", 1000), ("below/b.csv", 1001), ("pipe", 900)):
        os.utime(folder / name, (seconds, seconds))
    states_digest([Place(folder)])
    assert sorted(read) == ["a.csv", "b.csv"]
    read.clear()
    os.utime(folder / "below/b.csv", (1003, 1003))
    states_digest([Place(folder)])
    assert read == ["b.csv"]


@pytest.mark.usefixtures("coarse_clock")
def test_of_very_many_files_those_written_last_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their order by name."""
    monkeypatch.setattr(places, "_FEW", 5)
    times = [1000 + 37 * number % 101 for number in range(101)]
    for number, seconds in enumerate(times):
        (tmp_path / f"{number}.csv").touch()
        os.utime(tmp_path / f"{number}.csv", (seconds, seconds))
    read = []
    monkeypatch.setattr(places, "digest_file", lambda path: read.append(path.name))
    states_digest([Place(tmp_path)])
    assert sorted(read) == sorted(f"{times.index(seconds)}.csv" for seconds in (1098, 1099, 1100))


def test_a_pipe_that_was_made_just_now_is_not_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert states_digest([Place(folder)]) == states_digest([Place(folder)])
