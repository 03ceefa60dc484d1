"""How much a command says: `--quiet` and `--verbose`."""

import logging
import platform
import shlex
from collections.abc import Sequence

from mil_toolkit.core.version import __version__

LOGGER = "mil_toolkit"  # above the loggers of all modules
TERMINAL = "terminal"  # name of the handler that shows messages


def level(quiet: bool, verbose: bool) -> int:
    """Return the level of the messages that are shown."""
    if quiet:
        return logging.WARNING
    return logging.DEBUG if verbose else logging.INFO


def bars_disabled() -> bool | None:
    """Return whether progress bars are hidden: with `--quiet`; None leaves it to tqdm.

    By None, tqdm hides them where stderr is not a terminal.
    """
    root = logging.getLogger(LOGGER)
    levels = [root.level, *(handler.level for handler in root.handlers if handler.name == TERMINAL)]
    return True if max(levels) > logging.INFO else None


def without_passwords(argument: str) -> str:
    """Return an argument of a command with everything hidden that follows `://`.

    In the URL of a database, a password can stand in several places and contain any character.

    >>> without_passwords("--storage=postgresql://mil:s3cret@host/db")
    '--storage=postgresql://***'
    """
    scheme, separator, _ = argument.partition("://")
    return f"{scheme}://***" if separator else argument


def heading(program: str, arguments: Sequence[str]) -> str:
    """Return the versions and the command line, without passwords."""
    system = f"Python {platform.python_version()} on {platform.platform()}"
    command = shlex.join([program, *map(without_passwords, arguments)])
    return f"mil_toolkit {__version__}, {system}: {command}"
