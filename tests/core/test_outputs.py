"""Outputs that are checked beforehand, and folders that are replaced as a whole."""

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from support.folders import names

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.outputs import Output, check_outputs, check_replaceable, published_folder, starts_with


def output(path: Path, start: bytes = b"ours") -> Output:
    """A file whose former versions start with these bytes."""
    return Output(path, "a table of ours", partial(starts_with, start=start))


def refusal(outputs: dict[str, Output], inputs: Sequence[Path] = ()) -> list[str]:
    """Return the lines of the error of these outputs without the advice."""
    with pytest.raises(UsageError) as caught:
        check_outputs(outputs, inputs)
    *problems, advice = str(caught.value).splitlines()
    assert "Name other files" in advice
    return problems


def test_every_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    table, link, folder = tmp_path / "table.csv", tmp_path / "link.csv", tmp_path / "folder"
    table.write_bytes(b"ours")
    os.link(table, link)
    folder.mkdir()
    outputs = {
        "--a": output(folder / ".." / "table.csv"),
        "--b": output(link),
        "--c": output(folder),
        "--d": output(table / "x"),
        "--e": output(folder / "e"),
    }
    assert [line.replace(str(tmp_path), "") for line in refusal(outputs, [table])] == [
        "--a: /folder/../table.csv is read by this command and would be overwritten.",
        "--b: /link.csv is read by this command and would be overwritten.",
        "--a and --b both name /folder/../table.csv.",
        "--a and --d name /folder/../table.csv and /table.csv/x, one inside the other.",
        "--c and --e name /folder and /folder/e, one inside the other.",
        "--c: /folder exists and is not a file: it cannot be replaced by one.",
        "--d: /table.csv/x cannot be written: Not a directory. Files that were complete are kept.",
    ]
    good = {"--e": output(folder / "e"), "--f": output(folder / "new" / "f")}
    check_outputs(good, [table, folder / "absent"])
    assert names(folder) == set()


@pytest.mark.parametrize("content", [b"", b"our", b"theirs", b"\x89PNG"])
def test_only_a_former_output_of_the_same_kind_is_replaced(content: bytes, tmp_path: Path) -> None:
    path, link = tmp_path / "o", tmp_path / "link"
    path.write_bytes(content)
    link.symlink_to(path)
    problems = refusal({"--a": output(path), "--b": output(link)})
    assert [line.replace(str(tmp_path), "") for line in problems[1:]] == [
        "--a: /o exists and is not a table of ours that this command wrote.",
        "--b: /link exists and is not a table of ours that this command wrote.",
    ]
    path.write_bytes(b"ours: a former one")
    check_outputs({"--a": output(path)})
    check_outputs({"--b": output(link)})


def test_a_link_to_nothing_or_to_itself_is_not_replaced(tmp_path: Path) -> None:
    for target in ("absent", "link"):
        link = tmp_path / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert "link" in refusal({"--a": output(link)})[0] and link.is_symlink()


def test_outputs_that_differ_in_case_or_normal_form_only_are_refused(tmp_path: Path) -> None:
    for one, other in (("a.csv", "A.CSV"), ("\u00e9.csv", "e\u0301.csv")):
        assert refusal({"--a": output(tmp_path / one), "--b": output(tmp_path / other)})


def test_the_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123456789abcdef").touch()
    (tmp_path / ".tmp-mine").touch()
    check_outputs({"--a": output(tmp_path / "new")})
    assert names(tmp_path) == {".tmp-mine"}


# Folders.

model = partial(
    published_folder,
    kind="a model",
    foreign_entries=lambda folder: sorted(names(folder) - {"old", "new"}),
)


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with model(tmp_path / "model") as folder:
        (folder / "new").write_text("content")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == {"model"} and names(tmp_path / "model") == {"new"}


@pytest.mark.parametrize("replaces", [False, True])
def test_a_failure_leaves_no_folder_or_the_old_one(replaces: bool, tmp_path: Path) -> None:
    if replaces:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "old").touch()
    with pytest.raises(KeyboardInterrupt), model(tmp_path / "model") as folder:
        (folder / "new").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == ({"model"} if replaces else set())
    assert not replaces or names(tmp_path / "model") == {"old"}


