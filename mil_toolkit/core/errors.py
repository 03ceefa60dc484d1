"""Errors that say what was expected, what came, where, and what to do."""

import importlib
from collections.abc import Sequence
from types import ModuleType


class MilError(Exception):
    """An error whose message is all that a user needs: the commands print it without a traceback."""

    exit_code = 1


class UsageError(MilError):
    """The command was called with options that cannot work, or with a program or device that is missing."""

    exit_code = 2


class DataError(MilError):
    """The data are not what they should be; `problems` lists everything found, one line each."""

    exit_code = 3

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class BusyError(MilError):
    """Another process holds what this one needs; trying again later will do."""

    exit_code = 75


def import_extra(module: str, extra: str, needed_by: str) -> ModuleType:
    """Import a module that one of the package's extras brings; raises UsageError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UsageError(f"{needed_by} needs {module}: pip install 'mil_toolkit[{extra}]'.") from None


class Diverged(DataError):
    """A configuration whose weights left the finite numbers: a trial is given up, anything later is an error."""
