"""Files that are complete under their name or absent, whatever interrupts their writing; JSON and digests."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.folders import names

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import (
    TEMPORARY_PREFIX,
    canonical_json,
    check_schema,
    digest,
    digest_file,
    digest_json,
    publish,
    publish_json,
    read_json,
    remove_dead_temporaries,
)
from mil_toolkit.core.text import printable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


# Publishing.


def test_publishing_replaces_the_old_file_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"first", b"", b"x" * 3_000_000):
        publish(path, content)
        assert path.read_bytes() == content and names(path.parent) == {"file"}


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"]
)
def test_a_failed_write_keeps_the_old_file(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "file", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    expected = UsageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        publish(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_bytes() == b"old"
    if expected is UsageError:
        message = "file cannot be written: No space left on device. Files that were complete are kept."
        assert str(caught.value).endswith(message)


def test_a_partial_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, view: write(descriptor, view[:7]))
    publish(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_a_killed_writer_leaves_only_a_temporary_file_that_can_be_removed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from mil_toolkit.core.files import publish
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
publish(Path({str(tmp_path)!r}) / "file", b"content")
"""
    writer = subprocess.run([sys.executable, "-c", script], check=False)
    assert writer.returncode == -signal.SIGKILL
    (leftover,) = names(tmp_path)
    assert leftover.startswith(TEMPORARY_PREFIX)
    remove_dead_temporaries(tmp_path)
    assert names(tmp_path) == set()


def test_the_temporary_file_of_a_running_writer_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, seen = os.replace, []

    def clean_up_and_replace(old: Path, new: Path) -> None:
        remove_dead_temporaries(tmp_path)
        seen.append(old.exists())
        replace(old, new)

    monkeypatch.setattr(os, "replace", clean_up_and_replace)
    publish(tmp_path / "file", b"content")
    assert seen == [True] and (tmp_path / "file").read_bytes() == b"content"


def test_a_reader_sees_the_old_or_the_new_file_as_a_whole(tmp_path: Path) -> None:
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
def test_only_regular_files_are_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "output"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    before = path.lstat().st_mode, names(tmp_path)
    with pytest.raises(UsageError, match="output exists and is not a file"):
        publish(path, b"content")
    assert before == (path.lstat().st_mode, names(tmp_path))


def test_a_file_in_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        publish(tmp_path / "file" / "folder" / "x", b"")


# JSON and digests.


@given(JSON)
def test_json_survives_a_round_trip(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value
    assert digest_json(value) == digest(canonical_json(value))


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    reordered = dict(reversed(value.items()))
    assert list(reordered) != list(value) and canonical_json(reordered) == canonical_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(value: float, tmp_path: Path) -> None:
    for write in (canonical_json, lambda content: publish_json(tmp_path / "file", content)):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write({"value": value})
    assert names(tmp_path) == set()


def test_the_error_names_a_json_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json does not exist"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(DataError, match=r"cut\.json cannot be read as JSON"):
        read_json(tmp_path / "cut.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"bytes\.json cannot be read as JSON"):
        read_json(tmp_path / "bytes.json")


@given(st.binary(max_size=200_000))
def test_the_digest_of_a_file_is_that_of_its_content(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "digested"
    path.write_bytes(content)
    assert digest_file(path) == digest(content)


def test_a_path_is_shown_as_one_printable_line() -> None:
    assert printable("plain/ä.png") == "plain/ä.png"
    escaped = printable(os.fsdecode(b"a\nb\xff.png"))
    assert escaped.isprintable() and "\\n" in escaped
    escaped.encode()  # no surrogates are left


def test_a_schema_other_than_the_supported_one_is_refused() -> None:
    path = Path("spec.json")
    check_schema(path, 2, 2)
    with pytest.raises(
        DataError, match=r"^spec\.json has schema 3, written by a newer .* schema 2\. Upgrade"
    ):
        check_schema(path, 3, 2)
    for schema in (1, None, "2"):
        with pytest.raises(DataError, match=rf"^spec\.json has schema {schema}; .* reads schema 2\.$"):
            check_schema(path, schema, 2)
