"""Reading files that others may have made: the one place that opens a file.

A named pipe would block a reader forever and a link to an endless device would fill its memory. Therefore
only regular files are opened, and what is read at once has a limit.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from mil_toolkit.core.errors import DataError, MilError, UsageError
from mil_toolkit.core.system import BINARY, CLOSE_ON_EXEC, NO_TERMINAL, NOT_BLOCKING, POSIX
from mil_toolkit.core.text import printable

MEBIBYTE = 2**20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file, or a link to one, for reading.

    Raises FileNotFoundError where there is none, UsageError where permission is missing, and DataError where
    the path cannot name a file or names something else than a regular file. An OSError while the block reads
    becomes a DataError, too.
    """
    with report_read_errors(path), os.fdopen(_open_regular(path), "rb") as file:
        yield file


def read_input(path: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Raises as `open_input` does, and DataError for more than `limit` bytes.
    """
    with open_input(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        most = f"{limit // MEBIBYTE:,} MiB"
        raise DataError(f"{printable(path)} is larger than {most}, the most that is read of such a file.")
    return content


def read_at(file: BufferedReader, size: int, address: int) -> bytes:
    """Read up to `size` bytes from `address` on, without those around them where the system can."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, address)
    file.seek(address)
    return file.read(size)


def check_input(path: Path) -> None:
    """Raise as `open_input` does for a file that a library opens by its path."""
    with open_input(path):
        pass


@contextlib.contextmanager
def report_read_errors(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into an error that names `path`; FileNotFoundError is kept."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> MilError:
    """Return the error for a file or folder that the operating system refuses to read.

    Missing permission is a UsageError that says whom to ask; anything else is a DataError.
    """
    if isinstance(error, PermissionError):
        return UsageError(_refused(path))
    return DataError(f"{printable(path)} cannot be read: {error.strerror or error}.")


def _open_regular(path: Path) -> int:
    """Return the descriptor of a regular file; O_NONBLOCK, since opening a pipe waits for its writer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | NOT_BLOCKING | NO_TERMINAL | CLOSE_ON_EXEC | BINARY)
    except ValueError:  # a null byte, or a character that the file system's encoding lacks
        raise DataError(f"{printable(path)} cannot be the path of a file.") from None
    except OSError as error:
        if not POSIX and path.is_dir():  # Windows opens no folders
            raise DataError(_not_regular(path, stat.S_IFDIR)) from None
        if error.errno != errno.ENXIO:  # a socket
            raise
        raise DataError(_not_regular(path, stat.S_IFSOCK)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise DataError(_not_regular(path, mode))
    return descriptor


def _not_regular(path: Path, mode: int) -> str:
    kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
    return f"{printable(path)} is {kind}, where a regular file is expected."


def _refused(path: Path) -> str:
    """Return the message for missing permission: the path that stops us, its owner and its mode."""
    barrier = next(
        (folder for folder in reversed(path.absolute().parents) if not os.access(folder, os.X_OK)), path
    )
    text = f"{printable(path)} cannot be read: permission denied"
    try:
        status = barrier.stat()
    except OSError:
        return f"{text}. Ask its owner or an administrator for permission to read it."
    owner = _user(status.st_uid)
    place = f"the folder {printable(barrier)}" if barrier != path else "it"
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    return f"{text}: {place} belongs to {owner} and has mode {mode}. Ask {owner} for permission to read it."


def _user(number: int) -> str:
    try:
        import pwd  # not on Windows

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return f"user {number}"
