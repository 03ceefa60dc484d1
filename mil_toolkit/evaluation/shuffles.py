"""Shuffled labels: random labels of the same patients that keep each group's labels together."""

import numpy as np


def draw_shuffles(
    labels: np.ndarray, groups: np.ndarray | None, random: np.random.Generator, draws: int
) -> np.ndarray:
    """Return independent shuffles of the labels, (draws, n); labels, groups: (n,).

    Without groups, a shuffle is a permutation of the patients. With groups, the groups swap their labels as a
    whole: each group receives the labels of a randomly drawn group, in random order. Groups of equal size
    thus exchange their label vectors, which is a permutation of whole groups. A larger group repeats the
    labels that it receives and a smaller one uses a part of them, so that the number of positives varies
    between shuffles.

    The labels of a group stay as similar as they were, as in a cohort where the patients of a group are one
    person or one family. All groups take part whatever their size: exchanging labels only between groups of
    equal size would leave many groups with their own labels where few groups share a size, and the size of
    a group would still predict the label.

    >>> groups = np.array(["a", "a", "b", "b", "c"])
    >>> shuffled = draw_shuffles(np.array([1, 1, 0, 0, 0]), groups, np.random.default_rng(0), 50)
    >>> bool((shuffled[:, 0] == shuffled[:, 1]).all()), sorted(set(shuffled[:, 4].tolist()))
    (True, [0, 1])
    """
    if groups is None:
        return random.permuted(np.tile(labels, (draws, 1)), axis=1)
    group, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    starts = np.cumsum(sizes) - sizes
    # The patients sorted by group, in random order within each: (draws, n)
    members = np.argsort(group + random.random((draws, len(labels))), axis=1)
    donors = np.argsort(random.random((draws, len(sizes))), axis=1)[:, group]  # (draws, n)
    places = starts[donors] + _ranks_within(group, starts) % sizes[donors]
    shuffled: np.ndarray = labels[members[np.arange(draws)[:, None], places]]
    return shuffled


def _ranks_within(group: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the position of each patient among those of its group, (n,)."""
    order = np.argsort(group, kind="stable")
    ranks = np.empty(len(group), dtype=int)
    ranks[order] = np.arange(len(group)) - starts[group[order]]
    return ranks
