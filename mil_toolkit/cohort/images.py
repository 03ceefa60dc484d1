"""`find_images` finds the image files of a cohort's patients without opening any of them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.image_folders import FolderScan, readable_roots
from mil_toolkit.cohort.image_table import images_of_table
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.text import count_of, each_or_most, printable

logger = logging.getLogger(__name__)
NAMED = 10  # ignored files that the warning names


def find_images(
    declared: Declaration, patients: Collection[str], problems: Problems, report_ignored: bool = True
) -> dict[str, dict[str, Path]]:
    """Return the image paths of each patient by image name, in the order of the names.

    report_ignored: whether to log a warning about files that are not images
    """
    if not patients:  # the id column is missing, so every folder would seem to have no row
        return {}
    cohort = declared.cohort
    if cohort.image_table is not None:
        images = images_of_table(declared, cohort.image_table, patients, problems)
        source = cohort.image_table
    elif cohort.images:
        images = _images_of_folders(declared, patients, problems, report_ignored)
        source = " or ".join(map(printable, cohort.images))
    else:
        return {}
    if images is None:
        return {}
    _check_every_patient_has_images(declared, patients, images, source, problems)
    return {patient: dict(sorted(paths.items())) for patient, paths in images.items()}


def _images_of_folders(
    declared: Declaration, patients: Collection[str], problems: Problems, report_ignored: bool
) -> dict[str, dict[str, Path]] | None:
    """Return the images of each patient; None if a root is missing, as its patients would be reported too."""
    roots = readable_roots(declared, problems)
    scan = FolderScan(declared.cohort.table, patients, problems)
    images = scan.images(roots)
    if report_ignored and scan.ignored:
        _warn_of_ignored(scan.ignored)
    return images if len(roots) == len(declared.cohort.images) else None


def _warn_of_ignored(ignored: Sequence[str]) -> None:
    names = ", ".join(map(printable, ignored[:NAMED])) + (", ..." if len(ignored) > NAMED else "")
    logger.warning("Ignoring %s without an image extension: %s", count_of(len(ignored), "file"), names)


def _check_every_patient_has_images(
    declared: Declaration,
    patients: Collection[str],
    images: Mapping[str, Mapping[str, Path]],
    source: str,
    problems: Problems,
) -> None:
    table = declared.cohort.table
    without = [printable(patient) for patient in patients if not images.get(patient)]
    each = (f"{table}: patient {patient} has no images in {source}." for patient in without)
    summary = f"patients of {table} have no images in {source}:"
    problems.extend(each_or_most(without, len(patients), each, summary))
