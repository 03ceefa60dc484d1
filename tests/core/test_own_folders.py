"""Recognising caches, studies and bundles, in which no other command writes."""

import json
from pathlib import Path

import pytest

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.outputs import Output, check_outputs
from mil_toolkit.core.own_folders import check_outside_own_folders, own_folder_of

MARKS = {
    "a cache": ("spec.json", {"schema": 1, "backbone": "net", "width": 3}),
    "a study": ("config.json", {"schema": 1, "study": {}}),
    "a bundle": ("config.json", {"schema": 1, "head": {}, "about": {}}),
}


def make(folder: Path, kind: str) -> Path:
    name, content = MARKS[kind]
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", MARKS)
def test_a_path_inside_such_a_folder_is_refused(kind: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "own", kind)
    (tmp_path / "link").symlink_to(folder)
    places = (
        folder / "x.csv",
        folder / "new" / "x.csv",
        tmp_path / "link" / "x",
        folder / ".." / "own" / "x",
    )
    for path in places:
        found = own_folder_of(path)
        assert found is not None and found.kind == kind
        with pytest.raises(UsageError, match=f"is inside {kind}, .*own"):
            check_outputs({"--output": Output(path, "a table", lambda _: True)})
    assert own_folder_of(folder) is None and own_folder_of(tmp_path / "x") is None


def test_only_the_innermost_folder_counts_and_only_the_study_itself_may_be_written_to(tmp_path: Path) -> None:
    study = make(tmp_path / "study", "a study")
    bundle = make(study / "model", "a bundle")
    check_outside_own_folders(study / "report.html", study)
    for path in (bundle / "x", study / "outer" / "x"):
        with pytest.raises(UsageError):
            check_outside_own_folders(path, study)
    with pytest.raises(UsageError):
        check_outside_own_folders(study / "x", tmp_path / "other")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"study": 1}', '{"head": {}, "schema": 1}'])
def test_other_files_of_these_names_do_not_count(content: str, tmp_path: Path) -> None:
    for name in ("spec.json", "config.json"):
        (tmp_path / name).write_text(content)
    assert own_folder_of(tmp_path / "x") is None
