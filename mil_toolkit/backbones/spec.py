"""`BackboneSpec`: the part of a cache's spec that identifies the network behind the embeddings."""

from typing import Literal, NotRequired, TypedDict

from mil_toolkit.config.extraction import SQUASHED, Sampling

RANDOM_SEED = 0  # of weights `random`


class SamplingSpec(TypedDict):
    """How images were resized; see `Sampling`."""

    interpolation: str
    mode: Literal["squash", "centre"]
    crop_pct: float


class BackboneSpec(TypedDict):
    """The backbone of a cache; JSON-compatible.

    backbone: a name in `BACKBONES` or `ENCODERS`, or the encoder that another tool reported
    weights: `imagenet`, `pretrained` (those that the authors of an encoder published), `random`, `file` or
        `imported from TOOL`
    seed: of random weights, None for all others
    weight_digest: see `weights.weight_digest`; None for imported features, whose network is not available
    width: D of the embeddings
    mean, std: normalisation per channel of the pixels divided by 255; None for imported features
    sampling: absent if images were resized as by default, whole and bilinearly
    """

    backbone: str
    weights: str
    seed: int | None
    weight_digest: str | None
    width: int
    mean: list[float] | None
    std: list[float] | None
    sampling: NotRequired[SamplingSpec]


class SizedBackboneSpec(BackboneSpec):
    """A backbone, and the side of the images that it embeds, in pixels."""

    image_size: int


def sampling_of(spec: BackboneSpec) -> Sampling:
    """Return how images were resized."""
    return Sampling(**spec["sampling"]) if "sampling" in spec else SQUASHED
