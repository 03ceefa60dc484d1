"""Folders of classes: images sorted by diagnosis, with the patients' folders one or more levels below."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from mil_toolkit.cohort.listing import holds, is_hidden, is_system_folder
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable, some

DEPTH = 3  # levels below a folder that are searched for patients' folders


def folders_below(folder: Path, depth: int = DEPTH) -> Iterator[tuple[Path, set[str]]]:
    """Yield a folder and those below it, with the names of the folders that each contains.

    Names are in Unicode normal form C. Hidden folders, system folders and folders that cannot be read are
    passed over; links are followed, to `depth` levels.
    """
    inside = _folders_of(folder)
    if inside:
        yield folder, {normal_form(path.name) for path in inside}
    if depth > 1:
        for path in inside:
            yield from folders_below(path, depth - 1)


def _folders_of(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            folders = [Path(entry.path) for entry in entries if holds(entry.is_dir)]
    except OSError:
        return []
    return sorted(path for path in folders if not (is_hidden(path.name) or is_system_folder(path.name)))


def folders_with_patients(folder: Path, patients: Collection[str]) -> list[Path]:
    """Return the folders, of this one and those below it, that contain folders named as these patients."""
    found = [path for path, names in folders_below(folder) if not names.isdisjoint(patients)]
    return [path for path in found if normal_form(path.name) not in patients]  # not within a patient's


def refuse_class_folders(table: Path, columns: Mapping[str, Sequence[str]], images: Sequence[Path]) -> None:
    """Raise DataError if the folders in `images` are not those of patients, but the folders below them are.

    That is so if a column of the table contains more of the names of the folders below than any column
    contains of the names of the folders themselves. The message is the command with the right folders.

    columns: the cells of each column, in Unicode normal form C
    """
    below = [(path, names) for root in images for path, names in folders_below(root)]
    direct = set().union(*(names for path, names in below if path in images))
    deep = set().union(*(names for path, names in below if path not in images))
    most_direct = max((len(direct.intersection(cells)) for cells in columns.values()), default=0)
    column = max(columns, key=lambda name: len(deep.intersection(columns[name])), default="")
    patients = deep.intersection(columns.get(column, ()))
    if len(patients) <= most_direct:
        return
    roots = " ".join(printable(path) for path, names in below if not names.isdisjoint(patients))
    raise DataError(
        f"the folders {some(sorted(map(printable, direct)))} are not patients' folders: the folders in them"
        f" ({some(sorted(map(printable, patients)))}) are those of column {printable(column)}. Pass the"
        f" folders that contain patients' folders: mil-init {printable(table)} {roots}"
    )
