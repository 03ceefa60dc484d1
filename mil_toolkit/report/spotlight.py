"""`spotlight`: an image in which only the places that count keep their colours."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.features.stain import Pixels

if TYPE_CHECKING:
    from mil_toolkit.backbones.saliency import Map  # imports torch

FADE, PAPER = 0.35, 205.0  # contrast of what does not count, and the grey that it fades to
EDGE, OUTLINE = 0.5, (20, 235, 20)  # share of the maximum at the outline, and its colour
EXPLANATION = (
    "In the second picture of an image, the places that count keep their colours, with a green outline where"
    " they count at least half as much as the most important one; all else is grey."
)
NOTE = (
    f"{EXPLANATION} This is for the final model, which was fitted on these patients too; the attention is"
    " that of models that did not see them."
)


def spotlight(pixels: Pixels, found: "Map") -> Pixels:
    """Return an image (S, S, 3) with places that count less turned grey and pale, and an outline.

    found: how much each place counts, (h, w); where no place counts, everything is grey
    """
    from mil_toolkit.backbones.saliency import enlarged  # imports torch

    weights = enlarged(found, len(pixels))
    share = (weights / (weights.max() or 1.0))[..., None]
    grey = PAPER + FADE * (pixels.mean(-1, keepdims=True) - PAPER)
    shown = share * pixels + (1 - share) * grey
    shown[_outline(share[..., 0] >= EDGE)] = OUTLINE
    return np.clip(shown, 0, 255).astype(np.uint8)


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a region, (S, S), that have a neighbour outside of it."""
    padded = np.pad(inside, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return inside & ~np.logical_and.reduce(around)
