"""Near-identical patients: a person who may have been entered twice, by embeddings or by the table.

A patient's nearest neighbour is compared with its further neighbours, not with a fixed distance: small
distances are common where the patients are many, the columns few or the values alike. With d_j the distance
of the j-th neighbour, the steps j log(d_{j+1} / d_j) have the same exponential distribution for every j
wherever the density around a patient is smooth (Renyi 1953; Levina and Bickel 2004 estimate the dimension of
data from them). A person who was entered j more times has a long step after the j-th neighbour.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import cdist

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.text import count_of
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.records import Finding

COPIES = 3  # further entries of a person that are searched for
NEIGHBOURS = 9  # of which the steps after the first three are the reference
FEWEST = 30  # patients, or groups
MOST = 5000  # patients
FEWEST_ALIKE = 20  # patients with the same words, if words are to tell patients apart
FEWEST_COLUMNS = 2  # of numbers
LARGEST_SHARE_MISSING = 0.1  # of a column that is used
# Measured on clean cohorts of 20 to 400 patients and many shapes: the mean step exceeds the mean reference by
# more than 5 / sqrt(patients) of it in about one cohort in a hundred, and the longest step is more than twice
# the longest reference as rarely; pairs as close as NEAR are then needed too. benchmarks/audit_alarms.py
# counts the alarms that are left.
MEAN_EXCESS = 5.0
LONGEST_RATIO = 2.0
REFERENCE_SHARE = 0.95  # of the reference steps, which the step of a reported pair exceeds
NEAR = 0.25  # the largest distance of a reported pair, as a share of that of the last neighbour
MOST_LISTED = 1000  # pairs in one finding

Pair = tuple[int, int]


class Neighbours(NamedTuple):
    """The nearest neighbours of n patients, nearest first.

    order: (n, NEIGHBOURS) their indices; distances: (n, NEIGHBOURS)
    """

    order: np.ndarray
    distances: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """The steps from each neighbour to the next, (n, NEIGHBOURS - 1)."""
        count = np.arange(1, NEIGHBOURS)
        logs = np.log(self.distances)
        steps: np.ndarray = count * (logs[:, 1:] - logs[:, :-1])
        return steps


def check_similar_patients(cohort: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    """Find patients who are nearer to each other than chance allows, in embeddings and in numbers.

    Patients of one declared group are not compared: no split separates them.
    """
    groups = cohort.groups
    if len(cohort) > MOST:
        text = f"near-identical patients were not searched: there are more than {MOST:,} patients."
        yield Finding("near-identical patients", "unchecked", text)
        return
    if cache is not None:
        places = np.array([bool(cache.versions(patient)) for patient in cohort.patient_ids], dtype=bool)
        chosen = cohort.select([cohort.patient_ids[place] for place in np.flatnonzero(places)])
        pairs = similar_pairs(_standardised(_mean_embeddings(chosen, cache)), chosen.groups)
        yield from _finding(pairs, chosen.patient_ids, "mean embeddings")
    numbers = number_ranks(cohort)
    if numbers.shape[1] >= FEWEST_COLUMNS:
        points = np.column_stack([numbers, _frequent_words(cohort)])
        pairs = [pair for pair in similar_pairs(points, groups) if _same_words(cohort, pair)]
        yield from _finding(pairs, cohort.patient_ids, "numbers in the table")


def _finding(pairs: Sequence[Pair], patient_ids: Sequence[str], what: str) -> Iterator[Finding]:
    if not pairs:
        return
    listed = tuple(" ~ ".join(patient_ids[place] for place in pair) for pair in pairs[:MOST_LISTED])
    text = f"{count_of(len(pairs), 'pair')} of patients have {what} that are nearer than chance explains."
    advice = (
        "They may be one person who was entered twice. Compare them, and remove the copies, or assign them to"
        " one group, so that no split separates them."
    )
    yield Finding("near-identical patients", "leak", text, advice, len(pairs), listed)


def _mean_embeddings(cohort: Cohort, cache: FeatureCache) -> np.ndarray:
    """Return the mean embedding of each patient, (n, D)."""
    if not len(cohort):
        return np.zeros((0, 0))
    bags = cache.bags(cohort.patient_ids)
    means: np.ndarray = (bags.totals(torch.float64) / bags.sizes[:, None]).numpy()
    return means


def _standardised(values: np.ndarray) -> np.ndarray:
    """Return the columns that vary, with a mean of 0 and a variance of 1."""
    deviations = values.std(0) if len(values) else np.zeros(values.shape[1])
    varies = deviations > 1e-6 * deviations.max(initial=0)
    scaled: np.ndarray = (values[:, varies] - values[:, varies].mean(0)) / deviations[varies]
    return scaled


def number_ranks(cohort: Cohort) -> np.ndarray:
    """Return the ranks of the number columns, between 0 and 1, (n, columns).

    Ties and missing values have random ranks, so that rounded values and equal gaps do not make patients
    alike; columns with too many missing values are left out.
    """
    table = cohort.metadata.select_dtypes("number")
    used = [name for name in table if table[name].isna().mean() <= LARGEST_SHARE_MISSING]
    random = np.random.default_rng(0)
    columns = [_ranks(table[name].to_numpy(float), random) for name in used if table[name].nunique() > 1]
    return np.column_stack(columns) if columns else np.zeros((len(cohort), 0))


def _ranks(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    known = ~np.isnan(values)
    ranks = random.random(len(values))
    order = np.lexsort((random.random(int(known.sum())), values[known]))
    ranks[np.flatnonzero(known)[order]] = (np.arange(len(order)) + 0.5) / len(order)
    return ranks


def _frequent_words(cohort: Cohort) -> np.ndarray:
    """Return columns (n, words) in which patients with other words are apart by more than any rank.

    Categories are used as long as each combination of their words has enough patients: patients whose words
    are rare would have near neighbours for that reason.
    """
    words = cohort.metadata.select_dtypes(exclude="number").fillna("")
    cells = np.zeros(len(cohort), dtype=int)
    for name in words:
        finer = words.groupby([cells, name]).ngroup().to_numpy()
        cells = finer if np.bincount(finer).min() >= FEWEST_ALIKE else cells
    return len(words.columns) * np.eye(cells.max() + 1)[cells] if cells.any() else np.zeros((len(cells), 0))


def _same_words(cohort: Cohort, pair: Pair) -> bool:
    """Return whether two patients agree in every category that both have."""
    words = cohort.metadata.select_dtypes(exclude="number").iloc[list(pair)]
    return all(words[name].dropna().nunique() < 2 for name in words)


def similar_pairs(points: np.ndarray, groups: np.ndarray | None) -> list[Pair]:
    """Return the pairs of patients who are nearer to each other than chance allows; points: (n, columns).

    groups: (n,) or None. Where there are enough groups, these are compared by their nearest patients. The
    patients of few large groups, such as hospitals, are compared one by one with those of other groups. Few
    small groups are not compared: all entries of a person in another group are about equally near.
    """
    if not points.shape[1]:
        return []
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    if groups is None:
        return _near(distances)
    names, group = np.unique(groups, return_inverse=True)
    distances[group[:, None] == group] = np.inf
    if len(names) < FEWEST:
        return _near(distances) if len(group) >= NEIGHBOURS * len(names) else []
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(names)))
    rows = np.minimum.reduceat(distances[np.ix_(order, order)], starts, axis=0)
    between = np.minimum.reduceat(rows, starts, axis=1)  # (groups, groups)
    members = np.split(order, starts[1:])
    return [_nearest(distances, members[one], members[other]) for one, other in _near(between)]


def _nearest(distances: np.ndarray, some: np.ndarray, others: np.ndarray) -> Pair:
    """Return the nearest patients of two groups."""
    part = distances[np.ix_(some, others)]
    row, column = np.unravel_index(part.argmin(), part.shape)
    return int(some[row]), int(others[column])


def _near(distances: np.ndarray) -> list[Pair]:
    """Return the pairs that are too near, given the distances (n, n), infinite where not to be compared."""
    neighbours = _neighbours(distances)
    if neighbours is None:
        return []
    reference = neighbours.steps[:, COPIES:]
    ratio = 1 + MEAN_EXCESS / np.sqrt(len(distances))
    pairs: set[Pair] = set()
    for copies in range(1, COPIES + 1):
        steps = neighbours.steps[:, copies - 1]
        if steps.mean() > ratio * reference.mean() or steps.max() > LONGEST_RATIO * reference.max():
            pairs |= _mutual(neighbours, steps > np.quantile(reference, REFERENCE_SHARE), copies)
    return sorted(pairs)


def _neighbours(distances: np.ndarray) -> Neighbours | None:
    """Return the nearest neighbours; None where there are too few or most of the patients are equal."""
    if len(distances) < FEWEST or np.isfinite(distances).sum(1).min() < NEIGHBOURS:
        return None
    order = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    nearest = np.take_along_axis(distances, order, axis=1)
    smallest = 1e-6 * np.median(nearest[:, -1])  # equal patients are as near as this
    return Neighbours(order, np.maximum(nearest, smallest)) if smallest > 0 else None


def _mutual(neighbours: Neighbours, long: np.ndarray, copies: int) -> set[Pair]:
    """Return the pairs of near patients with a long step, each among the nearest of the other."""
    near = neighbours.distances[:, :copies] <= NEAR * neighbours.distances[:, -1:]
    chosen = near & long[:, None]
    nearest = [set(row[:copies].tolist()) for row in neighbours.order]
    return {
        (min(one, other), max(one, other))
        for one, column in zip(*(places.tolist() for places in np.nonzero(chosen)), strict=True)
        if one in nearest[other := int(neighbours.order[one, column])]
    }
