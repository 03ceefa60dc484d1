"""Scores with bootstrap intervals over patients, and paired comparisons (see docs/evidence.md).

A table of predictions has the columns `repeat`, `fold`, `patient_id`, `label`, `probability` and
`prediction`, and one row for each patient and repeat. The models are not refitted in a resample: the
intervals show how much a score varies with the patients that are scored, not with the patients that the
models were trained on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from mil_toolkit.evaluation.metrics import BINS, METRICS, Metric, Predicted, bins_of
from mil_toolkit.evaluation.records import (
    Comparison,
    Difference,
    Estimate,
    Optimism,
    ReliabilityBin,
    Score,
    Scores,
)

DRAWS = 2000  # resamples of an interval, and permutations of a test
LEVEL = 0.95  # of the intervals
_AT_ONCE = 2_000_000  # pairs of patients times permutations that are scored in one call


@dataclass(frozen=True)
class Table:
    """Predictions of n patients in R repeats, as arrays in the order of the patients' ids.

    labels: (n,) of 0 and 1; folds, probabilities, decisions: (R, n)
    prevalence: share of positives for the predictive values; None uses the share among the patients
    """

    patient_ids: tuple[str, ...]
    labels: np.ndarray
    folds: np.ndarray
    probabilities: np.ndarray
    decisions: np.ndarray
    prevalence: float | None = None

    @classmethod
    def of(cls, predictions: pd.DataFrame, prevalence: float | None = None) -> "Table":
        """Convert a table of predictions, in which every repeat must have the same patients.

        >>> rows = {"repeat": [1, 1], "fold": [1, 2], "patient_id": ["P2", "P1"], "label": [0, 1],
        ...         "probability": [0.2, 0.7], "prediction": [0, 1]}
        >>> Table.of(pd.DataFrame(rows)).patient_ids
        ('P1', 'P2')
        """
        wide = predictions.pivot(index="repeat", columns="patient_id")
        labels = wide["label"].to_numpy()[0].astype(int)
        ids = tuple(map(str, wide["label"].columns))
        decisions = wide["prediction"].to_numpy() == 1
        folds, probabilities = wide["fold"].to_numpy(), wide["probability"].to_numpy(float)
        return cls(ids, labels, folds, probabilities, decisions, prevalence)

    def select(self, patient_ids: Sequence[str]) -> "Table":
        """Return the predictions of these patients only, in this order."""
        places = [self.patient_ids.index(patient) for patient in patient_ids]
        return replace(
            self,
            patient_ids=tuple(patient_ids),
            labels=self.labels[places],
            folds=self.folds[:, places],
            probabilities=self.probabilities[:, places],
            decisions=self.decisions[:, places],
        )

    def repeats(self) -> Iterator[Predicted]:
        """Yield the predictions of each repeat."""
        for row in zip(self.probabilities, self.decisions, self.folds, strict=True):
            yield Predicted(self.labels, *row, self.prevalence)

    def scores(self, metric: Metric, weights: np.ndarray) -> np.ndarray:
        """Return a metric averaged over repeats, (draws,), given weights (draws, n) of the patients."""
        return np.mean([metric.of(predicted, weights) for predicted in self.repeats()], axis=0)


def draw_patients(labels: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Return how often each patient is drawn in each bootstrap resample, (draws, n).

    The classes are resampled separately, so that each keeps its number of patients.

    >>> draw_patients(np.array([1, 1, 0]), draws=4).sum(axis=1).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    random = np.random.default_rng(seed)
    weights = np.zeros((draws, len(labels)))
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        weights[:, places] = random.multinomial(
            len(places), np.full(len(places), 1 / len(places)), size=draws
        )
    return weights


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the central 95 % of values, ignoring NaN; NaN if there are no others.

    >>> [round(bound, 3) for bound in percentile_interval(np.array([0.0, 0.5, 1.0, np.nan]))]
    [0.025, 0.975]
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def exact_interval(successes: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion by Clopper and Pearson.

    >>> low, high = exact_interval(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.555, 0.997)
    """
    interval = binomtest(successes, count).proportion_ci(LEVEL, method="exact")
    return float(interval.low), float(interval.high)


def scores_with_intervals(table: Table) -> Scores:
    """Return the score of every metric, by name.

    The calibration error has no interval, and neither has a difference of two: resampling adds noise to the
    gap of every bin, and since the gap enters by its size and not by its sign, most resamples lie above the
    score.
    """
    weights = draw_patients(table.labels)
    return {name: _score(table, metric, weights) for name, metric in METRICS.items()}


def _score(table: Table, metric: Metric, weights: np.ndarray) -> Score:
    value = float(table.scores(metric, np.ones((1, len(table.labels))))[0])
    low, high = _interval(metric, table.scores(metric, weights))
    if metric.proportions and low == high:
        low, high = _exact(table, metric.proportions)
    patients, repeats = len(table.labels), len(table.probabilities)
    return Score(_finite(value), _finite(low), _finite(high), patients, repeats)


