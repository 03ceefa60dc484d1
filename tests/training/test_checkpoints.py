"""Checkpoints of fine-tuning: what is read is what was written."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from mil_toolkit.core.errors import DataError
from mil_toolkit.training.checkpoints import CheckpointState, publish_tensors, read_tensors


def test_a_checkpoint_keeps_tensors_and_state(tmp_path: Path) -> None:
    tensors = {"weights": torch.randn(2, 3), "steps": torch.arange(4.0)}
    state: CheckpointState = {"seed": [1, 2], "epoch": 3, "step": 4, "scaler": {"scale": 0.5}}
    for expected in (state, {**state, "finished": True}):
        publish_tensors(tmp_path / "new" / "checkpoint.safetensors", tensors, expected)
        read, read_state = read_tensors(tmp_path / "new" / "checkpoint.safetensors")
        assert read_state == expected and read.keys() == tensors.keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in read.items())


STATE = {"seed": [1], "epoch": 0, "step": 0, "scaler": {}}
TENSORS = {"weights": torch.ones(2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file of mil-fit --finetune"),
        (b"\xff" * 100, "not a file of mil-fit --finetune"),
        (save(TENSORS), "not a file of mil-fit --finetune"),
        (save(TENSORS, {"state": "{"}), "not a file of mil-fit --finetune"),
        (save(TENSORS, {"state": "[" * 100_000}), "not a file of mil-fit --finetune"),
        (save({"weights": torch.tensor(float("nan"))}, {"state": json.dumps(STATE)}), "weights has values"),
        (save(TENSORS, {"state": "[]"}), "does not have the expected content"),
        (save(TENSORS, {"state": json.dumps(STATE | {"epoch": -1})}), "Expected `int` >= 0"),
        (save(TENSORS, {"state": json.dumps(STATE | {"seed": "x"})}), "Expected `array`"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


def test_a_pipe_in_the_place_of_a_checkpoint_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.safetensors")
    with pytest.raises(DataError, match="named pipe"):
        read_tensors(tmp_path / "run.safetensors")
