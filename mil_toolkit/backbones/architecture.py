"""`Architecture`: a network without its classifier, and the check that it embeds images of a given size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mil_toolkit.backbones.identity import IMAGE_SIZE, Triple
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.config.extraction import SQUASHED, Sampling
from mil_toolkit.core.errors import UsageError

StateDict = Mapping[str, Tensor]


class Checkpoint(NamedTuple):
    """The tensors of a file, and the keys that lead to them, from the outermost."""

    tensors: StateDict
    wrappers: tuple[str, ...] = ()


# Raised by the networks of timm and torchvision that cannot be built for a size, or cannot take it.
MISFITS = (AssertionError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError)


def unchanged(state: StateDict) -> StateDict:
    """Return a checkpoint as it is."""
    return state


def unknown_files() -> None:
    """Say nothing about the files of published weights."""


def no_doubt(_: Reading) -> None:
    """Find nothing doubtful about the mean and standard deviation."""


@dataclass(frozen=True)
class Architecture:
    """A network without its classifier, and where to get its published weights.

    mean, std: per channel of the pixels divided by 255
    classifier: returns the beginnings of the names of tensors that a checkpoint may contain in addition
    published: returns the weights that its authors published; raises UsageError if they cannot be obtained
    side: side in pixels of the images that the network was made for; None where any size will do
    sampling: how images were resized to this size
    resized: builds the network again for images of another side; None where that is impossible
    adapted: renames and resamples the tensors of a checkpoint as the network needs them
    published_files: returns the files that decide what `published` returned; None if they are unknown
    config_files: that decide about the network itself
    statistics_doubt: returns why weights of a file may need another mean and standard deviation, if at all
    """

    network: nn.Module
    mean: Triple
    std: Triple
    classifier: Callable[[], tuple[str, ...]]
    published: Callable[[], Checkpoint]
    side: int | None = None
    sampling: Sampling = SQUASHED
    resized: Callable[[int], "Architecture"] | None = None
    adapted: Callable[[StateDict], StateDict] = unchanged
    published_files: Callable[[], Sequence[Path] | None] = unknown_files
    config_files: Sequence[Path] = ()
    statistics_doubt: Callable[[Reading], str | None] = no_doubt


class Built(NamedTuple):
    """An architecture, the side of its images in pixels, and the width of their embeddings."""

    architecture: Architecture
    side: int
    width: int


def for_images(build: Callable[[], Architecture], name: str, side: int | None) -> Built:
    """Build an architecture that embeds images of side `side`, or of its own size.

    name: what an error calls the backbone

    Raises UsageError if it cannot take images of this size, and if its outputs are not embeddings.
    """
    architecture = build()
    side = side or architecture.side or IMAGE_SIZE
    try:
        shape = _output_shape(architecture.network, side)
    except MISFITS as error:
        refusal = _refusal(name, side, architecture.side, error)
        architecture, shape = _resized(architecture, side, refusal)
    if shape is None or len(shape) != 2:
        given = "several tensors" if shape is None else f"a tensor of shape {(1, *shape[1:])}"
        raise UsageError(
            f"--backbone {name}: expected one embedding (1, D) for an image, got {given}."
            " Choose a backbone that pools its feature maps."
        )
    return Built(architecture, side, shape[1])


def _resized(
    architecture: Architecture, side: int, refusal: UsageError
) -> tuple[Architecture, tuple[int, ...] | None]:
    """Return the architecture for another size, and the shape of its output; raises `refusal` if it fails."""
    if architecture.resized is None:
        raise refusal
    try:
        resized = architecture.resized(side)
        return resized, _output_shape(resized.network, side)
    except MISFITS:
        raise refusal from None


def _refusal(name: str, side: int, expected: int | None, error: Exception) -> UsageError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    advice = "Choose a larger --image-size." if expected is None else f"Use --image-size {expected}."
    return UsageError(f"--backbone {name} cannot take images of {side} x {side} pixels: {reason}. {advice}")


def _output_shape(network: nn.Module, side: int) -> tuple[int, ...] | None:
    """Return the shape of the output for one image; None if the output is not one tensor."""
    with torch.inference_mode():
        output = network.eval()(torch.zeros(1, 3, side, side))
    return tuple(output.shape) if isinstance(output, Tensor) else None
