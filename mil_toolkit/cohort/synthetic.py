"""`draw_cohort` draws a synthetic cohort from a seed: patients, each with a bag of smear-like images."""

import csv
import io
import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from mil_toolkit.cohort.kinds import DAYS_PER_YEAR
from mil_toolkit.cohort.smears import ACTIVATED, SMALL, Cell, Nucleus, draw_image, draw_smear
from mil_toolkit.cohort.synthetic_outcomes import SYNTHETIC_OUTCOMES, Profile, SyntheticOutcome, Traits
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import publish, report_write_errors
from mil_toolkit.core.outputs import published_folder

logger = logging.getLogger(__name__)
MISSING_SHARE = 0.04  # share of the sexes and lymphocyte counts that are missing
REFERENCE = date(2020, 12, 31)
TRUTH = "truth.csv"  # next to cohort.toml: `patient`, `image`, `signal`; no stage reads it
_COHORT_TOML = """\
# Synthetic: drawn by mil_toolkit, without any real patient.
# truth.csv says which images show {truth}; no command reads it.

[cohort]
name = "synthetic"
table = "patients.csv"
images = ["images"]            # one folder per patient
id = "ID"
{declaration}
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
stratify = ["label"]
"""


def cohort_toml(outcome: str = "binary") -> str:
    """Return the text of cohort.toml for a kind of outcome, a key of `SYNTHETIC_OUTCOMES`."""
    drawn = SYNTHETIC_OUTCOMES[outcome]
    return _COHORT_TOML.format(truth=drawn.truth, declaration=drawn.declaration)


COHORT_TOML = cohort_toml()


@dataclass(frozen=True)
class _Patient:
    """A drawn patient.

    row: the patient's row of the table
    cell: the kind of cell that `signals` refer to
    signals: whether each image shows it
    activated: share of the other images that show an activated lymphocyte, which is large too but carries no
        signal
    """

    name: str
    row: tuple[str, ...]
    cell: Cell
    signals: tuple[bool, ...]
    activated: float


def draw_cohort(
    folder: Path,
    patients: int = 140,
    unlabelled: int = 12,
    seed: int = 0,
    image_size: int = 96,
    images: tuple[int, int] = (12, 28),
    outcome: str = "binary",
    uniform: bool = False,
) -> Path:
    """Draw a cohort of `patients` labelled and `unlabelled` further patients into a folder.

    Some images of a patient show a morphology on which the outcome depends, see `SYNTHETIC_OUTCOMES`. All
    other images show small lymphocytes or, in a share that differs between patients, activated ones, which
    are large too but carry no signal. Of two classes, three in five patients are tumoral, and a few of their
    images show the tumoral morphology: a large, cleft nucleus of coarse chromatin with a nucleolus. Age and
    lymphocyte count carry part of the signal, the bag size a little, sex none. The same arguments give the
    same bytes.

    image_size: side of the images in pixels
    images: fewest and most images of a patient
    outcome: a key of `SYNTHETIC_OUTCOMES`
    uniform: place the lymphocytes uniformly instead of near the centre; truth.csv then holds the centre and
        the mean radius of each nucleus in pixels, as `row`, `column` and `radius`

    Returns the path of the cohort.toml. Raises UsageError if `folder` exists and is not empty, or cannot be
    written; an interrupted run leaves nothing under its name.
    """
    if os.path.exists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} already exists and is not an empty folder. Remove it, or name another one."
        )
    logger.info("Drawing a cohort of %d patients into %s ...", patients + unlabelled, folder)
    with published_folder(folder, "a synthetic cohort", _names) as draft, report_write_errors(folder):
        generator = np.random.default_rng(seed)
        _draw_into(draft, patients, unlabelled, generator, image_size, images, outcome, uniform)
    return folder / "cohort.toml"


def _names(folder: Path) -> list[str]:
    """Return all names in a folder: none of them is replaced."""
    return sorted(path.name for path in folder.iterdir())


