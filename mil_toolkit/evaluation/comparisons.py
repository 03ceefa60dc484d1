"""Paired comparisons of two methods on the same patients: differences, their intervals and p-values."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from mil_toolkit.evaluation.bounds import quantile
from mil_toolkit.evaluation.influence import spread
from mil_toolkit.evaluation.measure_differences import difference_interval
from mil_toolkit.evaluation.measure_intervals import Scored
from mil_toolkit.evaluation.methods import Linear, Sample, is_bounded, is_loss, linear
from mil_toolkit.evaluation.metrics import Metric, Predicted
from mil_toolkit.evaluation.records import Comparison, Difference, Estimate, Optimism
from mil_toolkit.evaluation.table import DRAWS, Table

_AT_ONCE = 2_000_000  # pairs of patients times permutations that are scored in one call


def compare(one: Table, other: Table) -> Comparison:
    """Compare two methods on the same patients and folds: one minus other, for every metric.

    The p-value is that of a permutation test which swaps the two methods of a patient, or of all patients of
    a group, in all repeats together.
    """
    swaps, estimates = _draw_swaps(one), differences(one, other)
    tested = {
        name: Difference(
            estimate.value, estimate.low, estimate.high, _p_value(one, other, metric, estimate, swaps)
        )
        for (name, estimate), metric in zip(estimates.items(), one.scoring.metrics.values(), strict=True)
    }
    decides = one.scoring.decision is not None
    discordant = float((one.decisions != other.decisions).sum(1).mean()) if decides else None
    return Comparison(discordant, tested)


def optimism(inner: Table, outer: Table) -> Optimism:
    """Return inner minus outer score of the same patients, for every metric, with its paired interval."""
    return differences(inner, outer)


def differences(one: Table, other: Table, metrics: Iterable[str] | None = None) -> dict[str, Estimate]:
    """Return one minus other on the same patients, with its paired interval; metrics: names, None for all."""
    samples, known = (Sample(one), Sample(other)), one.scoring.metrics
    return {name: _difference(samples, name, known[name]) for name in (known if metrics is None else metrics)}


def _difference(samples: tuple[Sample, Sample], name: str, metric: Metric) -> Estimate:
    first, second = (sample.table.score(metric) for sample in samples)
    one, other = linear(samples[0], name, first), linear(samples[1], name, second)
    value = first - second
    if one is None or other is None:
        return Estimate(value if np.isfinite(value) else None, None, None)
    if _same(samples[0].table, samples[1].table):
        return Estimate(value, value, value)
    if metric.measure is not None:
        scored = Scored(first, one.bounds, one.influence), Scored(second, other.bounds, other.influence)
        patients = samples[0].measured(metric.measure)
        return Estimate(value, *difference_interval(metric.measure, *scored, patients))
    return Estimate(value, *_interval(samples, name, metric, value, one, other))


def _same(one: Table, other: Table) -> bool:
    """Return whether two tables hold the same predictions, which have no difference on any patients."""
    pairs = ((one.probabilities, other.probabilities), (one.decisions, other.decisions))
    return all(np.array_equal(*pair) for pair in pairs)


def _interval(
    samples: tuple[Sample, Sample], name: str, metric: Metric, value: float, one: Linear, other: Linear
) -> tuple[float, float]:
    """Return the interval of a difference by the variance of the paired influences.

    Where the methods hardly differ, the variance is that of one patient on whom they do. The variance that
    the two scores' own intervals add near a score of 0 or 1, where few patients are predicted wrongly, is
    added by halves: the two methods mostly err on the same patients.
    """
    sample, z = samples[0], samples[0].z
    variance, freedom = spread(one.influence - other.influence, sample.units, one.strata)
    variance *= max(own.widening(name) for own in samples)
    if is_loss(metric):
        half = quantile(freedom) * float(np.sqrt(variance))
        return value - half, value + half
    variance = max(variance, *(float(np.square(own.influence).max()) for own in (one, other)))
    half = z * float(np.sqrt(variance + (one.excess(z) + other.excess(z)) / 2))
    most = 1.0 if is_bounded(metric) else np.inf
    return max(-most, value - half), min(most, value + half)


# The permutation test.


def _p_value(one: Table, other: Table, metric: Metric, estimate: Estimate, swaps: np.ndarray) -> float | None:
    if estimate.value is None:
        return None
    swapped = np.concatenate([_swapped(one, other, metric, part) for part in _parts(one.strata, swaps)])
    extreme = np.sum(np.abs(swapped) >= abs(estimate.value) - 1e-12)
    return (1 + float(extreme)) / (1 + len(swaps))


def _draw_swaps(table: Table, seed: int = 1) -> np.ndarray:
    """Return whether each patient is swapped in each permutation, (DRAWS, n), the same in a group."""
    units = table.units
    return (np.random.default_rng(seed).random((DRAWS, units.max() + 1)) < 0.5)[:, units]


def _parts(strata: np.ndarray, swaps: np.ndarray) -> list[np.ndarray]:
    """Return the swaps in parts whose comparisons of pairs of different strata fit into memory."""
    counts = np.unique(strata, return_counts=True)[1]
    pairs = int(counts.sum() ** 2 - (counts**2).sum()) // 2
    return np.array_split(swaps, max(1, len(swaps) * pairs // _AT_ONCE))


def _swapped(one: Table, other: Table, metric: Metric, swaps: np.ndarray) -> np.ndarray:
    """Return the differences (draws,) after swapping the methods for the patients in `swaps` (draws, n)."""
    alike = np.ones(len(one.labels))
    differences = [
        metric.of(_mixed(mine, theirs, swaps), alike) - metric.of(_mixed(theirs, mine, swaps), alike)
        for mine, theirs in zip(one.repeats(), other.repeats(), strict=True)
    ]
    return np.mean(differences, axis=0)


def _mixed(mine: Predicted, theirs: Predicted, swaps: np.ndarray) -> Predicted:
    several = mine.probabilities.ndim > mine.decisions.ndim  # values for each patient, in a last axis
    of_values = swaps[..., None] if several else swaps
    return replace(
        mine,
        probabilities=np.where(of_values, theirs.probabilities, mine.probabilities),
        decisions=np.where(swaps, theirs.decisions, mine.decisions),
    )
