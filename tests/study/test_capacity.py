"""The number of searches that run at once, on simulated machines."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mil_toolkit.config.run import RunConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.search.space import Space
from mil_toolkit.study import capacity
from mil_toolkit.study.capacity import process_count
from mil_toolkit.study.folder import Study
from mil_toolkit.study.records import CohortIdentity, StudyDescription
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.patients import Patients

AUTO = RunConfig(workers=None)
CPU = torch.device("cpu")


@pytest.fixture(name="workspace")
def _workspace(
    make_patients: Callable[..., Patients], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Workspace]:
    """Return a study of usual size on a machine with eight cores and much memory."""
    monkeypatch.setattr(capacity, "available_cores", lambda: 8)
    monkeypatch.setattr(capacity, "available_memory", lambda: 2**40)
    patients = make_patients(200)

    def make(device: torch.device = CPU, **options: Any) -> Workspace:
        config = StudyConfig(**options)
        description = StudyDescription(1, config, {}, CohortIdentity("c", "", len(patients)), None)
        study = Study(Path("study"), config, description)
        return Workspace(study, patients, Space.of(config, patients), device, torch.bfloat16)

    return make


def test_as_many_as_searches_or_cores(workspace: Callable[..., Workspace]) -> None:
    assert [process_count(AUTO, workspace(), searches) for searches in (0, 1, 6, 16)] == [1, 1, 6, 8]
    assert process_count(AUTO, workspace(threads=3), 16) == 2
    assert process_count(AUTO, workspace(threads=64), 16) == 1


def test_as_many_as_were_asked_for(workspace: Callable[..., Workspace]) -> None:
    counts = [process_count(RunConfig(workers=workers), workspace(trials=1), 6) for workers in (1, 2, 50)]
    assert counts == [1, 2, 6]


def test_a_small_study_starts_no_processes(workspace: Callable[..., Workspace]) -> None:
    assert process_count(AUTO, workspace(trials=2), 6) == 1
    assert process_count(AUTO, workspace(trials=2, settings={"epochs": (100_000,)}), 6) == 6


def test_standardising_within_groups_takes_more_memory(workspace: Callable[..., Workspace]) -> None:
    settings = {"standardise": (True, "group")}
    plain, grouped = (
        capacity._bytes_of_search(workspace(**options)) for options in ({}, {"settings": settings})
    )
    columns = 6  # of `make_patients`
    bags = workspace().patients.bags
    assert bags is not None
    assert grouped - plain == workspace().config.folds * int(bags.offsets[-1]) * 2 * columns  # in bfloat16


def test_no_more_than_memory_allows(
    workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    for gibibytes, count in ((0, 1), (1, 1), (3, 4)):
        monkeypatch.setattr(capacity, "available_memory", lambda size=gibibytes: size * 2**30)
        assert process_count(AUTO, workspace(), 16) == count
    large = workspace()
    assert large.patients.bags is not None
    wide = replace(large.patients.bags, instances=torch.empty(600, 200_000, dtype=torch.float16))
    monkeypatch.setattr(capacity, "available_memory", lambda: 4 * 2**30)
    assert process_count(AUTO, replace(large, patients=replace(large.patients, bags=wide)), 16) == 3


def test_one_process_for_each_cuda_device(
    workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert process_count(AUTO, workspace(torch.device("cuda", 0)), 6) == 4
    for number in (0, 1):  # chosen by --device cuda:0 and cuda:1
        chosen = replace(workspace(torch.device("cuda", number)), numbered=True)
        assert process_count(AUTO, chosen, 6) == 1


def test_on_a_shared_storage_a_command_is_one_process_unless_it_is_asked_for_more(
    workspace: Callable[..., Workspace],
) -> None:
    url = "postgresql://tuner@host/tuning"
    assert process_count(RunConfig(url), workspace(), 6) == 1
    assert process_count(RunConfig(url, workers=9), workspace(), 6) == 9
