"""The place of a process among those that torchrun or Slurm started on this machine."""

import os
from typing import NamedTuple

from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.errors import UsageError


class LocalRank(NamedTuple):
    """The number of a process among those that a launcher started on this machine, from 0.

    variable: the environment variable that states it
    """

    variable: str
    number: int


def local_rank() -> LocalRank | None:
    """Return this process's number on this machine by LOCAL_RANK (torchrun) or SLURM_LOCALID (srun).

    Returns None for a process that no launcher started. Raises UsageError for a value that is not a number.
    """
    for variable in ("LOCAL_RANK", "SLURM_LOCALID"):
        if variable in os.environ:
            return LocalRank(variable, _count(variable))
    return None


def local_processes() -> int:
    """Return how many processes share the cores of this one: LOCAL_WORLD_SIZE of torchrun, else 1.

    Slurm gives each task cores of its own, so its tasks do not count.
    """
    return max(1, _count("LOCAL_WORLD_SIZE")) if "LOCAL_WORLD_SIZE" in os.environ else 1


def own_cores() -> int:
    """Return this process's share of the available cores, at least 1."""
    return max(1, available_cores() // local_processes())


def _count(variable: str) -> int:
    text = os.environ[variable]
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f"The environment variable {variable} is {text!r}. Expected a number from 0.")
    return int(text)
