"""Access rights of what is replaced: its mode and its group are kept, and never widened."""

import os
from pathlib import Path

import pytest
from support.users import NOBODY, as_nobody, needs_root

from mil_toolkit.core import access
from mil_toolkit.core.files import publish
from mil_toolkit.core.outputs import published_folder


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o664, 0o400])
def test_a_replaced_file_keeps_its_mode(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    publish(path, b"old")
    path.chmod(kept)
    publish(path, b"new")
    assert path.read_bytes() == b"new" and mode(path) == kept


def test_the_new_content_of_a_private_file_is_never_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen, replace = tmp_path / "file", [], os.replace
    publish(path, b"old")
    path.chmod(0o600)
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(os.fstat(descriptor).st_mode & 0o077)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    publish(path, b"new")
    assert seen[0] == 0 and replace is os.replace


@needs_root
def test_a_replaced_file_keeps_its_group_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    publish(path, b"old")
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o660)
    publish(path, b"new")
    status = path.stat()
    assert (status.st_uid, status.st_gid, mode(path)) == (NOBODY, NOBODY, 0o660)


@pytest.mark.parametrize(
    ("before", "after"), [(0o660, 0o600), (0o664, 0o644), (0o604, 0o600), (0o775, 0o755), (0o777, 0o777)]
)
def test_where_the_group_cannot_be_kept_nobody_gets_more_access(
    before: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    publish(path, b"old")
    path.chmod(before)
    monkeypatch.setattr(access, "_adopt_group", lambda *_: False)
    publish(path, b"new")
    assert mode(path) == after


@needs_root
def test_a_colleague_outside_the_group_can_replace_a_file(tmp_path: Path) -> None:
    path = Path("/tmp") / f"{os.getpid()}-shared" / "file"
    publish(path, b"old")
    path.parent.chmod(0o777)
    path.chmod(0o640)
    try:
        as_nobody(lambda: publish(path, b"new"))
        status = path.stat()
        assert path.read_bytes() == b"new" and (status.st_uid, mode(path)) == (NOBODY, 0o600)
    finally:
        path.unlink()
        path.parent.rmdir()


def test_a_replaced_folder_and_its_files_keep_their_modes(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for name, kept in (("a", 0o600), ("sub/b", 0o640), ("gone", 0o600), ("sub", 0o750), ("", 0o2770)):
        if not (folder / name).exists():
            (folder / name).touch()
        (folder / name).chmod(kept)
    with published_folder(folder, "a model", lambda _: []) as building:
        assert mode(building) & 0o077 == 0  # nobody else reads what is not complete
        (building / "sub").mkdir()
        for name in ("a", "sub/b", "new"):
            (building / name).touch()
    assert {path.name: mode(path) for path in (folder, *folder.rglob("*"))} == {
        "model": 0o2770,
        "a": 0o600,
        "sub": 0o750,
        "b": 0o640,
        "new": 0o666 & ~current_umask(),
    }


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@needs_root
def test_new_files_of_a_group_folder_belong_to_its_group(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    os.chown(folder, 0, NOBODY)
    folder.chmod(0o2770)
    with published_folder(folder, "a model", lambda _: []) as building:
        (building / "new").touch()
    assert folder.stat().st_gid == (folder / "new").stat().st_gid == NOBODY
