"""The memory that is left to a process."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Return the bytes that the machine and the limits of the cgroups leave to new processes."""
    kibibytes = _numbers(_MEMINFO).get("MemAvailable", math.inf)
    return int(min(kibibytes * 1024, *map(_left_by, _cgroups()), 2**60))


def _cgroups() -> Iterator[Path]:
    """Yield the folders of the cgroups, of both versions, that can limit this process's memory."""
    yield _CGROUP
    for line in _OWN_CGROUPS.read_text().splitlines() if _OWN_CGROUPS.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory") and ".." not in path:
            root = _CGROUP / controllers
            folder = root / path.lstrip("/")
            yield from (place for place in (folder, *folder.parents) if place.is_relative_to(root))


def _left_by(cgroup: Path) -> float:
    """Return the bytes below a cgroup's limit; cached files do not count, since they can be dropped."""
    for name, used in (
        ("memory.max", ("anon", "shmem")),
        ("memory.limit_in_bytes", ("total_rss", "total_shmem")),
    ):
        limit = cgroup / name
        if limit.is_file() and limit.read_text().strip().isdecimal():
            numbers = _numbers(cgroup / "memory.stat")
            return max(0.0, int(limit.read_text()) - sum(numbers.get(kind, 0.0) for kind in used))
    return math.inf


def _numbers(path: Path) -> dict[str, float]:
    """Return the numbers of a file of lines `name number` or `name: number kB`; empty without a file."""
    if not path.is_file():
        return {}
    lines = re.finditer(r"^(\w+):?\s+(\d+)", path.read_text(), re.MULTILINE)
    return {line[1]: float(line[2]) for line in lines}
