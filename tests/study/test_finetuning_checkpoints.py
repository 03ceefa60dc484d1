"""Checkpoints of fine-tuning that another model or another program has written."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from support.studies import Tiny
from torch import Tensor

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.study.finetuning_checkpoints import check_logits, check_tensors, read_checkpoint
from mil_toolkit.training.checkpoints import CheckpointState, publish_tensors
from mil_toolkit.training.finetune import Finetuner, FinetunerOptions
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

EPOCHS = 2
LOGITS = torch.zeros(1, 2, 4)
STATE: CheckpointState = {"seed": [5], "epoch": 1, "step": 0, "scaler": {}, "finished": False}
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module", name="finetuner")
def _finetuner(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Finetuner:
    """A finetuner after its first step."""
    labelled = tiny.cohort.labelled()
    cohort = labelled.select(labelled.patient_ids[:4])
    patients = Patients.of(cohort, tiny.cache)
    head = refit(patients, HeadConfig(hidden=32, components=16), epoch=1, member_count=2, seed=(1,))
    folder = tmp_path_factory.mktemp("finetuner")
    options = FinetunerOptions(FinetuneConfig(epochs=EPOCHS), (5,), torch.device("cpu"), folder)
    backbone = build_backbone("resnet18", "random")
    finetuner = Finetuner(backbone, head, patients, ImageFiles(cohort, tiny.cache), options)
    finetuner.advance()
    return finetuner


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


def test_an_honest_checkpoint_is_read(finetuner: Finetuner, tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    assert read_checkpoint(path, EPOCHS) is None
    publish_tensors(path, {**finetuner.tensors(), "logits": LOGITS}, {**finetuner.state(), "finished": False})
    checkpoint = read_checkpoint(path, EPOCHS)
    assert checkpoint is not None
    check_tensors(path, checkpoint, finetuner)
    check_logits(path, checkpoint.logits, (1, 2, 4))
    finetuner.restore(checkpoint.tensors, checkpoint.state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("heads.values"), "not in both the file and the model: heads.values"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "not in both the file and the model: extra"),
        (replaced("heads.first", lambda tensor: tensor[..., :1]), "heads.first has the shape"),
        (replaced("heads.steps", lambda tensor: tensor.to(torch.float64) + 0.5), "heads.steps has the shape"),
        (replaced("adamw.0.exp_avg", lambda tensor: tensor[:1]), "adamw.0.exp_avg has the shape"),
        (replaced("adamw.0.step", lambda tensor: tensor.expand(2)), "adamw.0.step has the shape"),
        (replaced("adamw.0.exp_avg", lambda tensor: tensor * torch.nan), "not finite"),
        (without("adamw.0.exp_avg_sq"), "not in both the file and the model: adamw.0.exp_avg_sq"),
        (lambda tensors: tensors.update({"adamw.999.step": torch.zeros(())}), "adamw.999.step"),
    ],
)
def test_other_tensors_are_refused(
    change: Callable[[Tensors], object], words: str, finetuner: Finetuner, tmp_path: Path
) -> None:
    path, tensors = tmp_path / "all.safetensors", {**finetuner.tensors(), "logits": LOGITS}
    change(tensors)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    publish_tensors(path, whole, {**finetuner.state(), "finished": False})
    with pytest.raises(DataError, match=words) as caught:
        checkpoint = read_checkpoint(path, EPOCHS)
        assert checkpoint is not None
        check_tensors(path, checkpoint, finetuner)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "state",
    [
        {**STATE, "epoch": 10**9},
        {**STATE, "epoch": -1},
        {**STATE, "epoch": "1"},
        {**STATE, "step": 0.5},
        {**STATE, "finished": 1},
        {**STATE, "seed": 5},
        {**STATE, "scaler": []},
        {},
        {"epoch": 1},
        [],
    ],
    ids=str,
)
def test_an_impossible_state_is_refused(state: CheckpointState, tmp_path: Path) -> None:
    publish_tensors(tmp_path / "all.safetensors", {"logits": LOGITS}, state)
    with pytest.raises(DataError, match=r"all\.safetensors"):
        read_checkpoint(tmp_path / "all.safetensors", EPOCHS)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 100, save({"logits": LOGITS})])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"all\.safetensors"):
        read_checkpoint(path, EPOCHS)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "all.safetensors")
    with pytest.raises(DataError, match="is a named pipe"):
        read_checkpoint(tmp_path / "all.safetensors", EPOCHS)


@pytest.mark.parametrize("logits", [torch.zeros(1, 2, 3), torch.zeros(4), LOGITS * torch.nan, LOGITS.int()])
def test_logits_of_other_patients_are_refused(logits: Tensor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its logits are not 1 x 2 x 4 finite numbers"):
        check_logits(tmp_path, logits, (1, 2, 4))
