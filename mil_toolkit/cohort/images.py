"""`find_images` finds the image files of a cohort's patients without opening any of them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.image_folders import FolderScan, Notes, readable_roots
from mil_toolkit.cohort.image_table import images_of_table
from mil_toolkit.cohort.listing import IMAGE_ENDINGS, holds
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.toml import toml_string
from mil_toolkit.core.text import count_of, each_or_most, printable, some

logger = logging.getLogger(__name__)
NAMED = 10  # files or folders that a warning names


def find_images(
    declared: Declaration,
    patients: Collection[str],
    excluded: Collection[str],
    problems: Problems,
    report_ignored: bool = True,
    complete: bool = True,
) -> dict[str, dict[str, Path]]:
    """Return the image paths of each patient by image name, in the order of the names.

    excluded: ids of rows that are not patients of the cohort; their images are passed over
    report_ignored: whether to log warnings about files and folders that are passed over or may surprise
    complete: whether a patient without images is a problem
    """
    if not patients:  # the id column is missing, so every folder would seem to have no row
        return {}
    cohort = declared.cohort
    if cohort.image_table is not None:
        images = images_of_table(declared, cohort.image_table, patients, excluded, problems)
        source = printable(cohort.image_table)
    elif cohort.images:
        scan = FolderScan(cohort.table, patients, excluded, problems)
        images = _images_of_folders(declared, scan, problems)
        source = " or ".join(map(printable, cohort.images))
        if report_ignored:
            _warn(scan.notes)
    else:
        return {}
    if images is None:
        return {}
    if complete:
        _check_every_patient_has_images(declared, patients, images, source, problems)
    return {patient: dict(sorted(paths.items())) for patient, paths in images.items()}


def images_of_one(folder: Path, patient: str, problems: Problems) -> dict[str, Path]:
    """Return the images of one patient, whose folder this is, as `find_images` does.

    A folder that does not exist or has no images is reported.
    """
    place = printable(folder)
    if not holds(folder.is_dir):
        reason = "is not a folder" if holds(folder.exists) else "does not exist"
        problems.add(f"{place} {reason}; a folder with the images of one patient is expected.")
        return {}
    scan, before = FolderScan("", [patient], (), problems), len(problems)
    images = scan.images_below(folder, patient)
    _warn(scan.notes)
    if not images and len(problems) == before:
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        problems.add(f"{place} has no images: no file in it ends with one of {endings}.")
    return dict(sorted(images.items()))


def _images_of_folders(
    declared: Declaration, scan: FolderScan, problems: Problems
) -> dict[str, dict[str, Path]] | None:
    """Return the images of each patient.

    Returns None if a root is missing or contains folders of classes, as their patients would be reported too.
    """
    roots = readable_roots(declared, problems)
    images = scan.images(roots)
    if scan.class_folders:
        problems.add(_class_folder_words(declared, scan.class_folders, list(images)))
    return images if len(roots) == len(declared.cohort.images) and not scan.class_folders else None


def _class_folder_words(declared: Declaration, folders: Sequence[str], direct: Collection[str]) -> str:
    """Return what to do about folders of classes; direct: patients whose folders are where they should be."""
    kept = [Path(root).as_posix() for root in declared.cohort.images] if direct else []
    roots = ", ".join(map(toml_string, [*kept, *folders]))
    return (
        f"{some(list(map(printable, folders)))} are not folders of patients, but contain some. To read them,"
        f" list them in [cohort]: images = [{printable(roots)}]."
    )


def _warn(notes: Notes) -> None:
    """Log one line for each kind of files or folders."""
    for words, noun, paths in (
        ("Ignoring {} without an image extension", "file", notes.other),
        ("Ignoring {}", "hidden file", notes.hidden),
        ("Ignoring {}", "system folder", notes.system),
        ("Also reading the images in {} below patients' folders", "folder", notes.nested),
    ):
        if paths:
            names = ", ".join(map(printable, paths[:NAMED])) + (", ..." if len(paths) > NAMED else "")
            logger.warning("%s: %s", words.format(count_of(len(paths), noun)), names)


def _check_every_patient_has_images(
    declared: Declaration,
    patients: Collection[str],
    images: Mapping[str, Mapping[str, Path]],
    source: str,
    problems: Problems,
) -> None:
    table = printable(declared.cohort.table)
    without = [printable(patient) for patient in patients if not images.get(patient)]
    each = (f"{table}: patient {patient} has no images in {source}." for patient in without)
    summary = f"patients of {table} have no images in {source}:"
    problems.extend(each_or_most(without, len(patients), each, summary))
