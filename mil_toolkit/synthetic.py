# Floor 1: a small synthetic cohort: smear-like images and metadata, for the demo and for tests.
"""`draw_cohort` draws patients, each with a bag of blood-smear-like images, from one seed."""

import csv
import io
import math
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mil_toolkit.cohort import DAYS_PER_YEAR
from mil_toolkit.errors import UsageError
from mil_toolkit.files import fsync_folder, publish

Colour = tuple[int, int, int]

TUMORAL_PATIENTS = 0.6  # share of all patients
TUMORAL_IMAGES = (0.3, 0.7)  # share of a tumoral patient's images that show the tumoral morphology
MISSING_SHARE = 0.04  # of the cells of sex and lymphocyte count
REFERENCE = date(2020, 12, 31)
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
    """A drawn patient; `signals` says of each image whether it shows the tumoral morphology."""

    name: str
    row: tuple[str, ...]
    signals: tuple[bool, ...]


def draw_cohort(
    folder: Path,
    patients: int = 60,
    unlabelled: int = 6,
    seed: int = 0,
    image_size: int = 96,
    images: tuple[int, int] = (6, 18),
) -> Path:
    """Draw a cohort of `patients` labelled and `unlabelled` further patients; returns its cohort.toml.

    Three in five patients are tumoral, and of their images only a share shows the tumoral morphology
    (large, irregular, cleft nuclei; the others small, round and dense). Age and lymphocyte count carry
    part of the signal, sex and the bag size (`images`: fewest and most) none. The same arguments give the
    same bytes. Raises UsageError where `folder` exists and is not empty; an interrupted run leaves
    nothing under its name.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} already exists and is not an empty folder. Remove it or name another one."
        )
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
        _draw_bag(folder / "images" / patient.name, patient.signals, generator, image_size)
    rows = (patient.row for patient in drawn)
    publish(folder / "patients.csv", _csv(("ID", "DIAGNOSIS", "SEX", "BIRTH", "LYMPHOCYTES"), rows))
    truth = (
        (patient.name, _image_name(image), str(int(signal)))
        for patient in drawn
        for image, signal in enumerate(patient.signals)
    )
    publish(folder / "truth.csv", _csv(("patient", "image", "signal"), truth))
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
    return _Patient(name, row, _draw_signals(tumoral, generator, images))


def _draw_signals(tumoral: bool, generator: np.random.Generator, images: tuple[int, int]) -> tuple[bool, ...]:
    size = int(generator.integers(images[0], images[1] + 1))
    shown = math.ceil(size * generator.uniform(*TUMORAL_IMAGES)) if tumoral else 0
    return tuple(generator.permutation(np.arange(size) < shown).tolist())


# The images: a lymphocyte among red cells, drawn at twice the size and reduced, which smooths the edges.


def _draw_bag(folder: Path, signals: Sequence[bool], generator: np.random.Generator, image_size: int) -> None:
    folder.mkdir(parents=True)
    stain = generator.normal(0, 5, size=3)  # every smear is stained a little differently
    for image, signal in enumerate(signals):
        drawn = _draw_image(signal, stain, generator, image_size)
        drawn.save(folder / _image_name(image), quality=90)


def _draw_image(
    tumoral: bool, stain: np.ndarray, generator: np.random.Generator, image_size: int
) -> Image.Image:
    side = 2 * image_size
    image = Image.new("RGB", (side, side), (240, 224, 226))
    draw = ImageDraw.Draw(image)
    for _ in range(generator.integers(9, 17)):
        _draw_red_cell(draw, side, generator)
    _draw_lymphocyte(draw, side, tumoral, generator)
    small = image.resize((image_size, image_size), Image.Resampling.LANCZOS)
    pixels = np.asarray(small.filter(ImageFilter.GaussianBlur(image_size / 160)), dtype=np.float64)
    noisy = pixels + stain + generator.normal(0, 3, size=pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _draw_red_cell(draw: ImageDraw.ImageDraw, side: int, generator: np.random.Generator) -> None:
    centre = generator.uniform(0, side, size=2)
    radius = side * generator.uniform(0.085, 0.105)
    draw.polygon(_outline(centre, radius, 0.03, generator), fill=(219, 166, 168))
    draw.polygon(_outline(centre, 0.75 * radius, 0.03, generator), fill=(224, 176, 177))
    draw.polygon(_outline(centre, 0.40 * radius, 0.05, generator), fill=(233, 202, 202))


def _draw_lymphocyte(
    draw: ImageDraw.ImageDraw, side: int, tumoral: bool, generator: np.random.Generator
) -> None:
    centre = side / 2 + generator.normal(0, 0.05, size=2) * side
    radius = side * (generator.uniform(0.15, 0.21) if tumoral else generator.uniform(0.12, 0.15))
    cytoplasm: Colour = (190, 186, 222)
    nucleus: Colour = (118, 82, 152) if tumoral else (90, 58, 130)
    draw.polygon(_outline(centre, 1.3 * radius, 0.03, generator), fill=cytoplasm)
    draw.polygon(_outline(centre, radius, 0.16 if tumoral else 0.03, generator), fill=nucleus)
    _draw_chromatin(draw, centre, radius, nucleus, generator)
    if tumoral:
        _draw_cleft(draw, centre, radius, cytoplasm, generator)


def _draw_chromatin(
    draw: ImageDraw.ImageDraw,
    centre: np.ndarray,
    radius: float,
    nucleus: Colour,
    generator: np.random.Generator,
) -> None:
    for _ in range(7):
        clump = centre + generator.normal(0, 0.27, size=2) * radius
        shade = int(generator.integers(-16, 17))
        fill = (nucleus[0] + shade, nucleus[1] + shade, nucleus[2] + shade)
        draw.polygon(_outline(clump, 0.22 * radius, 0.2, generator), fill=fill)


def _draw_cleft(
    draw: ImageDraw.ImageDraw,
    centre: np.ndarray,
    radius: float,
    cytoplasm: Colour,
    generator: np.random.Generator,
) -> None:
    angle = generator.uniform(0, 2 * math.pi)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]]) * 0.16 * radius
    mouth, tip = centre + 1.15 * radius * along, centre + generator.uniform(0.0, 0.35) * radius * along
    draw.polygon([tuple(mouth + across), tuple(mouth - across), tuple(tip)], fill=cytoplasm)


def _outline(
    centre: np.ndarray, radius: float, wobble: float, generator: np.random.Generator
) -> list[tuple[float, float]]:
    """A closed curve about a circle whose radius varies by about `wobble`, as a share of it."""
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    waves = np.arange(2, 5)[:, None]  # two to four bulges
    height = generator.normal(0, wobble / math.sqrt(3), size=(3, 1))
    phase = generator.uniform(0, 2 * math.pi, size=(3, 1))
    radii = radius * (1 + (height * np.cos(waves * angles + phase)).sum(axis=0))
    points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (40, 2)
    return [(float(x), float(y)) for x, y in points]
