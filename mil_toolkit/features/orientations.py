"""The orientations in which `mil-extract --augment` embeds an image: symmetries of the square."""

import hashlib

import numpy as np

from mil_toolkit.features.stain import Pixels

SYMMETRIES = 8  # of the square: four quarter turns, each with or without a flip
MOST_AUGMENTED = SYMMETRIES - 1  # an image as it is uses one of them; another one would repeat an embedding
RULE = "square-symmetries-1"
"""The name of `symmetries_of` and `turn` in specs; a rule that gives other pixels gets another number."""


def symmetries_of(content_digest: bytes, augmented: int) -> tuple[int, ...]:
    """Return the symmetries in which an image is embedded: 0, which is the image as it is, and others.

    content_digest: SHA-256 of the image's file. It determines the order of the others, so that a renamed file
        keeps its embeddings, and the first ones are the same for any number.
    augmented: number of others, 0 to MOST_AUGMENTED; none is repeated

    >>> symmetries_of(bytes(32), 2), symmetries_of(bytes(32), 3)
    ((0, 5, 1), (0, 5, 1, 7))
    """
    others = sorted(range(1, SYMMETRIES), key=lambda symmetry: _rank(content_digest, symmetry))
    return (0, *others[:augmented])


def _rank(content_digest: bytes, symmetry: int) -> bytes:
    return hashlib.sha256(content_digest + bytes([symmetry])).digest()


def turn(pixels: Pixels, symmetry: int) -> Pixels:
    """Turn an image (S, S, 3) by `symmetry` % 4 quarter turns; from 4 on, then flip it top to bottom.

    No pixel is interpolated, because the image is a square.

    >>> turn(np.array([[1, 2], [3, 4]], dtype=np.uint8)[:, :, None], 5)[:, :, 0].tolist()
    [[1, 3], [2, 4]]
    """
    turned = np.rot90(pixels, symmetry % 4)
    return turned[::-1] if symmetry >= SYMMETRIES // 2 else turned
