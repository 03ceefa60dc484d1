"""Checkpoints of fine-tuning: what is read is what was written."""

from pathlib import Path

import torch

from mil_toolkit.training.checkpoints import CheckpointState, publish_tensors, read_tensors


def test_a_checkpoint_keeps_tensors_and_state(tmp_path: Path) -> None:
    tensors = {"weights": torch.randn(2, 3), "steps": torch.arange(4.0)}
    state: CheckpointState = {"seed": [1, 2], "epoch": 3, "step": 4, "scaler": {"scale": 0.5}}
    for expected in (state, {**state, "finished": True}):
        publish_tensors(tmp_path / "new" / "checkpoint.safetensors", tensors, expected)
        read, read_state = read_tensors(tmp_path / "new" / "checkpoint.safetensors")
        assert read_state == expected and read.keys() == tensors.keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in read.items())
