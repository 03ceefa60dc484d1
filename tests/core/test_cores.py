"""The cores that a process may use."""

import os
from pathlib import Path

import pytest

from mil_toolkit.core import cores as cores_module


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 2), ("10000 100000", 1), ("max 100000", 64)])
def test_cores_are_limited_by_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, cores: int
) -> None:
    """The smaller of both, rounded up, at least one."""
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    monkeypatch.setattr(cores_module, "_CPU_QUOTA", quota)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cores_module.available_cores() == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert cores_module.available_cores() == 1
    quota.unlink()
    assert cores_module.available_cores() == 1


def test_all_cores_count_where_the_system_does_not_tell_the_affinity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS."""
    monkeypatch.setattr(cores_module, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores_module.available_cores() == 6
