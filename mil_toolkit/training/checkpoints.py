"""Checkpoints of fine-tuning: tensors and JSON values in one file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mil_toolkit.core.files import publish


class CheckpointState(TypedDict, total=False):
    """The values of a checkpoint that are not tensors; empty where there is no checkpoint yet.

    seed: path that all random numbers derive from, together with epoch and step
    epoch, step: the next step to run
    scaler: state of torch's GradScaler, empty unless gradients are scaled
    finished: whether training is complete; the file then contains predictions but no weights
    """

    seed: list[int]
    epoch: int
    step: int
    scaler: dict[str, float]
    finished: bool


def publish_tensors(path: Path, tensors: Mapping[str, Tensor], state: CheckpointState) -> None:
    """Write a checkpoint atomically; tensors and state share one file so that they always belong together."""
    publish(path, save(dict(tensors), {"state": json.dumps(state, allow_nan=False)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], CheckpointState]:
    """Read the tensors and the state of a checkpoint written by `publish_tensors`."""
    with safe_open(path, "pt") as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
        return tensors, cast(CheckpointState, json.loads(file.metadata()["state"]))
