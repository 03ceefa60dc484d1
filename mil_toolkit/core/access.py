"""Whether a path exists, and access rights of files and folders that replace others.

What replaces a file or folder keeps its mode, and its group if possible.
"""

import contextlib
import os
import stat
from pathlib import Path

from mil_toolkit.core.reading import unreadable
from mil_toolkit.core.system import CLOSE_ON_EXEC, NO_FOLLOW, NOT_BLOCKING

_FILE_BITS, _FOLDER_BITS = 0o777, 0o3777  # without those that change the user of a running program


def exists(path: Path) -> bool:
    """Return whether anything is at `path`, even if it is a broken link.

    Raises UsageError if a folder on the way may not be searched.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise unreadable(path, error) from None
    return True


def adopt_access(descriptor: int, former: os.stat_result) -> None:
    """Give an open file or folder the mode, the group and (if permitted) the owner of the one it replaces.

    Nobody gets more access than before: where the group cannot be kept, the new group and all others get what
    both had. A file system that stores no modes is left as it is, as is Windows, where what a folder holds
    inherits its access rights.
    """
    if not hasattr(os, "fchown"):
        return
    mode = stat.S_IMODE(former.st_mode) & (_FOLDER_BITS if stat.S_ISDIR(former.st_mode) else _FILE_BITS)
    if not _adopt_group(descriptor, former):
        common = mode >> 3 & mode & 0o7
        mode = mode & 0o700 | common << 3 | common
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, mode)


def _adopt_group(descriptor: int, former: os.stat_result) -> bool:
    """Return whether the group is now the former one; the owner can be kept by root only."""
    for owner in (former.st_uid, -1):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner, former.st_gid)
            break
    return os.fstat(descriptor).st_gid == former.st_gid


def adopt_access_privately(folder: Path, former: Path) -> None:
    """Give a new folder the group of the one that it will replace, but access to its owner only."""
    _adopt_if_same_kind(folder, former.stat())
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~0o077)


def adopt_access_of_folder(folder: Path, former: Path) -> None:
    """Give a folder and all that it holds the access rights that the same names have in the former one."""
    for path in (*folder.rglob("*"), folder):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = (former / path.relative_to(folder)).lstat()
            _adopt_if_same_kind(path, status)


def _adopt_if_same_kind(path: Path, former: os.stat_result) -> None:
    if not hasattr(os, "fchown"):
        return
    descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW | NOT_BLOCKING | CLOSE_ON_EXEC)
    try:
        if stat.S_IFMT(os.fstat(descriptor).st_mode) == stat.S_IFMT(former.st_mode):
            adopt_access(descriptor, former)
    finally:
        os.close(descriptor)
