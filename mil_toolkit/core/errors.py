"""Errors whose messages name what was expected, what came instead, where, and what to do about it."""

import importlib
from collections.abc import Sequence
from types import ModuleType


class MilError(Exception):
    """Base class of errors whose message is all that a user needs: commands print it without a traceback."""

    exit_code = 1


class UsageError(MilError):
    """The command was called with options that cannot work, or lacks a program or device that it needs."""

    exit_code = 2


class OutOfMemory(UsageError):
    """A device or this machine has too little memory for what was asked of it.

    situation: which device, and how much of its memory is free; advice: the options that need less
    """

    def __init__(self, situation: str, advice: str):
        self.situation = situation
        super().__init__(f"{situation} {advice}")


class DataError(MilError):
    """The input data are invalid; `problems` lists every problem, one line each."""

    exit_code = 3

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class BusyError(MilError):
    """Another process holds a resource that this one needs; a later attempt can succeed."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class Diverged(DataError):
    """Training produced weights that are not finite.

    A search fails the trial and continues; anywhere else the error ends the command.
    """


def import_extra(module: str, extra: str, needed_by: str) -> ModuleType:
    """Import a module that belongs to an optional extra of the package.

    Raises UsageError with the command that installs the extra if the module is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UsageError(f"{needed_by} needs {module}: pip install 'mil_toolkit[{extra}]'.") from None
