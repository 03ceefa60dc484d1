"""The images of a cohort that lists them in an image table."""

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.listing import IMAGE_ENDINGS, has_image_ending, holds, is_file, is_hidden
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TextTable, read_table
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import SOME, count_of, printable, some

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    """A row of an image table; `path` is as written, or with slashes if it only exists that way."""

    number: int
    patient: str
    path: str


@dataclass(frozen=True)
class _Problem:
    """What is wrong with a row.

    text: the sentence about this row; kind: the same of many rows, as the rest of a sentence
    once: whether it is said once for all rows, however few they are
    """

    text: str
    kind: str
    once: bool = False


def images_of_table(
    declared: Declaration,
    name: str,
    patients: Collection[str],
    excluded: Collection[str],
    problems: Problems,
) -> dict[str, dict[str, Path]] | None:
    """Return the images of each patient by their paths in the image table; unusable rows are reported.

    Rows of `excluded` ids are passed over. Paths with backslashes, as Windows writes them, are read with
    slashes if only that names a file.

    Returns None, with the reason added to `problems`, if the table cannot be read or lacks a column.
    """
    table = read_table(declared.path(name), name, problems)
    if table is None:
        return None
    rows = _rows(declared, table, excluded, problems)
    if rows is None:
        return None
    images: dict[str, dict[str, Path]] = defaultdict(dict)
    first: dict[str, _Row] = {}
    wrong: dict[int, _Problem] = {}
    for row in rows:
        try:
            problem = _problem_of_row(declared, patients, row, first)
        except UsageError as error:
            problems.add_error(error)
            continue
        if problem:
            wrong[row.number] = problem
        else:
            first[_real_path(declared, row)] = row
            images[row.patient][Path(row.path).as_posix()] = declared.path(row.path)
    _report(table, rows, wrong, problems)
    return images


def _rows(
    declared: Declaration, table: TextTable, excluded: Collection[str], problems: Problems
) -> list[_Row] | None:
    """Return the rows of patients that are not excluded; None, which is reported, if a column is missing."""
    ids, paths = table.column("patient"), table.column("path")
    if ids is None or paths is None:
        header = ", ".join(map(repr, table.header))
        problems.add(f"{table.name} needs the columns patient and path; it has {header}.")
        return None
    written = list(map(_Row, table.numbers, map(normal_form, ids), paths))
    kept = [row for row in written if row.patient not in excluded]
    rows = [_with_slashes(declared, row) for row in kept]
    changed = [row for row, before in zip(rows, kept, strict=True) if row != before]
    if changed:
        paths_with = count_of(len(changed), "path")
        logger.warning(
            "%s: reading %s with slashes instead of backslashes, as in %s",
            table.name,
            paths_with,
            printable(changed[0].path),
        )
    return rows


def _with_slashes(declared: Declaration, row: _Row) -> _Row:
    """Return the row with slashes for backslashes if that names a file and the path as written does not."""
    if "\\" not in row.path or holds(declared.path(row.path).is_file):
        return row
    path = row.path.replace("\\", "/")
    return _Row(row.number, row.patient, path) if holds(declared.path(path).is_file) else row


def _real_path(declared: Declaration, row: _Row) -> str:
    """Return the path of the file itself, however the row names it: absolute, with `..` or by a link."""
    return os.path.realpath(declared.path(row.path))


def _problem_of_row(
    declared: Declaration, patients: Collection[str], row: _Row, first: Mapping[str, _Row]
) -> _Problem | None:
    """Return what is wrong with a row; `first` maps the real paths of earlier rows to these rows."""
    path, name = row.path, Path(row.path).name
    if row.patient not in patients:
        no_row = f"has no row in {printable(declared.cohort.table)}"
        return _Problem(f"patient {row.patient!r} {no_row}.", f"rows name a patient who {no_row}")
    if not has_image_ending(name):
        endings = f"no image extension ({' '.join(sorted(IMAGE_ENDINGS))})"
        return _Problem(f"path {path!r} has {endings}.", f"rows name a path with {endings}")
    if is_hidden(name):
        return _Problem(f"path {path!r} is a hidden file; remove the row.", "rows name a hidden file")
    if not is_file(declared.path(path)):
        backslashes = "\\" in path
        named = "a path with backslashes" if backslashes else "a path"
        kind = f"rows name {named} that is not a file; write paths relative to the cohort.toml, with slashes"
        return _Problem(f"path {path!r} is not a file.", kind, once=backslashes)
    earlier = first.get(_real_path(declared, row))
    return None if earlier is None else _repeated(row, earlier)


def _repeated(row: _Row, earlier: _Row) -> _Problem:
    """Return what is wrong with a row that names the file of an earlier row."""
    if earlier.patient != row.patient:
        text = (
            f"path {row.path!r} is already an image of patient {earlier.patient!r} in row {earlier.number}."
        )
        return _Problem(text, "rows name an image of another patient")
    alias = "" if row.path == earlier.path else f", as {earlier.path!r}"
    text = f"path {row.path!r} already appears in row {earlier.number}{alias}."
    return _Problem(text, "rows repeat an earlier row")


def _report(
    table: TextTable, rows: Sequence[_Row], wrong: Mapping[int, _Problem], problems: Problems
) -> None:
    """Report the wrong rows in order; if most rows are wrong in the same way, report that once."""
    by_kind: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        if row.number in wrong:
            by_kind[wrong[row.number].kind].append(row)
    lines: list[tuple[int, str]] = []  # with the number of the row, by which they are sorted
    for kind, alike in by_kind.items():
        names = [f"row {row.number} {row.path!r}" for row in alike]
        if wrong[alike[0].number].once or (len(alike) > SOME and 2 * len(alike) > len(rows)):
            text = f"{table.name}: {len(alike)} of {len(rows)} {kind}: {some(names)}."
            lines.append((alike[0].number, text))
        else:
            lines += [(row.number, f"{table.place(row.number)}: {wrong[row.number].text}") for row in alike]
    problems.extend(text for _, text in sorted(lines))
