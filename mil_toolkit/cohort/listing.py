"""Looking at folders and files that may be unreadable, without opening a file."""

import os
from collections.abc import Callable
from pathlib import Path

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.text import printable

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})


def is_image(name: str) -> bool:
    """Return whether a file name is not hidden and has an image extension, in upper or lower case."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def list_folder(folder: Path, problems: Problems) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name; none, which is reported, if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        problems.add(f"{printable(folder)} cannot be read: {error.strerror}.")
        return []


def holds(check: Callable[[], bool]) -> bool:
    """Return what a check such as `path.is_file` returns, and False if the path cannot be reached.

    Such a path may be a link to itself, lie in a folder without permission to enter, or contain a NUL.
    """
    try:
        return check()
    except (OSError, ValueError):
        return False
