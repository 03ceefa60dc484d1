"""Recognising the folders of caches, studies and bundles, in which no other output may be written."""

import os
from pathlib import Path
from typing import NamedTuple

from mil_toolkit.core.errors import MilError, UsageError
from mil_toolkit.core.files import read_json
from mil_toolkit.core.text import printable


class OwnFolder(NamedTuple):
    """A folder that only its own commands write to; kind: what it is in words."""

    path: Path
    kind: str


_MARKS = {  # by kind: the file that every such folder has, and keys of the JSON object in it
    "a cache": ("spec.json", {"schema", "backbone", "width"}),
    "a study": ("config.json", {"schema", "study"}),
    "a bundle": ("config.json", {"schema", "head", "about"}),
}


def own_folder_of(path: Path) -> OwnFolder | None:
    """Return the innermost cache, study or bundle that contains a path, which need not exist."""
    for folder in Path(os.path.realpath(path)).parents:
        for kind, (name, keys) in _MARKS.items():
            if _has_keys(folder / name, keys):
                return OwnFolder(folder, kind)
    return None


def check_outside_own_folders(path: Path, study: Path | None = None) -> None:
    """Raise UsageError for a path inside a cache, a study or a bundle, except directly in `study`."""
    folder = own_folder_of(path)
    if folder is None:
        return
    parent = os.path.realpath(path.parent)
    if study is not None and str(folder.path) == parent == os.path.realpath(study):
        return
    raise UsageError(
        f"{printable(path)} is inside {folder.kind}, {printable(folder.path)}, where only its own files"
        " belong. Name a place outside it."
    )


def _has_keys(path: Path, keys: set[str]) -> bool:
    if not os.path.lexists(path):
        return False
    try:
        content = read_json(path)
    except MilError:
        return False
    return isinstance(content, dict) and keys <= content.keys()
