"""Drawn smears whose nuclei are known."""

from dataclasses import dataclass, replace

import numpy as np

NUCLEUS, CYTOPLASM = (88, 48, 130), (176, 172, 212)
RED_CELLS = {"mauve": (186, 150, 158), "pink": (226, 160, 166), "orange": (222, 172, 140)}


@dataclass(frozen=True)
class Ellipse:
    """An ellipse: its centre as row and column, its half axes and its angle."""

    row: float
    column: float
    long: float
    short: float
    angle: float = 0.0

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the pixels whose centres are inside."""
        down, right = np.ogrid[: shape[0], : shape[1]]
        down, right = down + 0.5 - self.row, right + 0.5 - self.column
        along = right * np.cos(self.angle) + down * np.sin(self.angle)
        across = down * np.cos(self.angle) - right * np.sin(self.angle)
        return (along / self.long) ** 2 + (across / self.short) ** 2 <= 1

    def grown(self, pixels: float) -> "Ellipse":
        """Return a larger ellipse."""
        return replace(self, long=self.long + pixels, short=self.short + pixels)


@dataclass(frozen=True)
class Light:
    """The light of an image: its exposure, how much darker one corner is, and its noise in grey values."""

    exposure: float = 1.0
    falloff: float = 0.0
    noise: float = 3.0


def draw_smear(
    generator: np.random.Generator,
    nuclei: list[Ellipse],
    shape: tuple[int, int] = (160, 160),
    red: str = "mauve",
    light: Light = Light(),
) -> np.ndarray:
    """Draw nuclei with a rim of cytoplasm among a dozen red cells and some platelets, (H, W, 3) uint8."""
    pixels = np.empty((*shape, 3))
    pixels[:] = (250, 236, 218)
    unit = min(shape) / 160
    for _ in range(14):
        row, column = generator.uniform(0, shape[0]), generator.uniform(0, shape[1])
        radius = unit * generator.uniform(12, 16)
        pixels[Ellipse(row, column, radius, radius).mask(shape)] = RED_CELLS[red]
        pixels[Ellipse(row, column, radius / 3, radius / 3).mask(shape)] += 18
    for _ in range(2):
        row, column = generator.uniform(0, shape[0]), generator.uniform(0, shape[1])
        pixels[Ellipse(row, column, 4 * unit, 3 * unit).mask(shape)] = (130, 80, 150)
    for nucleus in nuclei:
        pixels[nucleus.grown(5 * unit).mask(shape)] = CYTOPLASM
    for nucleus in nuclei:
        inside = nucleus.mask(shape)
        chromatin = generator.normal(0, 14, size=(int(inside.sum()), 1))
        pixels[inside] = np.array(NUCLEUS) + chromatin
    return _lit(pixels, light, generator)


def _lit(pixels: np.ndarray, light: Light, generator: np.random.Generator) -> np.ndarray:
    height, width, _ = pixels.shape
    corner = np.linspace(0, 0.5, height)[:, None] + np.linspace(0, 0.5, width)
    lit = pixels * (light.exposure * (1 - light.falloff * corner))[..., None]
    return np.clip(lit + generator.normal(0, light.noise, size=lit.shape), 0, 255).astype(np.uint8)


def random_nucleus(
    generator: np.random.Generator, shape: tuple[int, int] = (160, 160), reach: float = 0.2
) -> Ellipse:
    """Return a nucleus at most `reach` of the image's sides from the centre, of a plausible size."""
    row, column = (side * (0.5 + generator.uniform(-reach, reach)) for side in shape)
    long = min(shape) * generator.uniform(0.085, 0.16)
    return Ellipse(row, column, long, long * generator.uniform(0.75, 1), generator.uniform(0, np.pi))
