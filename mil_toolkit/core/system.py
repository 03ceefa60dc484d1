"""Features of the operating system. Modules ask here instead of for its name.

`posix_files` and `posix_workers` are for Linux and macOS, `windows_files` and `windows_workers` for systems
without their locks and inherited descriptors.
"""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

POSIX = TYPE_CHECKING or find_spec("fcntl") is not None

# Flags of os.open; 0 where the system has no such flag.
BINARY = getattr(os, "O_BINARY", 0)  # Windows translates the ends of lines without it
CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)  # Windows passes no descriptor on
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
NO_TERMINAL = getattr(os, "O_NOCTTY", 0)
NOT_BLOCKING = getattr(os, "O_NONBLOCK", 0)
DELETED_ON_CLOSE = getattr(os, "O_TEMPORARY", 0)  # of Windows, also if the process is killed


def user_id() -> int | None:
    """Return the number of the user whose rights this process has; None where users have no numbers."""
    return os.geteuid() if hasattr(os, "geteuid") else None
