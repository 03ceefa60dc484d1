"""Hides from this process what Windows lacks, and refuses what it refuses. Import it before the package.

Modules of the standard library that use these things on Linux are imported first.
"""

import asyncio
import errno
import fcntl
import mmap
import multiprocessing.popen_spawn_posix
import multiprocessing.resource_tracker
import multiprocessing.shared_memory
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import process
from types import ModuleType

MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
OF_OS = (
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fchmod", "fchown"),
    *("fork", "geteuid", "getuid", "memfd_create", "mkfifo", "posix_fallocate", "pread"),
    "sched_getaffinity",
)
OF_SIGNAL = ("SIGALRM", "SIGCONT", "SIGXCPU", "pthread_sigmask", "setitimer")
OF_MMAP = ("MADV_DONTNEED",)  # torch itself needs the others on Linux
USERS = (asyncio, process, socket, subprocess, tempfile, multiprocessing.popen_spawn_posix)

_open, _rename, _replace = os.open, os.rename, os.replace


def locking(descriptor: int, mode: int, count: int) -> None:
    """Lock a range of bytes for one open file, as msvcrt does: an open file description's lock of Linux.

    Linux lets only those who may write lock a range exclusively; for others a shared lock stands in.
    """
    writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    kind = fcntl.F_WRLCK if writable else fcntl.F_RDLCK
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start, count, 0))
    except BlockingIOError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def open_no_folder(path: str, *arguments: int, **keywords: int) -> int:
    """Open a file, but no folder."""
    if isinstance(path, str | os.PathLike) and not keywords and os.path.isdir(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return _open(path, *arguments, **keywords)


def is_open(path: str) -> bool:
    """Return whether this process has a file open, or any file in a folder."""
    real = os.path.realpath(path)
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if os.path.lexists(link)]
    return any(name == real or name.startswith(real + os.sep) for name in opened)


def refuse_open(source: str, target: str) -> None:
    """Raise PermissionError as Windows does for names of open files."""
    for path in (source, target):
        if is_open(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def rename(source: str, target: str) -> None:
    """Rename what is not open, to a name that is not taken."""
    refuse_open(source, target)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    _rename(source, target)


def replace(source: str, target: str) -> None:
    """Replace what is not open."""
    refuse_open(source, target)
    _replace(source, target)


def hide() -> None:
    """Hide and refuse."""
    msvcrt = ModuleType("msvcrt")
    vars(msvcrt).update(locking=locking, LK_NBLCK=2)
    sys.modules["msvcrt"] = msvcrt
    for name in MODULES:
        vars(sys)["modules"][name] = None
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (mmap, OF_MMAP)):
        for name in names:
            delattr(module, name)
    vars(multiprocessing.resource_tracker)["_HAVE_SIGMASK"] = False
    vars(shutil)["_use_fd_functions"] = False
    vars(os).update(open=open_no_folder, rename=rename, replace=replace)


hide()
