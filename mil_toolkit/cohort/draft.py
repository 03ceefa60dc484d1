"""`draft_cohort` writes a commented cohort.toml for a reader to check line by line."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from mil_toolkit.cohort.class_folders import refuse_class_folders
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.draft_lines import CHECK
from mil_toolkit.cohort.draft_text import DraftPaths, draft_text
from mil_toolkit.cohort.image_places import check_outside_images
from mil_toolkit.cohort.listing import holds, is_system_folder, list_folder
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TextTable, read_table
from mil_toolkit.cohort.toml import toml_string
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.errors import DataError, MilError, UsageError
from mil_toolkit.core.files import publish
from mil_toolkit.core.outputs import Output, check_outputs
from mil_toolkit.core.text import printable


@dataclass(frozen=True)
class Draft:
    """A written draft.

    patients: the number of rows of the table
    doubts: the guesses that the reader should check
    problems: why `read_cohort` cannot read the draft yet, if it cannot
    """

    output: Path
    patients: int
    doubts: tuple[str, ...]
    problems: tuple[str, ...]


def draft_cohort(
    table_path: Path,
    images: Sequence[Path],
    output: Path,
    sheet: str | None = None,
    remarks: Sequence[str] = (),
) -> Draft:
    """Write the cohort.toml that a table and its image folders suggest.

    sheet: the name of the table's sheet, if the table is a workbook with several
    remarks: comments that end the draft

    Raises UsageError if `output` exists or cannot be written, and DataError if the table or a folder cannot
    be read or no column of the table contains the names of the folders.
    """
    _check_output(output, images)
    table_problems = Problems()
    table = _readable_table(table_path, table_problems, sheet)
    folders = _patient_folders(images)
    table_problems.raise_if_any()
    if not folders:
        roots = " or ".join(printable(root) for root in images)
        raise DataError(f"there is no folder in {roots}. Each patient needs one, named as the patient's id.")
    cells = {name: table.column(name) or [] for name in table.header if name}
    refuse_class_folders(table_path, cells, images)
    table_string, *image_strings = _relative([table_path, *images], output)
    paths = DraftPaths(output, table_string, image_strings, sheet)
    lines = [*draft_text(table, folders, paths, _written_on(table_path)), *remarks]
    publish(output, "".join(f"{line}\n" for line in lines).encode())
    doubts = tuple(line.removeprefix(CHECK) for line in lines if line.startswith(CHECK))
    return Draft(output, len(table.rows), doubts, tuple(_remaining_problems(output)))


def _check_output(output: Path, images: Sequence[Path]) -> None:
    """Raise UsageError if the file exists, cannot be written or would lie among other commands' files."""
    if os.path.lexists(output):
        advice = "Remove it, or name another file with --output."
        raise UsageError(f"{printable(output)} already exists. {advice}")
    check_outputs({"--output": Output(output, "a draft", lambda _: False)})
    check_outside_images(images, {}, {"--output": output})


def _readable_table(path: Path, problems: Problems, sheet: str | None) -> TextTable:
    table = read_table(path, str(path), problems, sheet=sheet)
    if table is None:
        problems.raise_if_any()
    assert table is not None  # or the reason is among the problems
    return table


def _remaining_problems(output: Path) -> list[str]:
    try:
        read_cohort(output, log=False)
    except MilError as error:
        return str(error).split("\n")
    return []


def _patient_folders(images: Sequence[Path]) -> set[str]:
    """Return the names of the folders in the image folders, in Unicode normal form C."""
    problems = Problems()
    entries = [entry for root in images for entry in list_folder(root, problems)]
    problems.raise_if_any()
    folders = [entry.name for entry in entries if holds(entry.is_dir) and not entry.name.startswith(".")]
    return {normal_form(name) for name in folders if not is_system_folder(name)}


def _relative(paths: Sequence[Path], output: Path) -> list[str]:
    """Return the paths relative to the folder of the output, as TOML strings."""
    folder = output.parent.resolve()
    relative = [Path(os.path.relpath(_without_links_above(path), folder)).as_posix() for path in paths]
    problems = Problems()
    for path in relative:
        if not _is_unicode(path):
            problems.add(f"{printable(path)} is not UTF-8, as a path in a cohort.toml must be; rename it.")
    problems.raise_if_any()
    return [toml_string(path) for path in relative]


def _without_links_above(path: Path) -> Path:
    # `..` leaves a linked folder towards the link's target, so the folders above must not be links.
    absolute = Path(os.path.abspath(path))
    return absolute.parent.resolve() / absolute.name


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _written_on(path: Path) -> date:
    return date.fromtimestamp(path.stat().st_mtime)
