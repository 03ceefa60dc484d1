"""The picture of what counts: colours stay there, and all else is grey."""

import numpy as np

from mil_toolkit.report.spotlight import OUTLINE, spotlight


def test_only_the_places_that_count_keep_their_colours() -> None:
    pixels = np.full((64, 64, 3), (200, 40, 160), dtype=np.uint8)
    found = np.zeros((4, 4), dtype=np.float32)
    found[1, 1] = 3
    shown = spotlight(pixels, found)
    assert shown.shape == pixels.shape and shown.dtype == np.uint8
    assert np.abs(shown[24, 24].astype(int) - pixels[24, 24]).max() < 20
    assert np.ptp(shown[60, 60].astype(int)) <= 1
    outlined = (shown == OUTLINE).all(-1)
    assert outlined.any() and not outlined[24, 24] and not outlined[40:].any()


def test_an_image_without_a_place_that_counts_is_grey() -> None:
    pixels = np.full((16, 16, 3), (200, 40, 160), dtype=np.uint8)
    shown = spotlight(pixels, np.zeros((2, 2), dtype=np.float32)).astype(int)
    assert np.ptp(shown, axis=-1).max() <= 1
