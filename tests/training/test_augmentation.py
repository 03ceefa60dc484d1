"""Augmentation of images: orientations, colours and repeatability."""

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
