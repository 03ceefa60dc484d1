"""The image files of a cohort's patients, found without opening any of them."""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.table import normal_form, read_table
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import each_or_most, shown

logger = logging.getLogger(__name__)
IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


# The images: which files there are, without opening one.


@dataclass(frozen=True)
class _Folder:
    """A patient's folder: the root as declared, and the path to open."""

    root: str
    path: Path


def find_images(
    declared: Declaration, patients: Collection[str], problems: list[str]
) -> dict[str, dict[str, Path]]:
    """Image names and paths of each patient, in the order of the names."""
    if not patients:  # the id column is missing: every folder would be a stranger
        return {}
    if "image_table" in declared.cohort:
        found = _images_of_table(declared, patients, problems)
    elif "images" in declared.cohort:
        found = _images_of_folders(declared, patients, problems)
    else:
        return {}
    return {patient: dict(sorted(names.items())) for patient, names in found.items()}


def _images_of_folders(
    declared: Declaration, patients: Collection[str], problems: list[str]
) -> dict[str, dict[str, Path]]:
    others: list[str] = []
    roots = readable_roots(declared, problems)
    folders = _patient_folders(declared, roots, patients, problems, others)
    found = {patient: _images_of_patient(patient, folders[patient], problems, others) for patient in folders}
    if others:
        named = ", ".join(map(shown, others[:10])) + (", ..." if len(others) > 10 else "")
        logger.warning("%d files without an image ending are left out: %s", len(others), named)
    every_root = len(roots) == len(declared.cohort["images"])
    if every_root:  # else each patient of a missing root would be told again
        problems += _patients_without_images(declared, patients, found)
    return found


def readable_roots(declared: Declaration, problems: list[str]) -> dict[str, Path]:
    roots: dict[str, Path] = {}
    for root in declared.cohort.get("images", []):
        path = declared.path(root)
        try:
            if not path.is_dir():
                problems.append(
                    f"{shown(root)} is not a folder ({shown(str(path))}); [cohort] images names it."
                )
            elif any(path.samefile(other) for other in roots.values()):
                problems.append(f"{shown(root)} is named twice in [cohort] images.")
            else:
                roots[root] = path
        except (OSError, ValueError) as error:
            problems.append(f"{shown(root)} cannot be read: {error}.")
    return roots


def _patient_folders(
    declared: Declaration,
    roots: Mapping[str, Path],
    patients: Collection[str],
    problems: list[str],
    others: list[str],
) -> dict[str, list[_Folder]]:
    """The folders of each patient; ids and folder names are matched in Unicode normal form C."""
    folders: dict[str, list[_Folder]] = defaultdict(list)
    known = set(patients)
    strangers: list[str] = []
    for root, path in roots.items():
        for entry in listing(path, problems):
            place = f"{shown(root)}/{shown(entry.name)}"
            patient = normal_form(entry.name)
            if entry.name.startswith(".") or not holds(entry.is_dir):
                _note_loose_file(entry, place, problems, others)
            elif patient not in known:
                strangers.append(place)
            elif any(folder.root == root for folder in folders[patient]):
                problems.append(f"{place} is a second folder of patient {shown(patient)} in {shown(root)}.")
            else:
                folders[patient].append(_Folder(root, Path(entry.path)))
    problems += each_or_most(
        strangers,
        len(strangers) + len(folders),
        (f"{place} has no row in {declared.table}." for place in strangers),
        f"folders have no row in {declared.table}; is it the table of these images?",
    )
    return folders


def holds(check: Callable[[], bool]) -> bool:
    """Whether a file is what `check` asks; what cannot be reached is not."""
    try:
        return check()
    except (OSError, ValueError):  # a link to itself, a folder that may not be entered, a NUL in the path
        return False


def _note_loose_file(entry: os.DirEntry[str], place: str, problems: list[str], others: list[str]) -> None:
    if holds(entry.is_dir):  # hidden, like .ipynb_checkpoints
        return
    if is_image(entry.name):
        problems.append(f"{place} lies in no patient's folder. Move it, or name images in an image_table.")
    else:
        others.append(place)


def is_image(name: str) -> bool:
    """Whether a file name is visible and has an image ending, in upper or lower case."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def listing(folder: Path, problems: list[str]) -> list[os.DirEntry[str]]:
    """The entries of a folder by name; not to be read is a problem."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"{shown(str(folder))} cannot be read: {error.strerror}.")
        return []


def _images_of_patient(
    patient: str, folders: Sequence[_Folder], problems: list[str], others: list[str]
) -> dict[str, Path]:
    images: dict[str, Path] = {}
    seen: set[str] = set()
    for folder in folders:
        prefix = f"{Path(folder.root).as_posix()}/" if len(folders) > 1 else ""
        for name, entry in _files_below(folder.path, problems, seen):
            if not is_image(entry.name):
                others.append(entry.path)
            elif not holds(entry.is_file):
                problems.append(f"{shown(entry.path)} is not a file, or a link that leads nowhere.")
            elif prefix + name in images:
                problems.append(f"patient {shown(patient)} has two images named {shown(prefix + name)}.")
            else:
                images[prefix + name] = Path(entry.path)
    return images


def _files_below(
    folder: Path, problems: list[str], seen: set[str], prefix: str = ""
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below `folder` with its path from there; a folder that links reach twice is entered once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in listing(folder, problems):
        if not holds(entry.is_dir):
            yield prefix + entry.name, entry
        elif not entry.name.startswith("."):
            yield from _files_below(Path(entry.path), problems, seen, f"{prefix}{entry.name}/")


def _patients_without_images(
    declared: Declaration, patients: Collection[str], found: Mapping[str, Mapping[str, Path]]
) -> Iterator[str]:
    where = declared.cohort.get("image_table") or " or ".join(map(shown, declared.cohort["images"]))
    without = [shown(patient) for patient in patients if not found.get(patient)]
    yield from each_or_most(
        without,
        len(patients),
        (f"{declared.table}: patient {patient} has no images in {where}." for patient in without),
        f"patients of {declared.table} have no images in {where}:",
    )


def _images_of_table(
    declared: Declaration, patients: Collection[str], problems: list[str]
) -> dict[str, dict[str, Path]]:
    name = declared.cohort["image_table"]
    try:
        table = read_table(declared.path(name), name)
    except DataError as error:
        problems += error.problems
        return {}
    problems += table.problems
    ids, paths = table.column("patient"), table.column("path")
    if ids is None or paths is None:
        problems.append(
            f"{name} needs the columns patient and path; it has {', '.join(map(repr, table.header))}."
        )
        return {}
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    first: dict[str, int] = {}
    known = set(patients)
    for number, patient, path in zip(table.numbers, map(normal_form, ids), paths, strict=True):
        problem = _image_row_problem(declared, known, patient, path, first)
        if problem:
            problems.append(f"{name}, row {number}: {problem}")
        else:
            first[os.path.normpath(path)] = number
            found[patient][Path(path).as_posix()] = declared.path(path)
    problems += _patients_without_images(declared, patients, found)
    return found


def _image_row_problem(
    declared: Declaration, patients: Collection[str], patient: str, path: str, first: Mapping[str, int]
) -> str | None:
    if patient not in patients:
        return f"patient {patient!r} has no row in {declared.table}."
    if not is_image(Path(path).name):
        return f"path {path!r} has no image ending ({' '.join(sorted(IMAGE_ENDINGS))})."
    if os.path.normpath(path) in first:
        return f"path {path!r} already stands in row {first[os.path.normpath(path)]}."
    if not holds(declared.path(path).is_file):
        return f"path {path!r} is not a file."
    return None
