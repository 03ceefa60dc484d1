"""`find_nucleus`: the nucleus nearest an image's centre, and whether there is any doubt about it."""

import math
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from mil_toolkit.features.sights import Sight
from mil_toolkit.features.stain import Pixels, nuclear_stain, otsu_threshold

Mask = NDArray[np.bool_]
LONGEST = 160  # side in pixels of the image that is searched; larger ones are averaged down
SMALLEST = 0.006  # share of the image's pixels: platelets are smaller, nuclei larger
CONTRAST = 30  # least difference in `nuclear_stain` between a nucleus and the rest of the image
SMOOTHING = 1  # pixels: threads and rims up to twice as wide are not part of a nucleus
NECK = 0.5  # share of the greatest width: where nuclei that touch are narrower, they are divided
LOBE = 0.7  # share of the greatest width that each of the divided nuclei has at least


class Nucleus(NamedTuple):
    """A nucleus in an image (H, W, 3).

    row, column: its centre of mass; the image's first pixel spans 0 to 1
    mask: (H, W), true within the nucleus
    """

    row: float
    column: float
    mask: Mask

    @property
    def radius(self) -> float:
        """The radius in pixels of a disc of the same area."""
        return math.sqrt(self.mask.sum() / math.pi)


class Search(NamedTuple):
    """The nucleus nearest the centre, None if there is none, and what the image shows."""

    nucleus: Nucleus | None
    sight: Sight


def find_nucleus(pixels: Pixels) -> Search:
    """Search an image (H, W, 3) for the nucleus whose centre of mass is nearest the image's centre.

    Nuclei are the connected components above Otsu's threshold on `nuclear_stain` that are large enough and
    stand out clearly from the rest of the image. Those that touch are divided at their narrowest place. The
    result depends on the pixels only.
    """
    height, width, _ = pixels.shape
    factor = -(-max(height, width) // LONGEST)
    small = np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels
    nuclei = _nuclei(_blurred(nuclear_stain(small)))
    if not nuclei:
        return Search(None, "none")
    centres = (np.array([ndimage.center_of_mass(mask) for mask in nuclei]) + 0.5) * factor
    nearest = int(np.hypot(*(centres - (height / 2, width / 2)).T).argmin())
    row, column = centres[nearest].tolist()
    mask = nuclei[nearest]
    whole = mask.repeat(factor, 0).repeat(factor, 1)[:height, :width] if factor > 1 else mask
    return Search(Nucleus(row, column, whole), _sight(mask, len(nuclei)))


def _blurred(stain: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average the stain over squares of 2 * SMOOTHING + 1 pixels, so that chromatin leaves no gaps."""
    return np.asarray(Image.fromarray(stain).filter(ImageFilter.BoxBlur(SMOOTHING)))


def _sight(mask: Mask, count: int) -> Sight:
    if mask[[0, -1]].any() or mask[:, [0, -1]].any():
        return "cut"
    return "several" if count > 1 else "one"


def _nuclei(stain: NDArray[np.uint8]) -> list[Mask]:
    """Return the masks of all nuclei, given how strongly each pixel is stained."""
    stained = stain > otsu_threshold(stain)
    least = max(SMALLEST * stain.size, 1)
    if stained.all():  # of one colour
        return []
    rest = float(stain[~stained].mean())
    labels, _ = ndimage.label(_opened(stained))
    nuclei = []
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        part = labels[place] == number
        if part.sum() >= least and stain[place][part].mean() - rest >= CONTRAST:
            for piece in _pieces(ndimage.binary_fill_holes(part), least):
                mask = np.zeros(stain.shape, dtype=bool)
                mask[place] = piece
                nuclei.append(mask)
    return nuclei


def _opened(mask: Mask) -> Mask:
    """Remove what is narrower than a square of 2 * SMOOTHING + 1 pixels: a morphological opening."""
    for combine in (np.logical_and, np.logical_or):
        mask = _spread(_spread(mask, combine).T, combine).T
    return mask


def _spread(mask: Mask, combine: np.ufunc) -> Mask:
    """Combine each row with the SMOOTHING rows on both sides; beyond the border nothing is set."""
    height, padded = len(mask), np.pad(mask, [(SMOOTHING, SMOOTHING), (0, 0)])
    combined: Mask = reduce(combine, [padded[shift : shift + height] for shift in range(2 * SMOOTHING + 1)])
    return combined


def _pieces(part: Mask, least: float) -> list[Mask]:
    """Divide a component into nuclei that touch, each of at least `least` pixels."""
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    cores, count = ndimage.label(depth > NECK * depth.max())
    widest = ndimage.maximum(depth, cores, range(1, count + 1))
    wide = [number for number, width in enumerate(widest, 1) if width >= LOBE * depth.max()]
    if len(wide) < 2:
        return [part]
    cores = np.where(np.isin(cores, wide), cores, 0)
    nearest = ndimage.distance_transform_edt(cores == 0, return_distances=False, return_indices=True)
    owner = np.where(part, cores[tuple(nearest)], 0)
    pieces = [owner == core for core in wide]
    large = [piece for piece in pieces if piece.sum() >= least]
    return large if len(large) > 1 else [part]
