"""Augmentation of images: orientations, colours and repeatability."""

import pytest
import torch
from support.pixels import random_pixels

from mil_toolkit.training.augmentation import augment


def test_each_image_is_turned_flipped_and_tinted_independently() -> None:
    images = random_pixels(400, 3)
    same = augment(images, 0.0, torch.Generator().manual_seed(1))
    orientations = {
        tuple(
            image.rot90(turns).flip(0).flatten().tolist() if flip else image.rot90(turns).flatten().tolist()
        )
        for image in images[:1]
        for turns in range(4)
        for flip in (False, True)
    }
    repeated = augment(images[:1].expand(200, -1, -1, -1), 0.0, torch.Generator().manual_seed(2))
    assert {tuple(image.flatten().tolist()) for image in repeated} == orientations and len(orientations) == 8
    assert torch.equal(same.flatten(1).sort(1).values, images.flatten(1).sort(1).values), "no pixel is lost"
    grey = torch.full((200, 4, 4, 3), 200, dtype=torch.uint8)
    tinted = augment(grey, 0.1, torch.Generator().manual_seed(3)).int()
    assert tinted.min() >= 180 and tinted.max() <= 220 and len(tinted.unique()) > 30
    assert (tinted.amax((1, 2)) == tinted.amin((1, 2))).all(), "one factor for each channel of an image"


def test_equal_seeds_give_equal_augmentation() -> None:
    images = random_pixels(6, 8)
    one, other, third = (augment(images, 0.2, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert torch.equal(one, other) and not torch.equal(one, third)


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_images_are_turned_together_as_one_by_one(count: int) -> None:
    """Against a stack of images that are turned singly, from the same draws; bit by bit."""
    images = random_pixels(count, 5)
    generator, oracle = (torch.Generator().manual_seed(count) for _ in range(2))
    augmented = augment(images, 0.3, generator)
    kinds = torch.randint(8, (count,), generator=oracle).tolist()
    turned = [image.rot90(kind % 4) for image, kind in zip(images, kinds, strict=True)]
    turned = [image.flip(0) if kind >= 4 else image for image, kind in zip(turned, kinds, strict=True)]
    factors = 1 + 0.3 * (2 * torch.rand(count, 1, 1, 3, generator=oracle) - 1)
    expected = torch.stack(turned) if turned else images
    assert torch.equal(augmented, (expected * factors).round().clamp(max=255).to(torch.uint8))
    assert torch.equal(generator.get_state(), oracle.get_state())
