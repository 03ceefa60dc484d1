"""`collect_noise`: what decoders print or warn of while one image is decoded, as lines instead of output."""

import contextlib
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import TextIO

_LIBTIFF_LINE = re.compile(r"^[\w./ -]*: .*[.!]?$")
_local = threading.local()
_stderr_lock = threading.Lock()


class _Recorder:
    """Passes Python's warnings to the thread that caused them, while at least one thread collects them.

    `warnings.catch_warnings` changes the whole process, so all collecting threads share one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._collectors = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._collectors += 1
            if self._collectors == 1:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("always")
                self._show = warnings.showwarning
                warnings.showwarning = self._record

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._collectors -= 1
            if not self._collectors:
                self._caught.__exit__(None, None, None)

    def _record(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        lines: list[str] | None = getattr(_local, "lines", None)
        if lines is None:
            self._show(message, category, filename, lineno, file, line)
        else:
            lines.append(" ".join(str(message).split()))


_recorder = _Recorder()


@contextlib.contextmanager
def collect_noise() -> Iterator[list[str]]:
    """Collect the warnings that this thread causes within the block; yields the list they are added to."""
    lines: list[str] = []
    _local.lines = lines
    try:
        with _recorder:
            yield lines
    finally:
        _local.lines = None


@contextlib.contextmanager
def collect_printed() -> Iterator[None]:
    """Add the lines that libtiff prints to file descriptor 2 within the block to those of `collect_noise`.

    One thread at a time, because libtiff does not say which file it prints about. Whatever else arrives at
    the descriptor meanwhile, such as a progress bar, is passed on.
    """
    with _stderr_lock, tempfile.TemporaryFile() as printed:
        try:
            terminal = os.dup(2)
        except OSError:  # stderr is closed, so nothing is printed
            yield
            return
        try:
            os.dup2(printed.fileno(), 2)
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            printed.seek(0)
            _sort(printed.read().decode(errors="replace"))


def _sort(printed: str) -> None:
    """Collect the lines of libtiff and write the others to stderr."""
    lines = printed.splitlines(keepends=True)
    _local.lines += [line.strip() for line in lines if _LIBTIFF_LINE.match(line)]
    others = "".join(line for line in lines if not _LIBTIFF_LINE.match(line))
    if others and sys.stderr is not None:
        sys.stderr.write(others)
