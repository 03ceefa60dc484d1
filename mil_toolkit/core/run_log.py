"""`RunLog`: the log of a command, in a file beside what the command writes."""

import contextlib
import logging
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.files import open_for_appending
from mil_toolkit.core.memory import available_memory
from mil_toolkit.core.text import duration_words, one_screen, printable, visible
from mil_toolkit.core.verbosity import LOGGER

LOG = "log.txt"
_MOST_WAITING = 1000  # lines that are kept until the file is open
_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "scipy", "optuna", "h5py", "pillow")
_INDENT = "\n    "
logger = logging.getLogger(__name__)


class RunLog(logging.Handler):
    """Appends the messages of a command to a file, each with its time and the id of the process.

    Until `begin` is called, messages wait in memory: a command that refuses its input leaves no file.

    Every message is written at once and by a single call, so that processes that share the file do not mix
    their lines, and a process that is killed leaves whole lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun = time.monotonic()
        self._waiting = deque[str](maxlen=_MOST_WAITING)
        self._descriptor: int | None = None
        self._ended = False

    def begin(self, folder: Path) -> None:
        """Write to the log of a folder from now on, unless another one is open; warn where that fails."""
        if self._descriptor is not None or self._ended:
            return
        try:
            self._descriptor = open_for_appending(folder / LOG)
        except MilError as error:
            self._give_up(f"{one_screen(str(error))} This command runs without a log.")
            return
        while self._waiting and not self._ended:  # the disk may be full
            self._write(self._waiting.popleft())
        self.note(machine_words())

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a message at full length."""
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "seconds")
        kind = f"{record.levelname}: " if record.levelno > logging.INFO else ""
        text = visible(f"{kind}{super().format(record)}").replace("\n", _INDENT)
        return f"{when} [{record.process}] {text}\n"

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or keep it until the file is open."""
        if self._ended:
            return
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - as in the handlers of the standard library
            self.handleError(record)
            return
        if self._descriptor is None:
            self._waiting.append(text)
        else:
            self._write(text)

    def note(self, message: str, level: int = logging.INFO) -> None:
        """Write a message that only the log has."""
        self.handle(logging.LogRecord(LOGGER, level, "", 0, message, None, None))

    def note_warning(self, message: str) -> None:
        """Write a warning that only the log has."""
        self.note(message, logging.WARNING)

    def end(self, exit_code: int) -> None:
        """Write how the command ended, and close the file."""
        duration = duration_words(time.monotonic() - self._begun)
        self.note(f"Ended with exit code {exit_code} after {duration}.")
        self._close()

    def _write(self, text: str) -> None:
        assert self._descriptor is not None
        try:
            os.write(self._descriptor, text.encode(errors="backslashreplace"))
        except OSError as error:
            self._give_up(f"The log cannot be continued: {error.strerror}.")

    def _give_up(self, reason: str) -> None:
        self._close()
        logger.warning("%s", reason)

    def _close(self) -> None:
        self._ended = True
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def log_into(folder: Path) -> None:
    """Let the command that runs, if any, write its log into a folder.

    Only the first folder of a command counts.
    """
    for handler in logging.getLogger(LOGGER).handlers:
        if isinstance(handler, RunLog):
            handler.begin(folder)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Log how long the block took; name: of what it does, as the beginning of a sentence."""
    begun = time.monotonic()
    yield
    logger.debug("%s took %s.", name, duration_words(time.monotonic() - begun))


def machine_words() -> str:
    """Return the versions of the packages that results depend on, and the cores and memory of the machine.

    Names of machines, users and folders are left out.
    """
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return f"{versions}; {available_cores()} cores, {available_memory() / 2**30:.1f} GiB of memory free"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a copy without metadata
        return "of unknown version"


@contextlib.contextmanager
def python_warnings_passed_on(log: Callable[[str], None], shown: bool = True) -> Iterator[None]:
    """Pass warnings of Python's `warnings` on to `log` within the block; shown: also show them as before."""
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        log(f"{category.__name__}: {printable(str(message))}")
        if shown:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
