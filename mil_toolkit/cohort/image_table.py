"""The images of a cohort that lists them in an image table."""

import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from mil_toolkit.cohort.cells import normal_form
from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.listing import IMAGE_ENDINGS, holds, is_image
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import read_table


def images_of_table(
    declared: Declaration, name: str, patients: Collection[str], problems: Problems
) -> dict[str, dict[str, Path]] | None:
    """Return the images of each patient by their paths in the image table; unusable rows are reported.

    Returns None, with the reason added to `problems`, if the table cannot be read or lacks a column.
    """
    table = read_table(declared.path(name), name, problems)
    if table is None:
        return None
    ids, paths = table.column("patient"), table.column("path")
    if ids is None or paths is None:
        header = ", ".join(map(repr, table.header))
        problems.add(f"{name} needs the columns patient and path; it has {header}.")
        return None
    images: dict[str, dict[str, Path]] = defaultdict(dict)
    first: dict[str, int] = {}
    known = set(patients)
    for number, patient, path in zip(table.numbers, map(normal_form, ids), paths, strict=True):
        problem = _problem_of_row(declared, known, patient, path, first)
        if problem:
            problems.add(problem, table.place(number))
        else:
            first[os.path.normpath(path)] = number
            images[patient][Path(path).as_posix()] = declared.path(path)
    return images


def _problem_of_row(
    declared: Declaration, patients: Collection[str], patient: str, path: str, first: Mapping[str, int]
) -> str | None:
    """Return what is wrong with a row; `first` maps the paths of earlier rows to their numbers."""
    if patient not in patients:
        return f"patient {patient!r} has no row in {declared.cohort.table}."
    if not is_image(Path(path).name):
        return f"path {path!r} has no image extension ({' '.join(sorted(IMAGE_ENDINGS))})."
    if os.path.normpath(path) in first:
        return f"path {path!r} already appears in row {first[os.path.normpath(path)]}."
    if not holds(declared.path(path).is_file):
        return f"path {path!r} is not a file."
    return None
