"""Permutation tests whether a column is associated with the label, and Fisher's exact test for two words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact, rankdata

from mil_toolkit.evaluation.shuffles import draw_shuffles

PERMUTATION = "permutation test"
FISHER = "Fisher's exact test"
DRAWS = 9999  # shuffles of the labels at most
ENOUGH = 50  # shuffles as extreme as the labels, after which no more are drawn
_AT_ONCE = 1000  # shuffles
_TOLERANCE = 1e-9  # of statistics that are equal but for rounding

Statistic = Callable[[np.ndarray], np.ndarray]  # of labels (draws, n): (draws,)


@dataclass(frozen=True)
class Labelled:
    """Patients whose labels may be associated with a column.

    positive: (n,) whether each is positive, or the ranks of a number that is the outcome
    groups: (n,) their groups, which exchange labels as a whole, or None
    """

    positive: np.ndarray
    groups: np.ndarray | None

    def take(self, chosen: np.ndarray) -> "Labelled":
        """Return the patients of a boolean mask (n,)."""
        groups = None if self.groups is None else self.groups[chosen]
        return replace(self, positive=self.positive[chosen], groups=groups)

    @property
    def smaller_class(self) -> int:
        """The number of patients of the smaller class."""
        return int(min(self.positive.sum(), (~self.positive).sum()))


@dataclass(frozen=True)
class Association:
    """The p-value of a test whether a column is independent of the label, and the test's name."""

    p_value: float
    test: str


def association_of_numbers(values: np.ndarray, patients: Labelled, draws: int = DRAWS) -> Association:
    """Test whether numbers (n,) are independent of the label: the distance of the AUC from one half."""
    ranks = rankdata(values)

    def distance(labels: np.ndarray) -> np.ndarray:
        positives = labels.sum(1)
        pairs = positives * (len(ranks) - positives)
        wins = labels @ ranks - positives * (positives + 1) / 2
        return np.abs(wins - pairs / 2) / np.maximum(pairs, 1)

    return _permutation_test(distance, patients, draws)


def association_of_words(words: np.ndarray, patients: Labelled, draws: int = DRAWS) -> Association:
    """Test whether words (n,) are independent of the label: the chi-squared statistic of their counts.

    Two words of patients without groups are compared by Fisher's exact test.
    """
    codes, kinds = pd.factorize(words)
    if len(kinds) == 2 and patients.groups is None:
        table = [[int(((codes == code) & side).sum()) for code in (0, 1)]
                 for side in (patients.positive, ~patients.positive)]  # fmt: skip
        return Association(float(fisher_exact(np.array(table)).pvalue), FISHER)
    member = np.eye(len(kinds))[codes]  # (n, words)
    counts = member.sum(0)

    def chi_squared(labels: np.ndarray) -> np.ndarray:
        share = labels.mean(1, keepdims=True)
        variance = counts * np.maximum(share * (1 - share), _TOLERANCE)
        return np.sum((labels @ member - counts * share) ** 2 / variance, axis=1)

    return _permutation_test(chi_squared, patients, draws)


def rank_association_of_numbers(values: np.ndarray, patients: Labelled, draws: int = DRAWS) -> Association:
    """Test whether numbers (n,) are independent of ranked targets: the size of Spearman's correlation."""
    ranks = rankdata(values)
    ranks = (ranks - ranks.mean()) / len(ranks)

    def correlation(targets: np.ndarray) -> np.ndarray:
        return np.abs(targets @ ranks) / np.maximum(targets.std(1), _TOLERANCE)

    return _permutation_test(correlation, patients, draws)


def rank_association_of_words(words: np.ndarray, patients: Labelled, draws: int = DRAWS) -> Association:
    """Test whether words (n,) are independent of ranked targets: the statistic of Kruskal and Wallis 1952."""
    codes, kinds = pd.factorize(words)
    member = np.eye(len(kinds))[codes]  # (n, words)
    counts = member.sum(0)

    def between(targets: np.ndarray) -> np.ndarray:
        centred = targets - targets.mean(1, keepdims=True)
        return np.sum((centred @ member) ** 2 / counts, axis=1) / np.maximum(targets.var(1), _TOLERANCE)

    return _permutation_test(between, patients, draws)


def _permutation_test(statistic: Statistic, patients: Labelled, draws: int) -> Association:
    """Return the share of shuffles whose statistic is as large as that of the labels.

    The draws end when ENOUGH shuffles have been as large: Besag and Clifford 1991, whose p-value keeps the
    level of the test.
    """
    least = statistic(patients.positive[None].astype(float))[0] - _TOLERANCE
    larger, done = 0, 0
    for labels in _shuffles(patients, draws):
        places = np.flatnonzero(statistic(labels) >= least)
        if larger + len(places) >= ENOUGH:
            return Association(ENOUGH / (done + int(places[ENOUGH - larger - 1]) + 1), PERMUTATION)
        larger, done = larger + len(places), done + len(labels)
    return Association((1 + larger) / (1 + done), PERMUTATION)


def _shuffles(patients: Labelled, draws: int) -> Iterator[np.ndarray]:
    """Yield shuffled labels, (at most _AT_ONCE, n)."""
    random = np.random.default_rng(0)
    for start in range(0, draws, _AT_ONCE):
        count = min(_AT_ONCE, draws - start)
        yield draw_shuffles(patients.positive.astype(float), patients.groups, random, count)
