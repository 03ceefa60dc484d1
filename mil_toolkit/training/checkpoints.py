"""Checkpoints of fine-tuning: tensors and JSON values in one file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import parse_json, publish
from mil_toolkit.core.reading import check_input
from mil_toolkit.core.records import from_json
from mil_toolkit.core.text import printable

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]


class CheckpointState(TypedDict, total=False):
    """The values of a checkpoint that are not tensors; empty where there is no checkpoint yet.

    seed: path that all random numbers derive from, together with epoch and step
    epoch, step: the next step to run
    scaler: state of torch's GradScaler, empty unless gradients are scaled
    finished: whether training is complete; the file then contains predictions but no weights
    """

    seed: list[Count]
    epoch: Count
    step: Count
    scaler: dict[str, Finite]
    finished: bool


def publish_tensors(path: Path, tensors: Mapping[str, Tensor], state: CheckpointState) -> None:
    """Write a checkpoint atomically; tensors and state share one file so that they always belong together."""
    publish(path, save(dict(tensors), {"state": json.dumps(state, allow_nan=False)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], CheckpointState]:
    """Read the tensors and the state of a checkpoint written by `publish_tensors`.

    Raises DataError for a file with other content, and for tensors whose values are not finite.
    """
    check_input(path)
    try:
        with safe_open(path, "pt") as file:
            state = parse_json((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError, OSError):
        raise damaged(path, "it is not a file of mil-fit --finetune") from None
    infinite = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if infinite:
        raise damaged(path, f"{printable(infinite[0])} has values that are not finite")
    return tensors, from_json(state, CheckpointState, path)


def damaged(path: Path, reason: str) -> DataError:
    """Return the error for a checkpoint from which training cannot be resumed."""
    return DataError(
        f"{printable(path)} is damaged: {reason}. Remove it, and this run of the fine-tuning starts again."
    )
