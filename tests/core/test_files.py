"""Files that are complete under their name or absent, whatever happens while they are written."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.core.errors import BusyError, DataError, UsageError
from mil_toolkit.core.files import (
    TEMPORARY_PREFIX,
    canonical_json,
    digest,
    digest_file,
    digest_json,
    publish,
    publish_json,
    read_json,
    remove_dead_temporaries,
    shown,
)
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.outputs import check_outputs, published_folder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Files.


def test_a_published_file_replaces_the_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"first", b"", b"x" * 3_000_000):
        publish(path, content)
        assert path.read_bytes() == content and names(path.parent) == {"file"}


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"]
)
def test_a_failure_leaves_the_older_file(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "file", b"older")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    expected = UsageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        publish(tmp_path / "file", b"newer")
    monkeypatch.undo()
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_bytes() == b"older"
    if expected is UsageError:
        assert "file cannot be written: No space left on device" in str(caught.value)


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, view: write(descriptor, view[:7]))
    publish(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_a_killed_writer_leaves_no_file_and_its_remains_are_removed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from mil_toolkit.core.files import publish
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
publish(Path({str(tmp_path)!r}) / "file", b"content")
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(TEMPORARY_PREFIX)
    remove_dead_temporaries(tmp_path)
    assert names(tmp_path) == set()


def test_the_temporary_of_a_living_writer_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, seen = os.replace, []

    def look(old: Path, new: Path) -> None:
        remove_dead_temporaries(tmp_path)
        seen.append(old.exists())
        replace(old, new)

    monkeypatch.setattr(os, "replace", look)
    publish(tmp_path / "file", b"content")
    assert seen == [True] and (tmp_path / "file").read_bytes() == b"content"


def test_a_reader_sees_one_whole_file_or_the_other(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [b"a" * 100_000, b"b" * 150_000]
    publish(path, contents[0])
    script = f"""
from pathlib import Path
from mil_toolkit.core.files import publish
for turn in range(100):
    publish(Path({str(path)!r}), [b"a" * 100_000, b"b" * 150_000][turn % 2])
