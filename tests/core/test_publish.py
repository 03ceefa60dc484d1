"""Atomic publishing: no half-written files, and no temporary ones of dead writers."""

import fcntl
import os
from pathlib import Path

import pytest
from support.folders import names

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import publish, publish_json, read_json, remove_dead_temporaries, temporary_folder


def test_only_temporary_files_of_dead_writers_are_removed(tmp_path: Path) -> None:
    """Those of a living writer are locked."""
    dead, living = tmp_path / ".tmp-00000000deadbeef", tmp_path / ".tmp-0123456789abcdef"
    dead.write_bytes(b"half"), living.write_bytes(b"half")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_dead_temporaries(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".tmp-0123456789abcdef"]
    remove_dead_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_temporary_file_that_is_removed_too_early_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may remove a writer's file after its creation and before its locking."""
    lock, robbed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not robbed:
            robbed.extend(tmp_path.glob(".tmp-*"))
            robbed[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    publish(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content" and len(robbed) == 1


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failed_publish_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """And no temporary file."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    publish(tmp_path / "file", b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(
        UsageError,
        match=r"file cannot be written: No space left on device\. Files that",
    ):
        publish(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_published_files_obey_the_umask(tmp_path: Path) -> None:
    """Unlike files of tempfile, which only their owner can read."""
    mask = os.umask(0o027)
    try:
        publish(tmp_path / "file", b"")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_only_names_of_temporary_files_are_removed_and_pipes_do_not_block(tmp_path: Path) -> None:
    kept = (".tmp-mine", ".tmp-0123456789abcdef.txt", ".tmp-0123456789ABCDEF", "0123456789abcdef")
    for name in kept:
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / ".tmp-0000000000000000")
    (tmp_path / "target").touch()
    (tmp_path / ".tmp-1111111111111111").symlink_to("target")
    remove_dead_temporaries(tmp_path)
    remove_dead_temporaries(tmp_path / "absent")
    remove_dead_temporaries(tmp_path / "target")
    links = {".tmp-0000000000000000", ".tmp-1111111111111111", "target"}
    assert names(tmp_path) == {*kept, *links}


def test_a_temporary_folder_is_kept_while_it_is_used(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "file").touch()
        remove_dead_temporaries(tmp_path)
        assert (folder / "file").exists()
    assert names(tmp_path) == set()
    (tmp_path / folder.name / "sub").mkdir(parents=True)  # as after a kill
    remove_dead_temporaries(tmp_path)
    assert names(tmp_path) == set()


def test_a_temporary_folder_that_is_removed_too_early_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.extend(tmp_path.glob(".tmp-*"))
            removed[0].rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with temporary_folder(tmp_path) as folder:
        assert folder.is_dir() and folder != removed[0]


def test_json_with_the_name_of_a_file_that_is_not_utf_8_is_read_back(tmp_path: Path) -> None:
    publish_json(tmp_path / "file", {"name": "a\udcff", "other": "\u00e9"})
    assert read_json(tmp_path / "file") == {"name": "a\udcff", "other": "\u00e9"}
