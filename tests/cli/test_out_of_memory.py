"""Commands whose device lacks memory: one sentence with the right option, and the next run continues."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.commands import Command, Done, outcome
from support.studies import Tiny

from mil_toolkit import MILClassifier, demo
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.bundle import fit
from mil_toolkit.core.errors import OutOfMemory
from mil_toolkit.estimator import base
from mil_toolkit.study import ablation, jobs, trial
from mil_toolkit.training.finetune import Finetuner
from mil_toolkit.training.procedure import run_trial

Patch = pytest.MonkeyPatch


def fail(*_: object, **__: object) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")


def check(done: Done, command: str, option: str) -> None:
    """Check that a command ended with a usage error that names an option of this command."""
    assert done.code == 2, done.err
    assert "Out of memory: " in done.err and "GiB are free" in done.err and option in done.err
    assert "Traceback" not in done.err and "bug in mil_toolkit" not in done.err
    parser = import_module(f"mil_toolkit.cli.{command}")._parser()
    assert option in parser.format_help()


@pytest.mark.parametrize("name", ["extract", "predict"])
def test_embedding_names_the_batch_size(
    name: str, tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: Patch
) -> None:
    own: dict[str, Sequence[object]] = {
        "extract": (tiny.cohort_toml, "--backbone", "resnet18", "--weights", "random", "--image-size", 32),
        "predict": (tiny.bundle, tiny.cohort_toml, "--output", tmp_path / "predictions.csv"),
    }
    arguments = (name, *own[name], "--cache", tmp_path / "cache", "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "forward", fail)
        check(command(*arguments), name, "--batch-size")
        check(command(*arguments, "--batch-size", 3), name, "--batch-size")
    done = command(*arguments, "--batch-size", 3)
    assert done.code == 0, done.err


def test_a_study_names_the_workers_and_continues(
    tiny: Tiny, tiny_options: Sequence[object], tmp_path: Path, command: Command, monkeypatch: Patch
) -> None:
    """The trial that lacked memory is run again, with the same result as in a study that never lacked any."""
    begun: list[int] = []

    def lacks_memory(*arguments: Any) -> Any:
        begun.append(1)
        return run_trial(*arguments) if len(begun) == 1 else fail()

    options = (*tiny_options, "--outer-folds", 0, "--device", "cpu", "--study")
    with monkeypatch.context() as patch:
        patch.setattr(trial, "run_trial", lacks_memory)
        for _ in range(2):
            check(command("tune", *options, tmp_path / "study"), "tune", "--workers")
    for folder in ("study", "other"):
        assert command("tune", *options, tmp_path / folder).code == 0
    assert len(begun) == 3
    one, other = (outcome(tmp_path / folder) for folder in ("study", "other"))
    assert one.keys() == other.keys() and all(
        one[name] == other[name] for name in one if "scores" not in name
    )


def test_an_ablation_names_the_workers(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: Patch
) -> None:
    study = shutil.copytree(tiny.study, tmp_path / "study")
    monkeypatch.setattr(ablation, "run_trial", fail)
    options = ("--features", tiny.features, "--study", study, "--device", "cpu", "--workers", 1)
    check(command("ablate", tiny.cohort_toml, *options), "ablate", "--workers")


@pytest.mark.parametrize("finetune", [False, True])
def test_a_fit_names_the_device_and_fine_tuning_the_chunk(
    finetune: bool, tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: Patch
) -> None:
    study = shutil.copytree(tiny.study, tmp_path / "study")
    monkeypatch.setattr(*((Finetuner, "advance", fail) if finetune else (fit, "refit", fail)))
    options = ("--features", tiny.features, "--study", study, "--output", tmp_path / "model")
    more = ("--finetune", "--epochs", 1, "--chunk", 8) if finetune else ()
    done = command("fit", tiny.cohort_toml, *options, *more, "--device", "cpu")
    check(done, "fit", "--chunk" if finetune else "--device")
    assert not (tmp_path / "model").exists()


def test_the_demo_names_the_device(tiny: Tiny, tmp_path: Path, monkeypatch: Patch) -> None:
    """It has no option for the batch size."""

    def lacks_memory(*_: object, **__: object) -> None:
        raise OutOfMemory("Out of memory.", "Use a --batch-size below 8.")

    monkeypatch.setattr(demo, "extract", lacks_memory)
    with pytest.raises(OutOfMemory, match=r"^Out of memory\. Use --device cpu\.$"):
        demo._extract(tiny.cohort, tmp_path, "cpu")


def test_an_estimator_names_its_parameters(make_patients: Callable[..., Any], monkeypatch: Patch) -> None:
    monkeypatch.setattr(base, "run_trial", fail)
    patients = make_patients(12)
    bags = [part.numpy() for part in patients.bags.instances.split(patients.bags.sizes.tolist())]
    with pytest.raises(OutOfMemory, match="smaller batch_size, or device='cpu'"):
        MILClassifier(folds=2).fit(bags, patients.labels)


@dataclass(frozen=True)
class _LacksMemory:
    """A job for which the device lacks memory."""

    def do(self, patients: object, progress: object) -> None:
        fail()


def test_a_worker_says_why_it_failed() -> None:
    """So that the first process does the job again and ends with the same sentence."""
    ours, theirs = Pipe()
    ours.send(_LacksMemory())
    with pytest.raises(OutOfMemory):
        jobs._serve(SimpleNamespace(map=lambda descriptor: None), 1, theirs)
    assert "--workers" in ours.recv().reason