"""
    seen = set()
    with subprocess.Popen([sys.executable, "-c", script]) as writer:
        while writer.poll() is None:
            seen.add(path.read_bytes())
    assert writer.returncode == 0 and seen <= set(contents)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to a pipe"])
def test_what_is_no_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "output"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    before = path.lstat().st_mode, names(tmp_path)
    with pytest.raises(UsageError, match="output is there, and is no file"):
        publish(path, b"content")
    assert before == (path.lstat().st_mode, names(tmp_path))


def test_outputs_that_would_be_lost_are_all_named(tmp_path: Path) -> None:
    table, link, folder = tmp_path / "table.csv", tmp_path / "link.csv", tmp_path / "folder"
    table.touch()
    os.link(table, link)
    folder.mkdir()
    outputs = {
        "--a": folder / ".." / "table.csv",
        "--b": link,
        "--c": folder,
        "--d": table / "x",
        "--e": folder / "e",
    }
    with pytest.raises(UsageError) as caught:
        check_outputs(outputs, [table])
    *told, advice = str(caught.value).splitlines()
    assert [line.replace(str(tmp_path), "") for line in told] == [
        "--a: /folder/../table.csv is read by this command, and would be lost.",
        "--b: /link.csv is read by this command, and would be lost.",
        "--a and --b both name /folder/../table.csv.",
        "--c: /folder is there, and is no file: it cannot be replaced by one.",
        "--d: /table.csv/x cannot be written: Not a directory. What was complete stays.",
    ]
    assert "Name other files" in advice
    check_outputs({"--e": folder / "e", "--f": folder / "new" / "f"}, [table, folder / "absent"])
    assert names(folder) == set()


# Folders.

model = partial(
    published_folder, kind="a model", foreign=lambda folder: sorted(names(folder) - {"older", "newer"})
)


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with model(tmp_path / "model") as folder:
        (folder / "newer").write_text("content")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == {"model"} and names(tmp_path / "model") == {"newer"}


@pytest.mark.parametrize("older", [False, True])
def test_a_folder_that_fails_is_absent_or_the_older_one(older: bool, tmp_path: Path) -> None:
    if older:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "older").touch()
    with pytest.raises(KeyboardInterrupt), model(tmp_path / "model") as folder:
        (folder / "newer").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == ({"model"} if older else set())
    assert not older or names(tmp_path / "model") == {"older"}


@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_that_is_stopped_as_it_takes_its_name_is_the_older_or_the_newer_one(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "older").mkdir(parents=True)
    rename, renamed = Path.rename, []

    def stopped(path: Path, target: Path) -> None:
        renamed.append(rename(path, target))
        if len(renamed) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), model(tmp_path / "model") as folder:
        (folder / "newer").touch()
    assert names(tmp_path) == {"model"}
    assert names(tmp_path / "model") == {["older", "newer"][count - 1]}


def test_a_folder_that_holds_anything_else_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "older").touch()
    with pytest.raises(UsageError, match=r"model holds what is not of a model: sub\. .* name another folder"):
        model(tmp_path / "model").__enter__()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="file is there, and is no folder"):
        model(tmp_path / "file").__enter__()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="is the working folder"):
        model(Path()).__enter__()
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        model(tmp_path / "file" / "model").__enter__()
    assert names(tmp_path) == {"model", "file", "empty"} and names(tmp_path / "model") == {"older", "sub"}
    assert (tmp_path / "file").read_text() == "precious"


def test_what_comes_into_a_folder_while_it_is_made_anew_stays(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="model holds what is not of a model: a, b, c, d, e and 1 more"),
        model(tmp_path / "model"),
    ):
        (tmp_path / "model").mkdir()
        for name in "abcdef":
            (tmp_path / "model" / name).touch()
    assert names(tmp_path) == {"model"} and names(tmp_path / "model") == set("abcdef")


def test_what_a_link_names_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "model").mkdir(parents=True)
    (tmp_path / "elsewhere" / "model" / "older").touch()
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere" / "model")
    with model(tmp_path / "model") as folder:
        (folder / "newer").touch()
    assert (tmp_path / "model").is_symlink() and names(tmp_path / "model") == {"newer"}
    assert names(tmp_path) == {"model", "elsewhere"} and names(tmp_path / "elsewhere") == {"model"}


@pytest.mark.parametrize("refused", ["mkdir", "rename"])
def test_a_place_that_turns_out_read_only_is_told(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with (
        monkeypatch.context() as patch,
        pytest.raises(UsageError, match="model cannot be written: Read-only"),
    ):
        patch.setattr(Path, refused, refuse)
        with model(tmp_path / "model"):
            pass
    assert names(tmp_path) == set()


# Locks.


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with exclusive(tmp_path / "study"):
        with pytest.raises(BusyError, match="in use by another process"), exclusive(tmp_path / "study"):
            pass
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(tmp_path / "study"):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    script = f"""
import time
from functools import partial
from pathlib import Path
from mil_toolkit.core.locks import exclusive
with exclusive(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(BusyError), exclusive(tmp_path):
            pass
        process.kill()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            with exclusive(tmp_path):
                return
        except BusyError:
            time.sleep(0.01)
    pytest.fail("the lock of a killed process stayed")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for action in (lambda path: publish(path / "x", b""), lambda path: exclusive(path).__enter__()):
        with pytest.raises(UsageError, match="cannot be written"):
            action(tmp_path / "file" / "folder")


# JSON and digests.


@given(JSON)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value
    assert digest_json(value) == digest(canonical_json(value))


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_count(value: dict[str, int]) -> None:
    turned = dict(reversed(value.items()))
    assert list(turned) != list(value) and canonical_json(turned) == canonical_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float, tmp_path: Path) -> None:
    for write in (canonical_json, lambda each: publish_json(tmp_path / "file", each)):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write({"value": value})
    assert names(tmp_path) == set()


def test_unreadable_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json does not exist"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(DataError, match=r"cut\.json cannot be read as JSON"):
        read_json(tmp_path / "cut.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"bytes\.json cannot be read as JSON"):
        read_json(tmp_path / "bytes.json")


@given(st.binary(max_size=200_000))
def test_a_file_has_the_digest_of_its_content(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "digested"
    path.write_bytes(content)
    assert digest_file(path) == digest(content)


def test_a_name_with_any_bytes_is_one_readable_line() -> None:
    assert shown("plain/ä.png") == "plain/ä.png"
    odd = shown(os.fsdecode(b"a\nb\xff.png"))
    assert odd.isprintable() and "\\n" in odd
    odd.encode()