@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupted_replacement_leaves_the_old_or_the_new_folder(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "old").mkdir(parents=True)
    rename, renamed = Path.rename, []

    def rename_and_stop(path: Path, target: Path) -> None:
        renamed.append(rename(path, target))
        if len(renamed) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", rename_and_stop)
    with pytest.raises(KeyboardInterrupt), model(tmp_path / "model") as folder:
        (folder / "new").touch()
    assert names(tmp_path) == {"model"}
    assert names(tmp_path / "model") == {["old", "new"][count - 1]}


def test_only_a_former_output_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "old").touch()
    with pytest.raises(
        UsageError, match=r"model contains entries .* not part of a model: sub\. .* name another folder"
    ):
        model(tmp_path / "model").__enter__()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="file exists and is not a folder"):
        model(tmp_path / "file").__enter__()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="is the working folder"):
        model(Path()).__enter__()
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        model(tmp_path / "file" / "model").__enter__()
    assert names(tmp_path) == {"model", "file", "empty"} and names(tmp_path / "model") == {"old", "sub"}
    assert (tmp_path / "file").read_text() == "precious"


def test_files_that_appear_at_the_output_meanwhile_are_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="not part of a model: a, b, c, d, e and 1 more"),
        model(tmp_path / "model"),
    ):
        (tmp_path / "model").mkdir()
        for name in "abcdef":
            (tmp_path / "model" / name).touch()
    assert names(tmp_path) == {"model"} and names(tmp_path / "model") == set("abcdef")


def test_the_target_of_a_link_is_replaced_and_the_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "model").mkdir(parents=True)
    (tmp_path / "elsewhere" / "model" / "old").touch()
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere" / "model")
    with model(tmp_path / "model") as folder:
        (folder / "new").touch()
    assert (tmp_path / "model").is_symlink() and names(tmp_path / "model") == {"new"}
    assert names(tmp_path) == {"model", "elsewhere"} and names(tmp_path / "elsewhere") == {"model"}


@pytest.mark.parametrize("refused", ["mkdir", "rename"])
def test_a_read_only_place_is_reported(refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


# Killed writers.

KILLED = """
import os, signal, shutil, sys
from pathlib import Path
from mil_toolkit.core import outputs
folder, step = Path(sys.argv[1]), sys.argv[2]
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
rename, renamed = Path.rename, []
def rename_and_die(path, target):
    renamed.append(rename(path, target))
    if len(renamed) == int(step):
        kill()
if step == "remove":
    shutil.rmtree = kill
elif step != "block":
    Path.rename = rename_and_die
with outputs.published_folder(folder, "a model", lambda folder: []) as building:
    (building / "new").touch()
    if step == "block":
        kill()
"""


@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replaces"])
@pytest.mark.parametrize(("step", "left"), [("block", "old"), ("1", "old"), ("2", "new"), ("remove", "new")])
def test_the_next_run_cleans_up_after_a_killed_one_and_loses_nothing(
    step: str, left: str, replaces: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    if replaces:
        folder.mkdir()
        (folder / "old").write_text("content")
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, step], check=False)
    assert killed.returncode == -9 or (step == "2" and not replaces)
    (tmp_path / "other").mkdir()
    check_replaceable(tmp_path / "other", "a model", lambda _: [])  # of another folder
    check_replaceable(folder, "a model", lambda _: [])
    if step in ("1", "2") and not replaces:  # there is one rename only
        left = "new"
    expected = {left} if replaces or left == "new" else set()
    assert names(tmp_path) - {"model"} == {"other"}
    assert (names(folder) if folder.exists() else set()) == expected


def test_a_folder_of_a_running_writer_is_kept(tmp_path: Path) -> None:
    with model(tmp_path / "model") as building:
        check_replaceable(tmp_path / "model", "a model", lambda _: [])
        assert building.is_dir()
        (building / "new").touch()
    assert names(tmp_path) == {"model"}


def test_an_empty_folder_in_the_place_of_a_lost_one_is_filled_again(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "model", "1"], check=False)
    assert "model" not in names(tmp_path)
    (tmp_path / "model").mkdir()
    check_replaceable(tmp_path / "model", "a model", lambda _: [])
    assert names(tmp_path) == {"model"} and names(tmp_path / "model") == {"old"}
