"""Atomic publishing: no half-written files, and no temporary ones of dead writers."""

import fcntl
import os
from pathlib import Path

import pytest

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import publish, remove_dead_temporaries


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
