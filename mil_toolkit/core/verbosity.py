"""How much a command says: `--quiet` and `--verbose`."""

import logging
import platform
import re
import shlex
from collections.abc import Sequence

from mil_toolkit.core.version import __version__

LOGGER = "mil_toolkit"  # above the loggers of all modules
_PASSWORD = re.compile(r"(://[^:/@\s]*):[^/\s]*@")  # a password may hold an @ itself, but no slash


def level(quiet: bool, verbose: bool) -> int:
    """Return the level of the messages that are shown."""
    if quiet:
        return logging.WARNING
    return logging.DEBUG if verbose else logging.INFO


def bars_disabled() -> bool | None:
    """Return whether progress bars are hidden: with `--quiet`; None leaves it to tqdm.

    By None, tqdm hides them where stderr is not a terminal.
    """
    return True if logging.getLogger(LOGGER).level > logging.INFO else None


def without_passwords(text: str) -> str:
    """Return a text with the passwords in its URLs masked.

    >>> without_passwords("--storage postgresql://mil:s3cret@host/db")
    '--storage postgresql://mil:***@host/db'
    """
    return _PASSWORD.sub(r"\1:***@", text)


def heading(program: str, arguments: Sequence[str]) -> str:
    """Return the versions and the command line, without passwords."""
    system = f"Python {platform.python_version()} on {platform.platform()}"
    return f"mil_toolkit {__version__}, {system}: {without_passwords(shlex.join([program, *arguments]))}"
