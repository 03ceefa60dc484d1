"""Reading files that others made: only regular files, within a limit, with errors that name them."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.users import as_nobody, needs_root

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import read_json
from mil_toolkit.core.reading import MEBIBYTE, check_input, open_input, read_input, unreadable


def test_a_regular_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"content")
    link.symlink_to(path)
    assert read_input(path, 7) == read_input(link, 7) == b"content"


def test_a_missing_file_is_left_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_input(tmp_path / "missing")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_pipe, "a named pipe"),
        (make_socket, "a socket"),
        (make_endless_device, "a device"),
        (Path.mkdir, "a folder"),
    ],
)
def test_what_is_not_a_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    path = tmp_path / "x"
    make(path)
    with pytest.raises(DataError, match=f"x is {kind}, where a regular file is expected"):
        check_input(path)


def loop_of_links(folder: Path) -> Path:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return folder / "a"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (loop_of_links, "Too many levels of symbolic links"),
        (lambda folder: folder / ("n" * 300), "File name too long"),
        (lambda folder: folder / "a\0b", "cannot be the path of a file"),
        (lambda folder: folder / "\ud800", "cannot be the path of a file"),
    ],
)
def test_a_path_that_cannot_name_a_file_is_refused_in_a_sentence(
    tmp_path: Path, name: Callable[[Path], Path], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        check_input(name(tmp_path))


def test_a_file_above_the_limit_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(DataError, match="sparse is larger than 3 MiB"):
        read_input(path, 3 * MEBIBYTE)


def test_a_file_that_hides_its_size_is_read_up_to_the_limit() -> None:
    path = Path("/proc/self/maps")  # its size is said to be 0
    assert path.stat().st_size == 0
    with pytest.raises(DataError, match="maps is larger than"):
        read_input(path, 100)


def test_a_refused_file_names_its_owner_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o000)
    error = unreadable(path, PermissionError())
    assert isinstance(error, UsageError)
    assert "has mode 0000. Ask " in str(error)
    assert path.owner() in str(error)


@needs_root
@pytest.mark.parametrize("blocked", ["file", "folder"])
def test_another_user_reads_whom_to_ask(blocked: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # everyone may search its parents, unlike those of tmp_path
        root, folder = Path(name), Path(name) / "folder"
        folder.mkdir()
        (folder / "file").touch()
        root.chmod(0o755)
        (folder if blocked == "folder" else folder / "file").chmod(0o600)
        text = as_nobody(lambda: check_input(folder / "file"))
    barrier = f"the folder {folder}" if blocked == "folder" else "it"
    assert f"permission denied: {barrier} belongs to root and has mode 0600. Ask root for" in text


def test_an_error_while_reading_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(DataError, match="file cannot be read: Input/output error"), open_input(path):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_json_numbers_that_are_not_finite_are_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(f'{{"a": [{number}]}}')
    with pytest.raises(DataError, match=f"{number} is not a finite number"):
        read_json(path)


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read_json(path)
