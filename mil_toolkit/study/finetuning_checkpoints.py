"""Checks of a fine-tuning's checkpoints before training resumes from them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.reading import check_input
from mil_toolkit.core.text import printable, some
from mil_toolkit.training.checkpoints import CheckpointState, read_tensors
from mil_toolkit.training.finetune import Finetuner

_MOMENT = re.compile(r"adamw\.([0-9]{1,6})\.(step|exp_avg|exp_avg_sq)")
_BROKEN = (SafetensorError, KeyError, TypeError, ValueError, RecursionError)


class Checkpoint(NamedTuple):
    """A checkpoint: logits of the watched patients, other tensors, and values that are not tensors."""

    logits: Tensor
    tensors: Mapping[str, Tensor]
    state: CheckpointState


def read_checkpoint(path: Path, epochs: int) -> Checkpoint | None:
    """Read the checkpoint of a training with so many epochs; None where there is none.

    Raises DataError where the file is not such a checkpoint.
    """
    try:
        check_input(path)
        tensors, state = read_tensors(path)
    except FileNotFoundError:
        return None
    except _BROKEN as error:
        raise _refusal(path, [f"it cannot be read: {error}"]) from None
    problems = list(_state_problems(state, epochs)) if isinstance(state, dict) else ["it has no state"]
    if "logits" not in tensors:
        problems.append("it has no logits")
    if problems:
        raise _refusal(path, problems)
    return Checkpoint(tensors.pop("logits"), tensors, state)


def check_logits(path: Path, logits: Tensor, shape: tuple[int, ...]) -> None:
    """Raise DataError where the logits of a checkpoint are not finite or do not have this shape."""
    if tuple(logits.shape) != shape or not logits.is_floating_point() or not logits.isfinite().all():
        expected = " x ".join(map(str, shape))
        raise _refusal(path, [f"its logits are not {expected} finite numbers"])


def check_tensors(path: Path, checkpoint: Checkpoint, finetuner: Finetuner) -> None:
    """Raise DataError where the tensors or the seed of a checkpoint are not those of a finetuner."""
    parts = {name: tensor for name, tensor in finetuner.tensors().items() if not _MOMENT.fullmatch(name)}
    expected = parts | _moments(checkpoint.tensors, finetuner)
    problems = []
    if expected.keys() != checkpoint.tensors.keys():
        names = some([printable(name) for name in sorted(expected.keys() ^ checkpoint.tensors.keys())])
        problems.append(f"these tensors are not in both the file and the model: {names}")
    problems += _tensor_problems(checkpoint.tensors, expected)
    if checkpoint.state["seed"] != list(finetuner.options.seed):
        problems.append("its seed is that of another training")
    if problems:
        raise _refusal(path, problems)


def _state_problems(state: CheckpointState, epochs: int) -> Iterator[str]:
    """Yield what is wrong with the values of a checkpoint that are not tensors."""
    if not isinstance(state.get("finished"), bool):
        yield "it does not say whether the training is complete"
    for name, most in (("epoch", epochs), ("step", 10**9)):
        number = state.get(name)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
            yield f"its {name} is not a whole number from 0 to {most}"
    if not isinstance(state.get("seed"), list) or not isinstance(state.get("scaler"), dict):
        yield "it has no seed or no scaler"


def _tensor_problems(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield which tensors have another type or shape than expected, or are not finite."""
    for name in sorted(tensors.keys() & expected.keys()):
        tensor, other = tensors[name], expected[name]
        if tensor.dtype != other.dtype or tensor.shape != other.shape:
            yield f"{printable(name)} has the shape {tuple(tensor.shape)} and the type {tensor.dtype}"
        elif not tensor.isfinite().all():
            yield f"{printable(name)} has values that are not finite"


def _moments(tensors: Mapping[str, Tensor], finetuner: Finetuner) -> dict[str, Tensor]:
    """Return tensors with the types and shapes of the moments of all parameters that have any, by name."""
    found = {int(moment[1]) for moment in map(_MOMENT.fullmatch, tensors) if moment}
    parameters = list(finetuner.halves.parameters.values())
    moments: dict[str, Tensor] = {}
    for number in sorted(found & set(range(len(parameters)))):
        parameter = parameters[number]
        moments[f"adamw.{number}.step"] = parameter.new_zeros(()).float()
        moments |= {f"adamw.{number}.{kind}": parameter for kind in ("exp_avg", "exp_avg_sq")}
    return moments


def _refusal(path: Path, problems: list[str]) -> DataError:
    advice = "Delete the folder finetune/ of the study to begin anew."
    return DataError([*(f"{printable(path)}: {printable(problem)}." for problem in problems), advice])
