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

    discordant: patients on whom the two decide differently, mean over repeats
    differences: by metric, the first method minus the second
    """

    discordant: float
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a metric over single members and over repeats; None where there is only one."""

    seeds: float | None
    splits: float | None


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
