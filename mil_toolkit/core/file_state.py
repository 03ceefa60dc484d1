"""`FileState`: identifies the content of a file without reading it."""

import os
import time
from typing import NamedTuple

UNKNOWN_MTIME = -1
SETTLED_NS = 2_000_000_000  # older than this, an mtime changes with the file, whatever the clock's resolution


def is_settled(mtime_ns: int) -> bool:
    """Return whether any later change of a file with this mtime will change its mtime."""
    return mtime_ns < time.time_ns() - SETTLED_NS


def known_mtime(mtime_ns: int) -> int:
    """Return the mtime, or UNKNOWN_MTIME if a later change of the file might not change it."""
    return mtime_ns if is_settled(mtime_ns) else UNKNOWN_MTIME


class FileState(NamedTuple):
    """Identifies the content of a file without reading it; see `FileState.of`."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """Return the state of a file, which changes whenever a file with a settled mtime is written to."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_older_than(self, time_ns: int) -> bool:
        """Return whether the file was certainly not written to after this time."""
        return max(self.mtime_ns, self.ctime_ns) < time_ns - SETTLED_NS
