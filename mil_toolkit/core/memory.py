"""The memory that is left to a process."""

import math
import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes that the machine and the cgroup's limit leave to new processes."""
    kibibytes = _numbers(_MEMINFO).get("MemAvailable", math.inf)
    return int(min(kibibytes * 1024, _cgroup_memory(), 2**60))


def _cgroup_memory() -> float:
    """Return the bytes below the cgroup's limit; files in memory do not count, since they can be dropped."""
    limit = _CGROUP / "memory.max"
    if not limit.is_file() or not limit.read_text().strip().isdecimal():
        return math.inf
    return max(0.0, int(limit.read_text()) - _numbers(_CGROUP / "memory.stat").get("anon", 0.0))


def _numbers(path: Path) -> dict[str, float]:
    """Return the numbers of a file of lines `name number` or `name: number kB`; none if there is no file."""
    if not path.is_file():
        return {}
    lines = re.finditer(r"^(\w+):?\s+(\d+)", path.read_text(), re.MULTILINE)
    return {line[1]: float(line[2]) for line in lines}
