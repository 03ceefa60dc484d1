"""Paired comparisons of two methods on the same patients: differences, their intervals and p-values."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mil_toolkit.evaluation.bounds import quantile
from mil_toolkit.evaluation.influence import spread
from mil_toolkit.evaluation.measure_differences import difference_interval
from mil_toolkit.evaluation.measure_intervals import Scored
from mil_toolkit.evaluation.methods import Linear, Sample, is_bounded, is_loss, linear
from mil_toolkit.evaluation.metrics import Metric, Predicted
from mil_toolkit.evaluation.records import Comparison, Difference, Estimate, Optimism
from mil_toolkit.evaluation.table import DRAWS, Table

_AT_ONCE = 500_000  # weights that are scored in one call; more of them do not fit into the processor's caches


def compare(one: Table, other: Table) -> Comparison:
    """Compare two methods on the same patients and folds: one minus other, for every metric.

    The p-value is that of a permutation test which swaps the two methods of a patient, or of all patients of
    a group, in all repeats together.
    """
    estimates = differences(one, other)
    p_values = _p_values(one, other, {name: estimate.value for name, estimate in estimates.items()})
    tested = {
        name: Difference(estimate.value, estimate.low, estimate.high, p_values.get(name))
        for name, estimate in estimates.items()
    }
    decided = one.scoring.decision is not None
    discordant = float((one.decisions != other.decisions).sum(1).mean()) if decided else None
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


def _p_values(one: Table, other: Table, values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the p-value of each metric whose difference has a value."""
    known = {name: abs(value) for name, value in values.items() if value is not None}
    both = [_both(mine, theirs) for mine, theirs in zip(one.repeats(), other.repeats(), strict=True)]
    metrics = [one.scoring.metrics[name] for name in known]
    parts = [_swapped(both, metrics, swaps) for swaps in _parts(_draw_swaps(one))]
    extreme = np.abs(np.concatenate(parts, axis=1)) >= np.array([*known.values()])[:, None] - 1e-12
    return dict(zip(known, ((1 + extreme.sum(1)) / (1 + DRAWS)).tolist(), strict=True))


def _draw_swaps(table: Table, seed: int = 1) -> np.ndarray:
    """Return whether each patient is swapped in each permutation, (DRAWS, n), the same in a group."""
    units, random = table.units, np.random.default_rng(seed)
    count = int(units.max()) + 1
    rows = max(1, _AT_ONCE // count)
    sizes = (min(rows, DRAWS - first) for first in range(0, DRAWS, rows))
    return np.concatenate([random.random((size, count)) < 0.5 for size in sizes])[:, units]


def _parts(swaps: np.ndarray) -> list[np.ndarray]:
    """Return the swaps in parts whose weights fit into memory."""
    return np.array_split(swaps, 1 + 2 * swaps.size // _AT_ONCE)


def _swapped(both: Sequence[Predicted], metrics: Sequence[Metric], swaps: np.ndarray) -> np.ndarray:
    """Return the differences (metrics, draws) after swapping the methods for the patients in `swaps`.

    both: the predictions of the two methods in each repeat, see `_both`; swaps: (draws, n)
    """
    kept, exchanged = (
        np.concatenate(pair, axis=1).astype(float) for pair in ((~swaps, swaps), (swaps, ~swaps))
    )
    repeats = [[metric.of(pair, kept) - metric.of(pair, exchanged) for metric in metrics] for pair in both]
    return np.mean(np.array(repeats), axis=0)


def _both(mine: Predicted, theirs: Predicted) -> Predicted:
    """Return the predictions of two methods, (2n,). Weights of 0 and 1 then choose one for each patient."""
    labels, folds = (np.concatenate([of_each, of_each]) for of_each in (mine.labels, mine.folds))
    probabilities = np.concatenate([mine.probabilities, theirs.probabilities])
    decisions = np.concatenate([mine.decisions, theirs.decisions])
    return Predicted(labels, probabilities, decisions, folds, mine.prevalence)
