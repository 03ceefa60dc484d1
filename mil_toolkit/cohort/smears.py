"""Images that resemble blood smears: a lymphocyte among red cells and platelets.

Every part is a blob, painted over the parts below it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
UNIFORM = (0.1, 0.9)  # range of the centres of cells that are placed uniformly, as shares of the image's side


@dataclass(frozen=True)
class Smear:
    """The appearance that all images of a patient share.

    tint: (3,) what the stain adds to every pixel in RGB
    light: what the light adds to every pixel
    scale: the size of the cells, 1 on average
    """

    tint: np.ndarray
    light: float
    scale: float


def draw_smear(generator: np.random.Generator) -> Smear:
    """Draw the appearance of a patient's images."""
    return Smear(generator.normal(0, 5, size=3), generator.normal(0, 5), generator.normal(1, 0.04))


class Nucleus(NamedTuple):
    """Where the nucleus of a drawn lymphocyte is: its centre and mean radius in pixels."""

    row: float
    column: float
    radius: float


class DrawnImage(NamedTuple):
    """An image and the nucleus of its lymphocyte."""

    image: Image.Image
    nucleus: Nucleus


def draw_image(
    cell: "Cell", smear: Smear, generator: np.random.Generator, image_size: int, uniform: bool = False
) -> DrawnImage:
    """Draw a square image of a lymphocyte of this kind among red cells and platelets.

    uniform: place the lymphocyte anywhere but at the rim of the image, instead of near the centre
    """
    pixels = np.empty((image_size, image_size, 3))
    pixels[:] = (250, 234, 214)
    for _ in range(generator.integers(8, 15)):
        _paint_red_cell(pixels, smear, generator)
    for _ in range(generator.poisson(0.8)):
        centre, radius = generator.uniform(0, image_size, size=2), 0.022 * image_size
        _paint(pixels, _blob(centre, radius, 0.2, generator), (132, 84, 150), generator, texture=14)
    nucleus = _paint_lymphocyte(pixels, cell, smear, generator, uniform)
    pixels += smear.tint + smear.light + generator.normal(0, 3, size=pixels.shape)
    return DrawnImage(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), nucleus)


def _paint_red_cell(pixels: np.ndarray, smear: Smear, generator: np.random.Generator) -> None:
    size = len(pixels)
    radius = smear.scale * size * generator.uniform(0.10, 0.125)
    blob = _blob(generator.uniform(0, size, size=2), radius, 0.04, generator)
    _paint(pixels, blob, (197, 150, 158), generator, pallor=generator.uniform(25, 60))


@dataclass(frozen=True)
class Cell:
    """A kind of lymphocyte.

    nucleus: smallest and largest radius of the nucleus, as shares of the image's side
    rim: width of the cytoplasm, as a share of the nucleus's radius
    ragged: wobble of the cytoplasm's outline, as a share of its radius
    wobble: wobble of the nucleus's outline, as a share of its radius
    cleft: whether the nucleus is cleft
    colour, cytoplasm: colours of the nucleus and the cytoplasm in RGB
    clumps: standard deviation of the chromatin's brightness
    """

    nucleus: tuple[float, float]
    rim: float
    ragged: float
    wobble: float
    cleft: bool
    colour: Colour
    cytoplasm: Colour
    clumps: float


SMALL = Cell((0.125, 0.15), 0.16, 0.05, 0.05, False, (74, 44, 112), (168, 168, 214), 14)
ACTIVATED = Cell((0.145, 0.185), 0.6, 0.13, 0.09, False, (92, 60, 134), (186, 196, 230), 16)
TUMORAL = Cell((0.19, 0.235), 0.14, 0.06, 0.10, True, (150, 84, 152), (160, 164, 214), 26)
PLASMACYTOID = Cell((0.115, 0.14), 1.05, 0.05, 0.05, False, (92, 36, 104), (112, 118, 200), 22)
BLASTOID = Cell((0.185, 0.225), 0.08, 0.05, 0.06, False, (122, 72, 176), (108, 116, 206), 6)


