"""Copies of a cohort's images with another stain or magnification, and their embeddings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.extract import extract

Alteration = Callable[[Image.Image], Image.Image]
DEGREES, INTENSITY = 30, 0.6
_DENSITIES = -np.log((np.arange(256) + 1) / 256).astype(np.float32)


def stained(image: Image.Image, degrees: float, intensity: float) -> Image.Image:
    """Return an image whose optical densities have another hue and intensity.

    Optical densities are proportional to the amounts of stain (Ruifrok and Johnston 2001). They are turned
    around the grey axis, which changes the hue of each stain, and multiplied by the intensity.
    """
    densities = _DENSITIES[np.asarray(image)]  # (H, W, 3)
    turned = densities @ (intensity * _turn(np.radians(degrees)).T).astype(np.float32)
    pixels = np.rint(256 * np.exp(-turned) - 1).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _turn(angle: float) -> np.ndarray:
    """Return the rotation of three channels around the grey axis (Rodrigues' formula), (3, 3)."""
    axis = np.full(3, 3**-0.5)
    cross = np.cross(np.eye(3), axis).T
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def magnified(image: Image.Image) -> Image.Image:
    """Return the central quarter of an image at twice the magnification."""
    width, height = image.size
    left, top = width // 4, height // 4
    part = image.crop((left, top, left + width // 2, top + height // 2))
    return part.resize((width, height), Image.Resampling.BICUBIC)


def reduced(image: Image.Image) -> Image.Image:
    """Return an image at half the magnification, surrounded by its mirror images."""
    width, height = image.size
    small = np.asarray(image.resize((width // 2, height // 2), Image.Resampling.BICUBIC))
    left, top = width // 4, height // 4
    sides = ((top, height - height // 2 - top), (left, width - width // 2 - left), (0, 0))
    return Image.fromarray(np.pad(small, sides, mode="symmetric"))


ALTERATIONS: Mapping[str, Alteration] = {
    "stain: hue and intensity": lambda image: stained(image, DEGREES, INTENSITY),
    "magnification x 0.5": reduced,
    "magnification x 2": magnified,
    "stain: hue": lambda image: stained(image, DEGREES, 1),
    "stain: intensity": lambda image: stained(image, 0, INTENSITY),
}


def some_images(cohort: Cohort, most: int) -> Cohort:
    """Return the cohort with at most so many images of each patient, drawn at random."""
    random, images, names = np.random.default_rng(0), {}, {}
    for patient, paths in cohort.images.items():
        drawn = np.sort(random.permutation(len(paths))[:most])
        images[patient] = tuple(paths[place] for place in drawn)
        names[patient] = tuple(cohort.image_names[patient][place] for place in drawn)
    return replace(cohort, images=images, image_names=names)


def altered_caches(
    cohort: Cohort, config: ExtractionConfig, folder: Path, colour: Colour | None
) -> dict[str, Path]:
    """Return the caches of the images as they are and of altered copies; all are written below `folder`.

    colour: to which the images are brought, as altered ones would be; None for no such step
    """
    caches = {"as they are": _embedded(cohort, config, folder, colour)}
    for number, (name, alter) in enumerate(ALTERATIONS.items()):
        copies = {
            patient: _copies(paths, alter, folder / f"images-{number}" / patient)
            for patient, paths in cohort.images.items()
        }
        altered = replace(cohort, name=f"altered-{number}", images=copies)
        caches[name] = _embedded(altered, config, folder, colour)
    return caches


def _embedded(cohort: Cohort, config: ExtractionConfig, folder: Path, colour: Colour | None) -> Path:
    return extract(cohort, config, folder / "cache", device="cpu", colour=colour).folder


def _copies(paths: Sequence[Path], alter: Alteration, folder: Path) -> tuple[Path, ...]:
    """Write altered copies of a patient's images, unless they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = tuple(folder / f"{path.stem}.png" for path in paths)
    for path, copy in zip(paths, copies, strict=True):
        if not copy.exists():
            with Image.open(path) as image:
                alter(image.convert("RGB")).save(copy, compress_level=1)
    return copies
