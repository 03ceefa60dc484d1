"""`normalise_stain`: give all images the same mean colour and contrast; Reinhard et al. 2001."""

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.features.stain import Pixels

Floats = NDArray[np.float64]

# Mean and standard deviation of the pixels in l, alpha and beta after the normalisation. They are those of
# drawn smears (`draw_image` without tint), so that no image of a patient is the reference. Other values need
# another name in STAIN_TARGETS.
TARGET_MEAN: Floats = np.array([-0.218, 0.003, 0.008])
TARGET_DEVIATION: Floats = np.array([0.233, 0.064, 0.006])
LEAST_SHARE = 0.25  # of a deviation of TARGET_DEVIATION: a smaller one tells no stain, and is not made larger

_LMS: Floats = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB: Floats = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1, 1], [1, 1, -2], [1, -1, 0]])
_RGB, _LOG_LMS = np.linalg.inv(_LMS), np.linalg.inv(_LAB)


def normalise_stain(pixels: Pixels) -> Pixels:
    """Return an image (H, W, 3) whose pixels have the target's mean and deviation in l, alpha and beta.

    These are lightness and two opponent colours, logarithmic and nearly uncorrelated in natural images
    (Reinhard et al. 2001, "Color transfer between images"). A deviation is multiplied by at most
    1 / LEAST_SHARE.

    Images without a stain are returned as they are: those whose lightness hardly varies, such as background
    or a single colour, and those whose colours hardly vary, such as grey ones.
    """
    colours = to_lab(pixels)
    mean, deviation = colours.mean(0), colours.std(0)
    small = deviation < LEAST_SHARE * TARGET_DEVIATION
    if small[0] or small[1:].all():
        return pixels
    factors = TARGET_DEVIATION / np.maximum(deviation, LEAST_SHARE * TARGET_DEVIATION)
    return from_lab((colours - mean) * factors + TARGET_MEAN).reshape(pixels.shape)


def to_lab(pixels: Pixels) -> Floats:
    """Return l, alpha and beta of every pixel: (H, W, 3) -> (H * W, 3); black counts as nearly black."""
    cones = np.maximum(pixels.reshape(-1, 3), 1) @ (_LMS.T / 255)
    return np.asarray(np.log10(cones) @ _LAB.T)


def from_lab(colours: Floats) -> Pixels:
    """Return pixels (n, 3) of l, alpha and beta (n, 3), as near as eight bits and the range allow."""
    light = 10.0 ** (colours @ _LOG_LMS.T) @ (_RGB.T * 255)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)
