"""`SYNTHETIC_OUTCOMES`: how the outcomes of synthetic patients depend on their images and their age."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mil_toolkit.cohort.smears import BLASTOID, PLASMACYTOID, TUMORAL, Cell

TUMORAL_IMAGES = (0.03, 0.12)  # share of a tumoral patient's images that show the tumoral morphology
BAG_SIZES = (2.5, 2)  # beta distribution of tumoral patients' bag sizes; reversed for reactive ones
CLASS_IMAGES = (0.1, 0.3)  # share of the images that show the morphology of the patient's class
ANY_SHARE = (0.02, 0.7)  # share of tumoral images, on which a number, a grade or a hazard depends
GRADE_LIMITS = (0.25, 0.48)  # shares of tumoral images at which the second and the third grade begin
HAZARD = 0.03  # events a year, of a patient of 60 without tumoral images
PER_SHARE, PER_DECADE = 5.0, 0.35  # log hazard ratios of only tumoral images against none, and of 10 years
FOLLOW_UP = (2.0, 8.0)  # years until a patient's observation ends without an event


class Traits(NamedTuple):
    """The causes of a patient's outcome: the number of the profile, the share of signals, and the age."""

    profile: int
    share: float
    age: float


@dataclass(frozen=True)
class Profile:
    """A group of patients that are drawn alike.

    age: mean and standard deviation in years; log_count: of the logarithm of the lymphocyte count
    sizes: parameters of the beta distribution of the number of images
    signal: lowest and highest share of the images that show `cell`
    """

    age: tuple[float, float]
    log_count: tuple[float, float]
    sizes: tuple[float, float]
    signal: tuple[float, float]
    cell: Cell = TUMORAL


@dataclass(frozen=True)
class SyntheticOutcome:
    """A kind of outcome of synthetic patients.

    truth: the images that truth.csv marks, in words
    declaration: the lines of cohort.toml that declare the outcome
    columns: of the table, which hold the outcome
    profiles, shares: the groups of patients, and the share of all patients of each
    cells: the outcome of a patient in these columns
    """

    truth: str
    declaration: str
    columns: tuple[str, ...]
    profiles: tuple[Profile, ...]
    shares: tuple[float, ...]
    cells: Callable[[Traits, np.random.Generator], tuple[str, ...]]


def _class_cells(*names: str) -> Callable[[Traits, np.random.Generator], tuple[str, ...]]:
    return lambda traits, _: (names[traits.profile],)


def _share_cells(traits: Traits, _: np.random.Generator) -> tuple[str, ...]:
    return (f"{100 * traits.share:.1f}",)


GRADE_NAMES = ("low", "medium", "high")


def _grade_cells(traits: Traits, _: np.random.Generator) -> tuple[str, ...]:
    return (GRADE_NAMES[sum(traits.share >= limit for limit in GRADE_LIMITS)],)


def log_hazard(share: float, age: float) -> float:
    """Return the logarithm of the true hazard, in events a year.

    share: of the images that show the tumoral morphology; age: in years
    """
    return math.log(HAZARD) + PER_SHARE * share + PER_DECADE * (age - 60) / 10


def _survival_cells(traits: Traits, generator: np.random.Generator) -> tuple[str, ...]:
    """Return time and event: an exponential time, censored where the observation ends before."""
    time = generator.exponential(1 / math.exp(log_hazard(traits.share, traits.age)))
    end = generator.uniform(*FOLLOW_UP)
    return f"{max(0.01, min(time, end)):.2f}", str(int(time <= end))


CLASS_NAMES = ("cleaved", "plasmacytoid", "blastoid")
_CLASSES = (
    Profile((66, 14), (2.6, 0.6), (2, 2), CLASS_IMAGES, TUMORAL),
    Profile((70, 12), (2.2, 0.6), (2, 2), CLASS_IMAGES, PLASMACYTOID),
    Profile((54, 17), (2.8, 0.6), (2, 2), CLASS_IMAGES, BLASTOID),
)
_MIXED = Profile((60, 13), (2.3, 0.6), (2, 2), ANY_SHARE)
_UNLABELLED = 'unlabelled = ""                # an empty cell: predicted, never used for training\n'
_TUMORAL_IMAGES = "the tumoral morphology"

SYNTHETIC_OUTCOMES = {
    "binary": SyntheticOutcome(
        truth=_TUMORAL_IMAGES,
        declaration=f'label = "DIAGNOSIS"\npositive = "tumoral"\nnegative = "reactive"\n{_UNLABELLED}',
        columns=("DIAGNOSIS",),
        profiles=(
            Profile((66, 14), (2.6, 0.7), BAG_SIZES, TUMORAL_IMAGES),
            Profile((50, 17), (2.0, 0.4), BAG_SIZES[::-1], (0, 0)),
        ),
        shares=(0.6, 0.4),
        cells=_class_cells("tumoral", "reactive"),
    ),
    "classes": SyntheticOutcome(
        truth="the morphology of their patient's class",
        declaration='label = "DIAGNOSIS"\nclasses = ["cleaved", "plasmacytoid", "blastoid"]\n' + _UNLABELLED,
        columns=("DIAGNOSIS",),
        profiles=_CLASSES,
        shares=(0.4, 0.3, 0.3),
        cells=_class_cells(*CLASS_NAMES),
    ),
    "ordered": SyntheticOutcome(
        truth=_TUMORAL_IMAGES,
        declaration=(
            'label = "GRADE"\n'
            'classes = ["low", "medium", "high"]  # by the share of tumoral cells, lowest first\n'
            f"ordered = true\n{_UNLABELLED}"
        ),
        columns=("GRADE",),
        profiles=(_MIXED,),
        shares=(1.0,),
        cells=_grade_cells,
    ),
    "number": SyntheticOutcome(
        truth=_TUMORAL_IMAGES,
        declaration=f'target = "TUMORAL_CELLS"\nunit = "%"\n{_UNLABELLED}',
        columns=("TUMORAL_CELLS",),
        profiles=(_MIXED,),
        shares=(1.0,),
        cells=_share_cells,
    ),
    "survival": SyntheticOutcome(
        truth=_TUMORAL_IMAGES,
        declaration=(
            'time = "FOLLOW_UP"             # years\nevent = "DEATH"\n'
            f"horizon = 3                    # years, at which the risk is predicted\n{_UNLABELLED}"
        ),
        columns=("FOLLOW_UP", "DEATH"),
        profiles=(_MIXED,),
        shares=(1.0,),
        cells=_survival_cells,
    ),
}
"""How the outcome of synthetic patients is drawn, by the kind of outcome."""
