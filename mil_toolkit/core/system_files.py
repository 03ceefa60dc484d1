"""The functions of `posix_files` or of `windows_files`, whichever this system has."""

from typing import TYPE_CHECKING

from mil_toolkit.core.system import POSIX

if TYPE_CHECKING or POSIX:
    from mil_toolkit.core.posix_files import (
        LockedTemporary,
        acquire,
        free_lock,
        fsync_folder,
        rename,
        replace,
    )
else:
    from mil_toolkit.core.windows_files import (
        LockedTemporary,
        acquire,
        free_lock,
        fsync_folder,
        rename,
        replace,
    )

__all__ = ["LockedTemporary", "acquire", "free_lock", "fsync_folder", "rename", "replace"]
