"""Outputs that are checked beforehand, and folders that are replaced as a whole."""

import os
from functools import partial
from pathlib import Path

import pytest
from support.folders import names

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.outputs import check_outputs, published_folder


def test_every_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
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
    *problems, advice = str(caught.value).splitlines()
    assert [line.replace(str(tmp_path), "") for line in problems] == [
        "--a: /folder/../table.csv is read by this command and would be overwritten.",
        "--b: /link.csv is read by this command and would be overwritten.",
        "--a and --b both name /folder/../table.csv.",
        "--c: /folder exists and is not a file: it cannot be replaced by one.",
        "--d: /table.csv/x cannot be written: Not a directory. Files that were complete are kept.",
    ]
    assert "Name other files" in advice
    check_outputs({"--e": folder / "e", "--f": folder / "new" / "f"}, [table, folder / "absent"])
    assert names(folder) == set()


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
