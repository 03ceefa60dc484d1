"""Looking at folders and files that may be unreadable, without opening a file."""

import os
from collections.abc import Callable
from pathlib import Path

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.reading import unreadable

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})

# What file managers, network storage and archives create beside a user's files, in lower case. Images in
# these folders are previews, copies or deleted files. Names that begin with a dot are hidden in any case.
SYSTEM_FOLDERS = frozenset(
    {
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "@tmp",
        "__macosx",
        "__pycache__",
        "lost+found",
        "network trash folder",
        "recycler",
        "system volume information",
        "temporary items",
        "thumbnails",
        "thumbs",
    }
)
SYSTEM_FILES = frozenset({"desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "thumbs.db"})


def has_image_ending(name: str) -> bool:
    """Return whether a file name has an image extension, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def is_image(name: str) -> bool:
    """Return whether a file name is not hidden and has an image extension, in upper or lower case."""
    return not is_hidden(name) and has_image_ending(name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, as `.DS_Store` and the `._a.jpg` of macOS are."""
    return name.startswith(".")


def is_system_folder(name: str) -> bool:
    """Return whether a folder has the name of a system folder, in upper or lower case."""
    return name.lower() in SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """Return whether a file has the name of a system file, in upper or lower case."""
    return name.lower() in SYSTEM_FILES


def list_folder(folder: Path, problems: Problems) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name; none, which is reported, if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        problems.add_error(unreadable(folder, error))
        return []


def holds(check: Callable[[], bool]) -> bool:
    """Return what a check such as `path.is_file` returns, and False if the path cannot be reached.

    Such a path may be a link to itself, lie in a folder without permission to enter, or contain a NUL.
    """
    try:
        return check()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file or a link to one, and False if it cannot be the path of any.

    Raises UsageError if permission to look is missing.
    """
    try:
        return path.is_file()
    except PermissionError as error:
        raise unreadable(path, error) from None
    except (OSError, ValueError):
        return False
