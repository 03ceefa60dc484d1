"""`BackboneSpec`: the part of a cache's spec that identifies the network behind the embeddings."""

from typing import TypedDict

RANDOM_SEED = 0  # of weights `random`


class BackboneSpec(TypedDict):
    """The backbone of a cache; JSON-compatible.

    backbone: a name in `BACKBONES`, or the encoder that another tool reported
    weights: `imagenet`, `random`, `file` or `imported from TOOL`
    seed: of random weights, None for all others
    weight_digest: see `weights.weight_digest`; None for imported features, whose network is not available
    width: D of the embeddings
    mean, std: normalisation per channel of the pixels divided by 255; None for imported features
    """

    backbone: str
    weights: str
    seed: int | None
    weight_digest: str | None
    width: int
    mean: list[float] | None
    std: list[float] | None


class SizedBackboneSpec(BackboneSpec):
    """A backbone, and the side of the images that it embeds, in pixels."""

    image_size: int
