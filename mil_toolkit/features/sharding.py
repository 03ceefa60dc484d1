"""`--shard I/N` and what `auto` makes of torchrun's and Slurm's variables."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mil_toolkit.core.errors import UsageError


@dataclass(frozen=True)
class Share:
    """One of `count` shares, `index` from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def holds(self, patient_id: str) -> bool:
        """Whether the patient is in this share: by a hash of the id, so that no other patient matters."""
        return share_of(patient_id, self.count) == self.index


WHOLE = Share(0, 1)


def share_of(patient_id: str, count: int) -> int:
    """The share, 0 to count - 1, that a patient lies in."""
    return int.from_bytes(hashlib.sha256(os.fsencode(patient_id)).digest()[:8]) % count


def parse_share(text: str, environment: Mapping[str, str]) -> Share:
    """`I/N` with I from 1 to N, or `auto`: torchrun, a Slurm array, or the tasks of a Slurm job, in this order.

    Raises UsageError for anything else, and for `auto` where none of them started this process.
    """
    if text == "auto":
        return _share_of_launcher(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text!r}: expected auto or I/N with I from 1 to N, like 1/8.")
    return Share(int(match[1]) - 1, int(match[2]))


def _share_of_launcher(environment: Mapping[str, str]) -> Share:
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Share(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _share_of_array(environment)
    if "SLURM_PROCID" in environment:
        return Share(int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]))
    raise UsageError(
        "--shard auto: neither torchrun (RANK, WORLD_SIZE) nor Slurm (SLURM_ARRAY_TASK_ID, SLURM_PROCID) "
        "started this process. Give --shard I/N."
    )


def _share_of_array(environment: Mapping[str, str]) -> Share:
    task, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment["SLURM_ARRAY_TASK_COUNT"])
    first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", 0)) for name in ("MIN", "STEP"))
    index, rest = divmod(task - first, max(step, 1))
    if rest or index >= count:
        raise UsageError(
            f"--shard auto: task {task} of an array with gaps. Give one like --array=0-{count - 1}."
        )
    return Share(index, count)


def imbalance(sizes: Iterable[tuple[str, int]], count: int) -> float:
    """Images of the largest share over the mean share, from (patient, images) pairs."""
    totals = [0] * count
    for patient, images in sizes:
        totals[share_of(patient, count)] += images
    return max(totals) * count / max(sum(totals), 1)
