"""`BackboneIdentity`: what the spec of a cache records of a network."""

from typing import NamedTuple

from mil_toolkit.config.extraction import SQUASHED, Sampling

Triple = tuple[float, float, float]
IMAGE_SIZE = 224  # of networks that take images of any size


class Preprocessing(NamedTuple):
    """The side in pixels of the images that a network was made for, and how they were resized to it."""

    image_size: int = IMAGE_SIZE
    sampling: Sampling = SQUASHED


class BackboneIdentity(NamedTuple):
    """A network with its weights, as far as embeddings depend on it.

    weight_digest: see `weights.weight_digest`
    width: D of the embeddings
    mean, std: per channel of the pixels divided by 255
    image_size: side of its images in pixels
    sampling: how images are resized for it, unless another way is asked for
    """

    weight_digest: str
    width: int
    mean: Triple
    std: Triple
    image_size: int = IMAGE_SIZE
    sampling: Sampling = SQUASHED

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for the network, unless another way is asked for."""
        return Preprocessing(self.image_size, self.sampling)

    def is_same_network(self, other: "BackboneIdentity") -> bool:
        """Return whether two networks are the same, however images are resized for them."""
        return self[:4] == other[:4]