def _draw_into(
    folder: Path,
    patients: int,
    unlabelled: int,
    generator: np.random.Generator,
    image_size: int,
    images: tuple[int, int],
    outcome: str,
    uniform: bool,
) -> None:
    kind = SYNTHETIC_OUTCOMES[outcome]
    drawn = _draw_patients(kind, patients, unlabelled, generator, images)
    nuclei = [
        _draw_bag(folder / "images" / patient.name, patient, generator, image_size, uniform)
        for patient in drawn
    ]
    rows = (patient.row for patient in drawn)
    publish(folder / "patients.csv", _csv(("ID", *kind.columns, "SEX", "BIRTH", "LYMPHOCYTES"), rows))
    truth = (
        (
            patient.name,
            _image_name(image),
            str(int(signal)),
            *(_places(nuclei[place][image]) if uniform else ()),
        )
        for place, patient in enumerate(drawn)
        for image, signal in enumerate(patient.signals)
    )
    publish(
        folder / TRUTH, _csv(("patient", "image", "signal", *(Nucleus._fields if uniform else ())), truth)
    )
    publish(folder / "cohort.toml", cohort_toml(outcome).encode())


def _places(nucleus: Nucleus) -> list[str]:
    """Return the cells of truth.csv about the place of a nucleus."""
    return [f"{value:.1f}" for value in nucleus]


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _image_name(image: int) -> str:
    return f"{image:03d}.jpg"


def _draw_patients(
    kind: SyntheticOutcome,
    patients: int,
    unlabelled: int,
    generator: np.random.Generator,
    images: tuple[int, int],
) -> list[_Patient]:
    profiles = np.concatenate([_draw_profiles(kind, count, generator) for count in (patients, unlabelled)])
    return [
        _draw_patient(f"P{number:03d}", kind, profile, number <= patients, generator, images)
        for number, profile in enumerate(profiles.tolist(), start=1)
    ]


def _draw_profiles(kind: SyntheticOutcome, patients: int, generator: np.random.Generator) -> np.ndarray:
    """Return the number of each patient's profile, in random order."""
    ends = np.round(np.cumsum(kind.shares) * patients).astype(int)
    return generator.permutation(np.searchsorted(ends, np.arange(patients), side="right"))


def _draw_patient(
    name: str,
    kind: SyntheticOutcome,
    number: int,
    labelled: bool,
    generator: np.random.Generator,
    images: tuple[int, int],
) -> _Patient:
    profile = kind.profiles[number]
    age = float(np.clip(generator.normal(*profile.age), 18, 95))
    count = math.exp(generator.normal(*profile.log_count))
    sex = generator.choice(["F", "M"])
    birth = REFERENCE - timedelta(days=round(age * DAYS_PER_YEAR))
    sex_missing, count_missing = generator.random(2) < MISSING_SHARE
    signals, activated = _draw_signals(profile, generator, images), generator.beta(1, 1.5)
    cells = kind.cells(Traits(number, float(np.mean(signals)), age), generator)
    row = (
        name,
        *(cells if labelled else [""] * len(cells)),
        "" if sex_missing else str(sex),
        birth.strftime("%d/%m/%Y"),
        "NA" if count_missing else f"{count:.1f}",
    )
    return _Patient(name, row, profile.cell, signals, activated)


def _draw_signals(
    profile: Profile, generator: np.random.Generator, images: tuple[int, int]
) -> tuple[bool, ...]:
    size = images[0] + round((images[1] - images[0]) * generator.beta(*profile.sizes))
    shown = math.ceil(size * generator.uniform(*profile.signal)) if any(profile.signal) else 0
    return tuple(generator.permutation(np.arange(size) < shown).tolist())


def _draw_bag(
    folder: Path, patient: _Patient, generator: np.random.Generator, image_size: int, uniform: bool
) -> list[Nucleus]:
    """Draw a patient's images, and return where their nuclei are."""
    folder.mkdir(parents=True)
    smear, nuclei = draw_smear(generator), []
    for image, signal in enumerate(patient.signals):
        activated = not signal and generator.random() < patient.activated
        cell = patient.cell if signal else ACTIVATED if activated else SMALL
        drawn = draw_image(cell, smear, generator, image_size, uniform)
        drawn.image.save(folder / _image_name(image), quality=90)
        nuclei.append(drawn.nucleus)
    return nuclei