def _interval(metric: Metric, drawn: np.ndarray) -> tuple[float, float]:
    return percentile_interval(drawn) if metric.resampled else (np.nan, np.nan)


def _exact(table: Table, proportions: Sequence[int]) -> tuple[float, float]:
    """Return the mean of the proportions' exact intervals, used where all resamples have the same score."""
    right = (table.decisions == table.labels).mean(0)  # (n,) in how many of the repeats
    parts = [right if label < 0 else right[table.labels == label] for label in proportions]
    intervals = [exact_interval(round(part.sum()), len(part)) for part in parts]
    return float(np.mean([low for low, _ in intervals])), float(np.mean([high for _, high in intervals]))


def reliability(table: Table) -> list[ReliabilityBin]:
    """Return the reliability curve: predicted probability and share of positives in each non-empty bin.

    The mean gap between the two is the calibration error.
    """
    weights, bins = draw_patients(table.labels), bins_of(table.probabilities)
    return [_reliability_bin(table, number, bins == number, weights) for number in np.unique(bins)]


def _reliability_bin(table: Table, number: int, inside: np.ndarray, weights: np.ndarray) -> ReliabilityBin:
    times = inside.sum(0)  # (n,) the repeats that put a patient into the bin
    share = float((times * table.labels).sum() / times.sum())
    patients = float(inside.sum(1).mean())
    drawn = weights @ times
    shares = np.divide(weights @ (times * table.labels), drawn, np.full(len(drawn), np.nan), where=drawn > 0)
    low, high = percentile_interval(shares)
    if share in (0.0, 1.0):
        count = max(1, round(patients))
        low, high = exact_interval(round(share * count), count)
    return {
        "from": int(number) / BINS,
        "to": (int(number) + 1) / BINS,
        "patients": patients,
        "probability": float(table.probabilities[inside].mean()),
        "share": share,
        "low": low,
        "high": high,
    }


def compare(one: Table, other: Table) -> Comparison:
    """Compare two methods on the same patients, folds and resamples: one minus other, for every metric.

    The p-value is that of a permutation test which swaps the two methods of a patient in all repeats
    together.
    """
    weights, swaps = draw_patients(one.labels), _draw_swaps(len(one.labels))
    differences = {name: _difference(one, other, metric, weights, swaps) for name, metric in METRICS.items()}
    return Comparison(float((one.decisions != other.decisions).sum(1).mean()), differences)


def _difference(
    one: Table, other: Table, metric: Metric, weights: np.ndarray, swaps: np.ndarray
) -> Difference:
    alike = np.ones((1, len(one.labels)))
    value = float((one.scores(metric, alike) - other.scores(metric, alike))[0])
    low, high = _interval(metric, one.scores(metric, weights) - other.scores(metric, weights))
    swapped = np.concatenate([_swapped(one, other, metric, part) for part in _parts(one.labels, swaps)])
    extreme = np.sum(np.abs(swapped) >= abs(value) - 1e-12)
    p_value = (1 + float(extreme)) / (1 + len(swaps)) if np.isfinite(value) else None
    return Difference(_finite(value), _finite(low), _finite(high), p_value)


def _draw_swaps(patients: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((DRAWS, patients)) < 0.5


def _parts(labels: np.ndarray, swaps: np.ndarray) -> list[np.ndarray]:
    """The swaps in parts whose comparisons of pairs fit into memory."""
    pairs = int((labels == 1).sum() * (labels == 0).sum())
    return np.array_split(swaps, max(1, len(swaps) * pairs // _AT_ONCE))


def _swapped(one: Table, other: Table, metric: Metric, swaps: np.ndarray) -> np.ndarray:
    """The differences (draws,) after the methods were swapped for the patients in `swaps` (draws, n)."""
    alike = np.ones(len(one.labels))
    differences = [
        metric.of(_mixed(mine, theirs, swaps), alike) - metric.of(_mixed(theirs, mine, swaps), alike)
        for mine, theirs in zip(one.repeats(), other.repeats(), strict=True)
    ]
    return np.mean(differences, axis=0)


def _mixed(mine: Predicted, theirs: Predicted, swaps: np.ndarray) -> Predicted:
    return replace(
        mine,
        probabilities=np.where(swaps, theirs.probabilities, mine.probabilities),
        decisions=np.where(swaps, theirs.decisions, mine.decisions),
    )


def optimism(inner: Table, outer: Table) -> Optimism:
    """Return inner minus outer score of the same patients, for every metric, from the same resamples."""
    weights, alike = draw_patients(outer.labels), np.ones((1, len(outer.labels)))
    differences: Optimism = {}
    for name, metric in METRICS.items():
        low, high = _interval(metric, inner.scores(metric, weights) - outer.scores(metric, weights))
        value = float((inner.scores(metric, alike) - outer.scores(metric, alike))[0])
        differences[name] = Estimate(_finite(value), _finite(low), _finite(high))
    return differences


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
