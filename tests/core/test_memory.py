"""The memory that is left, on simulated machines."""

from pathlib import Path

import pytest

from mil_toolkit.core import memory
from mil_toolkit.core.memory import available_memory

MEBIBYTE = 2**20


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB, of which 6 are available, and no cgroup."""
    lines = ("MemTotal: 8388608 kB", "MemAvailable:    6291456 kB", "HugePages_Total: 0", "")
    (tmp_path / "meminfo").write_text("\n".join(lines))

    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "cgroup").mkdir()
    return tmp_path


def test_without_a_limit_all_available_memory_may_be_used(machine: Path) -> None:
    assert available_memory() == 6144 * MEBIBYTE
    (machine / "cgroup" / "memory.max").write_text("max\n")
    assert available_memory() == 6144 * MEBIBYTE


def test_a_container_has_what_its_limit_leaves(machine: Path) -> None:
    (machine / "cgroup" / "memory.max").write_text(f"{1024 * MEBIBYTE}\n")
    assert available_memory() == 1024 * MEBIBYTE
    (machine / "cgroup" / "memory.stat").write_text(f"anon {300 * MEBIBYTE}\nfile {900 * MEBIBYTE}\n")
    assert available_memory() == 724 * MEBIBYTE
    (machine / "cgroup" / "memory.stat").write_text(f"anon {2000 * MEBIBYTE}\n")
    assert available_memory() == 0


def test_shared_memory_counts_since_it_cannot_be_dropped(machine: Path) -> None:
    (machine / "cgroup" / "memory.max").write_text(f"{1024 * MEBIBYTE}\n")
    (machine / "cgroup" / "memory.stat").write_text(f"anon {300 * MEBIBYTE}\nshmem {100 * MEBIBYTE}\n")
    assert available_memory() == 624 * MEBIBYTE


@pytest.mark.parametrize(
    ("own", "folder", "name"),
    [
        ("0::/slurm/job_7/task_0\n", "slurm/job_7", "memory.max"),
        ("9:cpu:/slurm\n4:memory:/slurm/job_7\n0::/\n", "memory/slurm/job_7", "memory.limit_in_bytes"),
    ],
)
def test_a_job_of_a_cluster_has_what_the_limits_of_its_cgroups_leave(
    machine: Path, own: str, folder: str, name: str
) -> None:
    (machine / "own").write_text(own)
    (machine / "cgroup" / folder).mkdir(parents=True)
    (machine / "cgroup" / folder / name).write_text(f"{512 * MEBIBYTE}\n")
    assert available_memory() == 512 * MEBIBYTE


def test_a_system_that_does_not_say_has_no_limit(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert available_memory() > 2**50
