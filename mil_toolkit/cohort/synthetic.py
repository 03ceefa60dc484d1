"""`draw_cohort` draws patients, each with a bag of blood-smear-like images, from one seed."""

import csv
import io
import logging
import math
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from mil_toolkit.cohort.kinds import DAYS_PER_YEAR
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import fsync_folder, publish, report_write_errors

Colour = tuple[int, int, int]
logger = logging.getLogger(__name__)
TUMORAL_PATIENTS = 0.6  # share of all patients
TUMORAL_IMAGES = (0.03, 0.12)  # share of a tumoral patient's images that show the tumoral morphology
BAG_SIZES = (
    2.5,
    2,
)  # of the beta distribution of tumoral patients' bag sizes; of reactive ones the other way round
MISSING_SHARE = 0.04  # of the cells of sex and lymphocyte count
REFERENCE = date(2020, 12, 31)
TRUTH = "truth.csv"  # beside the cohort: `patient`, `image`, `signal`; no stage reads it
COHORT_TOML = """\
# Synthetic: drawn by mil_toolkit, no patient stands behind it.
# truth.csv says which images show the tumoral morphology; no command reads it.

[cohort]
name = "synthetic"
table = "patients.csv"
images = ["images"]            # one folder a patient
id = "ID"
label = "DIAGNOSIS"
positive = "tumoral"
negative = "reactive"
unlabelled = ""                # an empty cell: to predict, never to train on

[metadata.age]
column = "BIRTH"
kind = "birth-date"
formats = ["%d/%m/%Y"]
reference = 2020-12-31

[metadata.sex]
column = "SEX"
kind = "category"

[metadata.lymphocyte_count]
column = "LYMPHOCYTES"
kind = "number"
transform = "log"
unit = "10^9/L"

[splits]
stratify = ["label", "age"]
"""


@dataclass(frozen=True)
class _Patient:
    """A drawn patient.

    signals: of each image, whether it shows the tumoral morphology; activated: share of the others that show an
    activated lymphocyte, which is large too and says nothing
    """

    name: str
    row: tuple[str, ...]
    signals: tuple[bool, ...]
    activated: float


