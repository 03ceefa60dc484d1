"""`Share`: divides the patients between several runs of mil-extract; `parse_share` reads `--shard`."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mil_toolkit.core.errors import UsageError


@dataclass(frozen=True)
class Share:
    """One of `count` shares of the patients; `index` begins at 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def holds(self, patient_id: str) -> bool:
        """Return whether the patient is in this share, which depends only on the patient's id."""
        return share_of(patient_id, self.count) == self.index


WHOLE = Share(0, 1)


def share_of(patient_id: str, count: int) -> int:
    """Return the share, 0 to count - 1, that a patient is in, by a hash of the id.

    >>> share_of("P1", 4)
    0
    """
    return int.from_bytes(hashlib.sha256(os.fsencode(patient_id)).digest()[:8]) % count


def parse_share(text: str, environment: Mapping[str, str]) -> Share:
    """Parse `I/N` with I from 1 to N, or `auto`.

    `auto` reads the variables of torchrun, of a Slurm array or of the tasks of a Slurm job, in this order.
    Raises UsageError for any other text, and for `auto` if none of these launchers started this process.

    >>> parse_share("3/8", {})
    Share(index=2, count=8)
    >>> parse_share("auto", {"RANK": "1", "WORLD_SIZE": "4"})
    Share(index=1, count=4)
    """
    if text == "auto":
        return _share_of_launcher(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text!r}: expected auto, or I/N with I from 1 to N such as 1/8.")
    return Share(int(match[1]) - 1, int(match[2]))


def _share_of_launcher(environment: Mapping[str, str]) -> Share:
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Share(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _share_of_array(environment)
    if "SLURM_PROCID" in environment:
        return Share(int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]))
    raise UsageError(
        "--shard auto: this process was started neither by torchrun (RANK, WORLD_SIZE) nor by Slurm"
        " (SLURM_ARRAY_TASK_ID, SLURM_PROCID). Use --shard I/N."
    )


def _share_of_array(environment: Mapping[str, str]) -> Share:
    task, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment["SLURM_ARRAY_TASK_COUNT"])
    first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", 0)) for name in ("MIN", "STEP"))
    index, rest = divmod(task - first, max(step, 1))
    if rest or index >= count:
        raise UsageError(
            f"--shard auto: task {task} belongs to an array with gaps. Use one such as --array=0-{count - 1}."
        )
    return Share(index, count)


def imbalance(sizes: Iterable[tuple[str, int]], count: int) -> float:
    """Return the ratio of the images in the largest share to those in the mean share.

    sizes: pairs of a patient and its number of images
    """
    totals = [0] * count
    for patient, images in sizes:
        totals[share_of(patient, count)] += images
    return max(totals) * count / max(sum(totals), 1)