def _paint_lymphocyte(
    pixels: np.ndarray, cell: Cell, smear: Smear, generator: np.random.Generator, uniform: bool
) -> Nucleus:
    size = len(pixels)
    if uniform:
        centre = generator.uniform(*UNIFORM, size=2) * size
    else:
        centre = size / 2 + generator.normal(0, 0.05, size=2) * size
    radius = smear.scale * size * generator.uniform(*cell.nucleus)
    aside = generator.normal(0, 0.25 * cell.rim * radius, size=2)
    body = _blob(centre + aside, (1 + cell.rim) * radius, cell.ragged, generator)
    _paint(pixels, body, cell.cytoplasm, generator, texture=7)
    nucleus = _blob(centre, radius, cell.wobble, generator)
    _paint(pixels, nucleus, cell.colour, generator, texture=cell.clumps)
    if cell.cleft:
        angle = generator.uniform(0, 2 * math.pi)
        towards = np.array([math.sin(angle), math.cos(angle)])
        cleft = _blob(centre + 0.85 * radius * towards, 0.32 * radius, 0.2, generator)
        _paint(pixels, cleft, cell.cytoplasm, generator, texture=7)
        nucleolus = _blob(centre - 0.35 * radius * towards, 0.2 * radius, 0.1, generator)
        _paint(pixels, nucleolus, (176, 132, 190), generator)
    return Nucleus(float(centre[0]), float(centre[1]), float(radius))


@dataclass(frozen=True)
class _Blob:
    """A round shape with a wobbly outline.

    centre: (2,) row and column in pixels
    radius: mean radius in pixels
    waves: (3, 2) height, as a share of the radius, and phase of the waves of two, three and four bulges
    """

    centre: np.ndarray
    radius: float
    waves: np.ndarray

    def window(self, pixels: np.ndarray) -> tuple[slice, slice]:
        """Return the rows and columns of an image that the blob may touch."""
        reach = 1.6 * self.radius + 2
        low = np.clip(self.centre - reach, 0, len(pixels)).astype(int)
        high = np.clip(self.centre + reach + 1, 0, len(pixels)).astype(int)
        return slice(low[0], high[0]), slice(low[1], high[1])

    def depth(self, pixels: np.ndarray) -> np.ndarray:
        """Return the relative distance from the centre over the window: 0 at the centre, 1 on the outline."""
        rows, columns = self.window(pixels)
        down = np.arange(rows.start, rows.stop)[:, None] - self.centre[0]
        right = np.arange(columns.start, columns.stop) - self.centre[1]
        angle = np.arctan2(down, right)
        bulges = [height * np.cos(n * angle + phase) for n, (height, phase) in enumerate(self.waves, start=2)]
        return np.hypot(down, right) / (self.radius * (1 + sum(bulges)))


def _blob(centre: np.ndarray, radius: float, wobble: float, generator: np.random.Generator) -> _Blob:
    """Draw a blob whose radius varies by about `wobble`, as a share of the radius, in two to four bulges."""
    heights = np.clip(generator.normal(0, wobble / math.sqrt(3), size=3), -0.16, 0.16)
    return _Blob(centre, radius, np.stack([heights, generator.uniform(0, 2 * math.pi, size=3)], axis=1))


def _paint(
    pixels: np.ndarray,
    blob: _Blob,
    colour: Colour,
    generator: np.random.Generator,
    texture: float = 0.0,
    pallor: float = 0.0,
) -> None:
    """Paint a blob with a soft edge over the pixels.

    texture: standard deviation of the brightness between patches
    pallor: how much brighter the middle is
    """
    depth = blob.depth(pixels)
    cover = np.clip((1 - depth) * blob.radius / 1.2 + 0.5, 0, 1)[..., None]
    light = pallor * np.exp(-((depth / 0.5) ** 4)) - 16 * np.clip(depth, 0, 1) ** 6  # a darker outline
    if texture:
        light += texture * _patches(depth.shape, generator)
    inside = np.array(colour) + light[..., None]
    window = blob.window(pixels)
    pixels[window] += cover * (inside - pixels[window])


def _patches(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Draw smooth noise of standard deviation about one, in patches of about four pixels."""
    rows, columns = shape
    coarse = generator.normal(0, 1, size=(rows // 4 + 2, columns // 4 + 2)).astype(np.float32)
    fine = Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(fine)