def draw_cohort(
    folder: Path,
    patients: int = 140,
    unlabelled: int = 12,
    seed: int = 0,
    image_size: int = 96,
    images: tuple[int, int] = (12, 28),
) -> Path:
    """Draw a cohort of `patients` labelled and `unlabelled` further patients; returns its cohort.toml.

    Three in five patients are tumoral, and a few of their images show the tumoral morphology (a large, cleft nucleus
    of coarse chromatin with a nucleolus). All other images show small lymphocytes or, in a share that differs from
    patient to patient, activated ones, which are large too and say nothing. Age and lymphocyte count carry part of
    the signal, the bag size (`images`: fewest and most) a little, sex none. The same arguments give the
    same bytes. Raises UsageError where `folder` exists and is not empty, or cannot be written; an interrupted run
    leaves nothing under its name.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} already exists and is not an empty folder. Remove it or name another one."
        )
    logger.info("Drawing a cohort of %d patients into %s ...", patients + unlabelled, folder)
    with report_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
        draft.mkdir()
        try:
            _draw_into(draft, patients, unlabelled, np.random.default_rng(seed), image_size, images)
            draft.replace(folder)
        except BaseException:
            shutil.rmtree(draft)
            raise
        fsync_folder(folder.parent)
    return folder / "cohort.toml"


def _draw_into(
    folder: Path,
    patients: int,
    unlabelled: int,
    generator: np.random.Generator,
    image_size: int,
    images: tuple[int, int],
) -> None:
    drawn = _draw_patients(patients, unlabelled, generator, images)
    for patient in drawn:
        _draw_bag(folder / "images" / patient.name, patient, generator, image_size)
    rows = (patient.row for patient in drawn)
    publish(folder / "patients.csv", _csv(("ID", "DIAGNOSIS", "SEX", "BIRTH", "LYMPHOCYTES"), rows))
    truth = (
        (patient.name, _image_name(image), str(int(signal)))
        for patient in drawn
        for image, signal in enumerate(patient.signals)
    )
    publish(folder / TRUTH, _csv(("patient", "image", "signal"), truth))
    publish(folder / "cohort.toml", COHORT_TOML.encode())


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _image_name(image: int) -> str:
    return f"{image:03d}.jpg"


# The patients: labels, metadata and what their images show.


def _draw_patients(
    patients: int, unlabelled: int, generator: np.random.Generator, images: tuple[int, int]
) -> list[_Patient]:
    tumoral = np.concatenate([_draw_labels(patients, generator), _draw_labels(unlabelled, generator)])
    return [
        _draw_patient(f"P{number:03d}", bool(label), number <= patients, generator, images)
        for number, label in enumerate(tumoral, start=1)
    ]


def _draw_labels(patients: int, generator: np.random.Generator) -> np.ndarray:
    return generator.permutation(np.arange(patients) < round(TUMORAL_PATIENTS * patients))


def _draw_patient(
    name: str, tumoral: bool, labelled: bool, generator: np.random.Generator, images: tuple[int, int]
) -> _Patient:
    age = np.clip(generator.normal(*((66, 14) if tumoral else (50, 17))), 18, 95)
    count = math.exp(generator.normal(*((2.6, 0.7) if tumoral else (2.0, 0.4))))
    sex = generator.choice(["F", "M"])
    birth = REFERENCE - timedelta(days=round(age * DAYS_PER_YEAR))
    sex_missing, count_missing = generator.random(2) < MISSING_SHARE
    row = (
        name,
        ("tumoral" if tumoral else "reactive") if labelled else "",
        "" if sex_missing else str(sex),
        birth.strftime("%d/%m/%Y"),
        "NA" if count_missing else f"{count:.1f}",
    )
    return _Patient(name, row, _draw_signals(tumoral, generator, images), generator.beta(1, 1.5))


def _draw_signals(tumoral: bool, generator: np.random.Generator, images: tuple[int, int]) -> tuple[bool, ...]:
    size = images[0] + round(
        (images[1] - images[0]) * generator.beta(*(BAG_SIZES if tumoral else BAG_SIZES[::-1]))
    )
    shown = math.ceil(size * generator.uniform(*TUMORAL_IMAGES)) if tumoral else 0
    return tuple(generator.permutation(np.arange(size) < shown).tolist())


# The images: a lymphocyte among red cells and platelets. Every part is a blob, painted over what lies below it.


@dataclass(frozen=True)
class _Smear:
    """What a patient's images share: the stain's tint of everything (3,), the light, the size of the cells."""

    tint: np.ndarray
    light: float
    scale: float


def _draw_bag(folder: Path, patient: _Patient, generator: np.random.Generator, image_size: int) -> None:
    folder.mkdir(parents=True)
    smear = _Smear(generator.normal(0, 5, size=3), generator.normal(0, 5), generator.normal(1, 0.04))
    for image, signal in enumerate(patient.signals):
        activated = not signal and generator.random() < patient.activated
        cell = TUMORAL if signal else ACTIVATED if activated else SMALL
        drawn = _draw_image(cell, smear, generator, image_size)
        drawn.save(folder / _image_name(image), quality=90)


def _draw_image(cell: "_Cell", smear: _Smear, generator: np.random.Generator, image_size: int) -> Image.Image:
    pixels = np.empty((image_size, image_size, 3))
    pixels[:] = (250, 234, 214)
    for _ in range(generator.integers(8, 15)):
        _paint_red_cell(pixels, smear, generator)
    for _ in range(generator.poisson(0.8)):
        centre, radius = generator.uniform(0, image_size, size=2), 0.022 * image_size
        _paint(pixels, _blob(centre, radius, 0.2, generator), (132, 84, 150), generator, texture=14)
    _paint_lymphocyte(pixels, cell, smear, generator)
    pixels += smear.tint + smear.light + generator.normal(0, 3, size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _paint_red_cell(pixels: np.ndarray, smear: _Smear, generator: np.random.Generator) -> None:
    size = len(pixels)
    radius = smear.scale * size * generator.uniform(0.10, 0.125)
    blob = _blob(generator.uniform(0, size, size=2), radius, 0.04, generator)
    _paint(pixels, blob, (197, 150, 158), generator, pallor=generator.uniform(25, 60))


@dataclass(frozen=True)
class _Cell:
    """A kind of lymphocyte; lengths as shares of the image's side, colours in RGB.

    nucleus: least and greatest radius; rim: width of the cytoplasm, as a share of that; ragged: its outline's wobble
    cleft: whether the nucleus is cleft; clumps: how strongly its chromatin varies
    """

    nucleus: tuple[float, float]
    rim: float
    ragged: float
    wobble: float
    cleft: bool
    colour: Colour
    cytoplasm: Colour
    clumps: float


SMALL = _Cell((0.125, 0.15), 0.16, 0.05, 0.05, False, (74, 44, 112), (168, 168, 214), 14)
ACTIVATED = _Cell((0.145, 0.185), 0.6, 0.13, 0.09, False, (92, 60, 134), (186, 196, 230), 16)
TUMORAL = _Cell((0.19, 0.235), 0.14, 0.06, 0.10, True, (150, 84, 152), (160, 164, 214), 26)


def _paint_lymphocyte(pixels: np.ndarray, cell: _Cell, smear: _Smear, generator: np.random.Generator) -> None:
    size = len(pixels)
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


@dataclass(frozen=True)
class _Blob:
    """A round thing whose outline wobbles: centre (row, column) and mean radius in pixels, waves (3, 2)."""

    centre: np.ndarray
    radius: float
    waves: np.ndarray

    def window(self, pixels: np.ndarray) -> tuple[slice, slice]:
        """The part of an image that it may touch."""
        reach = 1.6 * self.radius + 2
        low = np.clip(self.centre - reach, 0, len(pixels)).astype(int)
        high = np.clip(self.centre + reach + 1, 0, len(pixels)).astype(int)
        return slice(low[0], high[0]), slice(low[1], high[1])

    def depth(self, pixels: np.ndarray) -> np.ndarray:
        """Over its window: 0 at the centre, 1 on the outline."""
        rows, columns = self.window(pixels)
        down = np.arange(rows.start, rows.stop)[:, None] - self.centre[0]
        right = np.arange(columns.start, columns.stop) - self.centre[1]
        angle = np.arctan2(down, right)
        bulges = [height * np.cos(n * angle + phase) for n, (height, phase) in enumerate(self.waves, start=2)]
        return np.hypot(down, right) / (self.radius * (1 + sum(bulges)))


def _blob(centre: np.ndarray, radius: float, wobble: float, generator: np.random.Generator) -> _Blob:
    """A blob whose radius varies by about `wobble`, as a share of it, in two to four bulges."""
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
    """Paint a blob with a soft edge; `texture`: how much it varies in patches, `pallor`: how pale its middle is."""
    depth = blob.depth(pixels)
    cover = np.clip((1 - depth) * blob.radius / 1.2 + 0.5, 0, 1)[..., None]
    light = pallor * np.exp(-((depth / 0.5) ** 4)) - 16 * np.clip(depth, 0, 1) ** 6  # a darker outline
    if texture:
        light += texture * _patches(depth.shape, generator)
    inside = np.array(colour) + light[..., None]
    window = blob.window(pixels)
    pixels[window] += cover * (inside - pixels[window])


def _patches(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Smooth noise of standard deviation about one, in patches of about four pixels."""
    rows, columns = shape
    coarse = generator.normal(0, 1, size=(rows // 4 + 2, columns // 4 + 2)).astype(np.float32)
    fine = Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(fine)
