"""Refusing outputs among the images of a cohort, which would make the cohort unreadable."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mil_toolkit.cohort.declaration import read_declaration
from mil_toolkit.cohort.listing import has_image_ending
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable


def image_folders(cohort: Path) -> list[Path]:
    """Return the image folders that a cohort.toml declares; raises as `read_declaration` does."""
    declared = read_declaration(cohort, False, Problems())
    return [declared.path(folder) for folder in declared.cohort.images]


def check_outside_images(
    images: Sequence[Path], folders: Mapping[str, Path], files: Mapping[str, Path] | None = None
) -> None:
    """Raise UsageError that names every output which would be taken for images of patients.

    images: the folders that hold a folder for each patient
    folders, files: outputs by the options that name them; a file directly in an image folder does no harm
        unless its name is that of an image
    """
    roots = [Path(os.path.realpath(folder)) for folder in images]
    places = {option: path for option, path in folders.items() if _is_inside(path, roots)}
    places |= {option: path for option, path in (files or {}).items() if _is_among_images(path, roots)}
    if places:
        advice = "The images could not be read any more: name another place."
        lines = (f"{option}: {printable(path)} is inside an image folder." for option, path in places.items())
        raise UsageError("\n".join([*lines, advice]))


def _is_inside(path: Path, roots: Iterable[Path]) -> bool:
    real = Path(os.path.realpath(path))
    return any(root == real or root in real.parents for root in roots)


def _is_among_images(path: Path, roots: Sequence[Path]) -> bool:
    folder = Path(os.path.realpath(path.parent))
    return _is_inside(folder, roots) and (folder not in roots or has_image_ending(path.name))
