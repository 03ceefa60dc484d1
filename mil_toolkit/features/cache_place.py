"""`check_cache_place`: caches that would be taken for the data that they are made from."""

import os
from collections.abc import Iterable
from pathlib import Path

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.cohort.declaration import read_declaration
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable


def image_folders(cohort: Cohort) -> list[Path]:
    """Return the folders of patients that a cohort declares; none for one with an image table."""
    if not cohort.source.exists():  # a cohort that was not read from a file
        return []
    declared = read_declaration(cohort.source, False, Problems())
    return [declared.path(name) for name in declared.cohort.images]


def check_cache_place(root: Path, cohort_name: str, sources: Iterable[Path]) -> None:
    """Raise UsageError if the caches of a cohort under `root` would be inside a source, or it inside them.

    sources: folders of images or feature files, in which every folder or file counts as a patient
    """
    place = Path(os.path.realpath(root / cohort_name))  # `Path.resolve` raises an error for a loop of links
    for source in sources:
        folder = Path(os.path.realpath(source))
        if place.is_relative_to(folder) or folder.is_relative_to(place):
            raise UsageError(
                f"--cache {printable(root)}: the cache {printable(root / cohort_name)} and the folder"
                f" {printable(source)}, from which it is made, would contain one another. Files of the cache"
                " would then be taken for those of patients. Name another folder with --cache."
            )
