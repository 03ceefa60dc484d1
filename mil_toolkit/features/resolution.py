"""The resolution of a cohort's images, as the options of an extraction need it."""

import logging
from dataclasses import replace

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.text import each_or_most, printable

_MOST_PIXELS = 2**31  # of the side of an image, in any format
logger = logging.getLogger(__name__)


def in_pixels(config: ExtractionConfig, cohort: Cohort) -> ExtractionConfig:
    """Return the configuration with `crop` in pixels, if it is in micrometres.

    Raises UsageError if the cohort does not state the resolution that `scale` or the crop needs, or if the
    crop is less than a pixel or larger than any image; DataError that names patients of unknown resolution.
    """
    if config.scale is not None:
        _check_scales(cohort)
    if config.crop_um is None:
        return config
    resolution = config.scale or cohort.microns_per_pixel
    if resolution is None:
        raise _no_resolution(config.crop_um, cohort)
    pixels = config.crop_um / resolution
    if pixels > _MOST_PIXELS:
        raise UsageError(
            f"A crop of {config.crop_um:g} micrometres is larger than any image of"
            f" {resolution:g} micrometres per pixel."
        )
    crop = round(pixels)
    if not crop:
        pixel = f"a pixel of {resolution:g} micrometres"
        raise UsageError(f"A crop of {config.crop_um:g} micrometres is less than half of {pixel}.")
    return replace(config, crop=crop)


def _no_resolution(crop_um: float, cohort: Cohort) -> UsageError:
    source, crop = printable(cohort.source), f"A crop of {crop_um:g} micrometres"
    if not cohort.scales:
        return UsageError(
            f"{crop} needs the resolution of the images, and {source} does not state microns_per_pixel, or"
            " names an empty column. Add it to [cohort]: a number, or the name of a column with values."
        )
    return UsageError(
        f"{crop} has not the same number of pixels in all images, since the microns_per_pixel of {source}"
        " differ between patients or are unknown for some. Bring the images to one scale with --scale."
    )


def _check_scales(cohort: Cohort) -> None:
    """Raise an error if the resolution of a patient's images is unknown."""
    source = printable(cohort.source)
    if not cohort.scales:
        raise UsageError(
            f"--scale needs the resolution of the images, and {source} does not state microns_per_pixel, or"
            " names an empty column. Add it to [cohort]: a number, or the name of a column with values."
        )
    unknown = [printable(patient) for patient in cohort.images if patient not in cohort.scales]
    lines = (f"patient {patient}: the microns_per_pixel of the images are unknown." for patient in unknown)
    summary = f"patients of {source} have images of unknown microns_per_pixel:"
    if unknown:
        advice = "--scale needs the resolution of all images. Complete the column of microns_per_pixel."
        raise DataError([*each_or_most(unknown, len(cohort.images), lines, summary), advice])


def warn_of_whole_images(config: ExtractionConfig) -> None:
    """Warn where resampling has little effect because images are shown without a crop.

    config: with the side of the images decided
    """
    if config.scale is not None and not config.crop and config.crop_um is None:
        size = config.side
        logger.warning(
            "--scale without --crop: whole images, or their central squares, are resized to %d x %d pixels in"
            " the end, whatever their size, so that the network does not see %g micrometres per pixel. With"
            " --crop %d it does.",
            size,
            size,
            config.scale,
            size,
        )
