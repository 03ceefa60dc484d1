"""The cores that this process may use."""

import math
import os
from pathlib import Path

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Return the number of cores that CPU affinity and the cgroup quota leave to this process.

    Where the system does not tell the affinity (macOS), all cores count.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, _quota_cores())


def _quota_cores() -> int:
    if not _CPU_QUOTA.is_file():
        return os.cpu_count() or 1
    quota, period = _CPU_QUOTA.read_text().split()
    return (os.cpu_count() or 1) if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
