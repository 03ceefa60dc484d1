"""How much a command says: `--quiet` and `--verbose`."""

import logging
import platform
import shlex
from collections.abc import Sequence

from mil_toolkit.core.version import __version__

LOGGER = "mil_toolkit"  # above the loggers of all modules
TERMINAL = "terminal"  # name of the handler that shows messages
PARENT = "parent"  # name of the handler by which a worker process leaves messages to its parent
_HIDDEN = "***"


def level(quiet: bool, verbose: bool) -> int:
    """Return the level of the messages that are shown."""
    if quiet:
        return logging.WARNING
    return logging.DEBUG if verbose else logging.INFO


def bars_disabled() -> bool | None:
    """Return whether progress bars are hidden: with `--quiet` and in workers; None leaves it to tqdm.

    A worker does not know the options of the command, and its bars would overwrite those of the command.
    By None, tqdm hides them where stderr is not a terminal.
    """
    root = logging.getLogger(LOGGER)
    if any(handler.name == PARENT for handler in root.handlers):
        return True
    levels = [root.level, *(handler.level for handler in root.handlers if handler.name == TERMINAL)]
    return True if max(levels) > logging.INFO else None


def without_passwords(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with everything hidden that may contain a password.

    This is the value of `--storage`, even where it is mistyped and not a URL, and whatever follows `://`: in
    the URL of a database, a password can stand in several places and contain any character.

    >>> without_passwords(["--storage=postgresql:/mil:s3cret@host/db", "--storage", "s3cret", "s3://bucket"])
    ['--storage=***', '--storage', '***', 's3://***']
    """
    shown, is_secret = [], False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        names_secret = _names_storage(option)
        if is_secret:
            shown.append(_HIDDEN)
        elif names_secret and equals:
            shown.append(f"{option}={_HIDDEN}")
        else:
            scheme, separator, _ = argument.partition("://")
            shown.append(f"{scheme}://{_HIDDEN}" if separator else argument)
        is_secret = names_secret and not equals and not is_secret
    return shown


def _names_storage(option: str) -> bool:
    """Return whether argparse takes a word for `--storage`, which may be shortened."""
    return "--storage".startswith(option) and option.startswith("--sto")


def heading(program: str, arguments: Sequence[str]) -> str:
    """Return the versions and the command line, without passwords."""
    system = f"Python {platform.python_version()} on {platform.platform()}"
    command = shlex.join([program, *without_passwords(arguments)])
    return f"mil_toolkit {__version__}, {system}: {command}"
