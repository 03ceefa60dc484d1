"""`BackboneIdentity`: what the spec of a cache records of a network."""

from typing import NamedTuple

Triple = tuple[float, float, float]


class BackboneIdentity(NamedTuple):
    """A network with its weights, as far as embeddings depend on it.

    weight_digest: see `weights.weight_digest`
    width: D of the embeddings
    mean, std: per channel of the pixels divided by 255
    """

    weight_digest: str
    width: int
    mean: Triple
    std: Triple
