"""Scores and comparisons as they stand in JSON files and summaries. No heavy import here."""

from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Score(Estimate):
    """A metric on held-out patients, averaged over repeats, and how many of both it rests on.

    expected_if_calibrated: of the calibration error, the value that perfectly calibrated predictions would
        have in as many patients; None for other metrics and in files of older versions
    """

    patients: int
    repeats: int
    expected_if_calibrated: float | None = None


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference in one metric, with the p-value of a permutation test."""

    p_value: float | None


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same patients.

    discordant: patients on whom the two decide differently, mean over repeats; None if nothing is decided
    differences: by metric, the first method minus the second
    """

    discordant: float | None
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a metric over single members and over repeats; None where there is only one."""

    seeds: float | None
    splits: float | None


@dataclass(frozen=True)
class PassedOver:
    """The trial with the best value of a search, where the defaults were kept instead.

    lead: how much better its objective was than that of the defaults, on the held-out patients of the inner
        folds; error: the standard error of that difference; None where they are not defined
    critical: how many standard errors the lead had to exceed; None where the patients or groups were too few
        to tell, and in studies of older versions, where the lead had to exceed one
    trials: how many trials were compared with the defaults; None in studies of older versions
    """

    trial: int
    lead: float | None
    error: float | None
    critical: float | None = None
    trials: int | None = None


# A bin of the reliability curve: `from` and `to` bound the predicted probability; `patients` in it and their
# mean `probability`, averaged over repeats; `share` of positives among them with its 95 % interval `low` to
# `high`.
ReliabilityBin = TypedDict(
    "ReliabilityBin",
    {
        "from": float,
        "to": float,
        "patients": float,
        "probability": float,
        "share": float,
        "low": float,
        "high": float,
    },
)

Scores = dict[str, Score]  # by metric
Optimism = dict[str, Estimate]  # by metric, validation minus outer score
