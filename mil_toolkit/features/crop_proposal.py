"""`propose_crop`: whether a sample of images shows one centred nucleus each, and a window that fits it."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mil_toolkit.cohort.listing import has_image_ending, holds, is_system_folder, list_folder
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.text import printable
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.nucleus import find_nucleus
from mil_toolkit.features.opening import read_image_file
from mil_toolkit.features.stain import Pixels

SAMPLE = 48  # images, each of another patient where there are as many
FEWEST = 8  # images from which a proposal is made
CENTRED = 0.15  # greatest distance of a nucleus from the centre, as a share of the image's shorter side
MOST_CENTRED = 0.8  # share of the sample that shows a centred nucleus
MARGIN = 1.25  # side of the window, as a multiple of the nuclei's median width
LARGEST_WINDOW = 0.75  # of the image's shorter side: a larger window changes little
STEP = 8  # pixels


class CropProposal(NamedTuple):
    """A window around the nuclei of a sample.

    images: in the sample; centred: those with a nucleus near their centre
    width: median width of these nuclei in pixels; side: median shorter side of the images
    crop: side of the window in pixels
    """

    images: int
    centred: int
    width: int
    side: int
    crop: int


def sample_images(roots: Sequence[Path]) -> list[Path]:
    """Return the middle image of up to SAMPLE patients, evenly spread over the folders in `roots`.

    Folders that cannot be read are passed over: reading the cohort reports them.
    """
    folders = [folder for root in roots for folder in _entries(root) if holds(folder.is_dir)]
    places = np.linspace(0, len(folders) - 1, min(SAMPLE, len(folders))).astype(int)
    entries = (_entries(folders[place]) for place in places)
    images = [[path for path in paths if has_image_ending(path.name)] for paths in entries]
    return [paths[len(paths) // 2] for paths in images if paths]


def _entries(folder: Path) -> list[Path]:
    names = [entry.name for entry in list_folder(folder, Problems())]
    return [
        folder / name for name in sorted(names) if not name.startswith(".") and not is_system_folder(name)
    ]


def propose_crop(paths: Sequence[Path]) -> CropProposal | None:
    """Return the window that fits the nuclei of these images; None unless most show a centred nucleus."""
    images = [pixels for path in paths if (pixels := _pixels(path)) is not None]
    widths = [width for pixels in images if (width := _centred_width(pixels)) is not None]
    if len(images) < FEWEST or len(widths) < MOST_CENTRED * len(images):
        return None
    width, side = float(np.median(widths)), int(np.median([min(pixels.shape[:2]) for pixels in images]))
    crop = math.ceil(MARGIN * width / STEP) * STEP
    if crop > LARGEST_WINDOW * side:
        return None
    return CropProposal(len(images), len(widths), round(width), side, crop)


def _pixels(path: Path) -> Pixels | None:
    try:
        return decode(read_image_file(path)[0])
    except (OSError, MilError):
        return None


def _centred_width(pixels: Pixels) -> float | None:
    """Return the width of the nucleus at an image's centre; None if there is none."""
    nucleus = find_nucleus(pixels).nucleus
    if nucleus is None:
        return None
    height, width, _ = pixels.shape
    distance = math.hypot(nucleus.row - height / 2, nucleus.column - width / 2)
    return 2 * nucleus.radius if distance <= CENTRED * min(height, width) else None


def crop_remarks(proposal: CropProposal | None, cohort: Path) -> list[str]:
    """Return the lines about a proposal for a cohort.toml, all of them comments."""
    if proposal is None:
        return []
    command = f"mil-extract {shlex.quote(printable(cohort))} --preprocess cell-crop --crop {proposal.crop}"
    return [
        "",
        f"# {proposal.centred} of {proposal.images} sampled images show a nucleus at their centre.",
        f"# It is about {proposal.width} pixels wide in images of {proposal.side}: a window around it shows",
        "# the network more of the cell. To look at such windows before images are embedded:",
        f"# {command} --dry-run --contact-sheet windows.png",
    ]
