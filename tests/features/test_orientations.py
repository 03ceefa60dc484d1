"""The symmetries in which images are embedded, and the pixels that they give."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.features.orientations import MOST_AUGMENTED, SYMMETRIES, symmetries_of, turn
from mil_toolkit.training.augmentation import turn as turn_tensor

DIGESTS = st.binary(min_size=32, max_size=32)


@given(DIGESTS, st.integers(0, MOST_AUGMENTED))
def test_each_image_is_embedded_as_it_is_and_in_distinct_other_orientations(
    content: bytes, count: int
) -> None:
    symmetries = symmetries_of(content, count)
    assert symmetries[0] == 0 and len({*symmetries}) == len(symmetries) == 1 + count
    assert {*symmetries} <= {*range(SYMMETRIES)}
    assert symmetries_of(content, MOST_AUGMENTED)[: 1 + count] == symmetries


def test_orientations_differ_between_images_and_are_equally_frequent() -> None:
    first = [symmetries_of(np.random.default_rng(seed).bytes(32), 1)[1] for seed in range(700)]
    counts = np.bincount(first, minlength=SYMMETRIES)
    assert counts[0] == 0 and (counts[1:] > 70).all() and (counts[1:] < 130).all()


def test_the_orientations_are_the_symmetries_of_the_square() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    turned = [turn(pixels, symmetry) for symmetry in range(SYMMETRIES)]
    expected = [np.rot90(image, turns) for image in (pixels, pixels.transpose(1, 0, 2)) for turns in range(4)]
    assert np.array_equal(turned[0], pixels)
    assert {image.tobytes() for image in turned} == {image.tobytes() for image in expected}
    assert len({image.tobytes() for image in turned}) == SYMMETRIES


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
def test_fine_tuning_turns_images_alike(symmetry: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert np.array_equal(turn_tensor(torch.from_numpy(pixels), symmetry).numpy(), turn(pixels, symmetry))
