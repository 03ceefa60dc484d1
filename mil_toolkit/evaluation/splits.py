"""Stratified splits of patients that keep declared groups together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import count_of

MOST_BINS = 4  # of age
_FEWEST_CLASSES = 2  # of which none can be merged with another
_MERGE = ", merge the class with another (the words of both under one name), or exclude its patients"
_ALL_OCCUR = "Every fold needs patients of all classes: declare only classes that occur among the patients"
_SINGLE_SPLIT_FOLDS = 5  # a single 80/20 split is one of five folds


@dataclass(frozen=True)
class Split:
    """Indices of the training patients and of the held-out patients, both in ascending order."""

    train: np.ndarray
    test: np.ndarray


def age_bins(labels: np.ndarray, ages: np.ndarray, folds: int) -> tuple[np.ndarray, int]:
    """Return the age bin of each patient and the number of bins; the edges are quantiles within each label.

    labels: (n,); ages: (n,) in years, NaN if unknown; the bins returned: (n,)

    The number of bins is the largest one up to four for which every combination of label and bin has at least
    `folds` patients. Patients of unknown age are put into the middle bin.

    >>> bins, count = age_bins(np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([30, 40, 50, 60] * 2), folds=2)
    >>> bins.tolist(), count
    ([0, 0, 1, 1, 0, 0, 1, 1], 2)
    """
    for count in range(MOST_BINS, 1, -1):
        bins = _quantile_bins(labels, ages, count)
        if _smallest_cell(labels, bins, count) >= folds:
            return bins, count
    return np.zeros(len(labels), dtype=int), 1


def _quantile_bins(labels: np.ndarray, ages: np.ndarray, count: int) -> np.ndarray:
    bins = np.full(len(labels), count // 2)
    for label in np.unique(labels):
        known = (labels == label) & ~np.isnan(ages)
        if known.any():
            edges = np.quantile(ages[known], np.linspace(0, 1, count + 1)[1:-1])
            bins[known] = np.searchsorted(edges, ages[known], side="right")
    return bins


def _smallest_cell(labels: np.ndarray, bins: np.ndarray, count: int) -> int:
    return min(
        int(np.sum((labels == label) & (bins == number)))
        for label in np.unique(labels)
        for number in range(count)
    )


def make_splits(
    labels: np.ndarray,
    folds: int,
    seed: int,
    ages: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    *,
    names: Mapping[int, str],
) -> tuple[list[Split], int]:
    """Split n labelled patients into stratified folds; return the splits and the number of age bins used.

    labels: (n,) classes or other strata; ages: (n,) in years, NaN if unknown; groups: (n,)
    names: of the strata that every fold needs, by number; without any, strata of too few patients are joined
        with the next one
    folds: 1 gives a single 80/20 split

    The strata are the labels, combined with age bins if ages are given. Groups are never split; with groups,
    ages are ignored, because strata of age can rarely be kept together with whole groups. Raises DataError if
    a class has fewer patients (or groups) than folds, or than five for a single split, and if groups leave a
    split without a class.

    >>> splits, _ = make_splits(np.array([0, 1] * 6), folds=3, seed=0, names={0: "no", 1: "yes"})
    >>> [len(split.test) for split in splits]
    [4, 4, 4]
    """
    _check_enough(labels, folds, groups, names)
    if not names:
        labels = _coarse(labels, _smallest_stratum(folds))
    if groups is not None:
        return _grouped(labels, groups, folds, seed, names), 1
    bins, count = (
        age_bins(labels, ages, _smallest_stratum(folds))
        if ages is not None
        else (np.zeros(len(labels), dtype=int), 1)
    )
    strata = labels * count + bins
    return _stratified(strata, folds, seed), count


def _coarse(strata: np.ndarray, fewest: int) -> np.ndarray:
    """Join neighbouring strata (n,), numbered from 0, by twos until each has enough patients."""
    while strata.any() and min(np.unique(strata, return_counts=True)[1]) < fewest:
        strata = strata // 2
    return strata


def _stratified(strata: np.ndarray, folds: int, seed: int) -> list[Split]:
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit  # only to make splits

    splitter = (
        StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=seed)
        if folds == 1
        else StratifiedKFold(folds, shuffle=True, random_state=seed)
    )
    return _sorted_splits(splitter.split(strata, strata))


def _grouped(
    labels: np.ndarray, groups: np.ndarray, folds: int, seed: int, names: Mapping[int, str]
) -> list[Split]:
    from sklearn.model_selection import StratifiedGroupKFold  # only to make splits

    splitter = StratifiedGroupKFold(_smallest_stratum(folds), shuffle=True, random_state=seed)
    splits = _sorted_splits(splitter.split(labels, labels, groups))
    incomplete = [str(number) for number, split in enumerate(splits, 1) if _lacks_class(labels, split, names)]
    if incomplete:
        patients = "patients of one class" if names else "patients"
        raise DataError(
            f"with the declared groups, fold {', '.join(incomplete)} of {len(splits)} has no {patients} among"
            " its training or its held-out patients. Use fewer folds, or a finer group column."
        )
    return splits[:1] if folds == 1 else splits


def leave_one_group_out(labels: np.ndarray, groups: np.ndarray, names: Mapping[int, str]) -> list[Split]:
    """Return splits of n labelled patients that hold out one group each, in the order of the groups' names.

    labels: (n,) classes or other strata; groups: (n,)
    names: of the strata that all training patients need, by number

    A held-out group may have patients of a single class. Raises DataError if the training patients lack one.

    >>> splits = leave_one_group_out(np.array([0, 1, 0, 1]), np.array(["b", "b", "a", "a"]), names={})
    >>> [split.test.tolist() for split in splits]
    [[2, 3], [0, 1]]
    """
    single = np.unique(groups)
    splits = [Split(np.flatnonzero(groups != group), np.flatnonzero(groups == group)) for group in single]
    problems = [
        f"without group {group}, {_lack_words(labels[split.train], names)}."
        for group, split in zip(single, splits, strict=True)
        if not names.keys() <= set(labels[split.train].tolist())
    ]
    if problems:
        raise DataError([*problems, "Give a number of outer folds instead of groups."])
    return splits


def _lack_words(labels: np.ndarray, names: Mapping[int, str]) -> str:
    if len(np.unique(labels)) < 2:
        return "all training patients have the same class"
    missing = [name for number, name in names.items() if number not in labels]
    return f"no training patient has the class {' or '.join(missing)}"


def _lacks_class(labels: np.ndarray, split: Split, names: Mapping[int, str]) -> bool:
    parts = (split.train, split.test)
    return any(not len(part) or not names.keys() <= set(labels[part].tolist()) for part in parts)


def _sorted_splits(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[Split]:
    return [Split(np.sort(train), np.sort(test)) for train, test in pairs]


def _smallest_stratum(folds: int) -> int:
    """Return the number of patients that a stratum needs: one per fold."""
    return _SINGLE_SPLIT_FOLDS if folds == 1 else folds


def _check_enough(
    labels: np.ndarray, folds: int, groups: np.ndarray | None, names: Mapping[int, str]
) -> None:
    problems = []
    classes = {f"the {name} class": labels == label for label, name in names.items()}
    for name, chosen in (classes or {"the cohort": np.ones(len(labels), dtype=bool)}).items():
        count = int(chosen.sum()) if groups is None else len(np.unique(groups[chosen]))
        units = count_of(count, "patient" if groups is None else "group")
        if count == 0 and classes:
            problems.append(f"{name} has {units}. {_ALL_OCCUR}.")
        elif count < _smallest_stratum(folds):
            needed = "5 that a single 80/20 split needs" if folds == 1 else f"{folds} folds. Use fewer folds"
            needed += _MERGE if len(names) > _FEWEST_CLASSES else ""
            problems.append(f"{name} has {units}, fewer than the {needed}.")
    if problems:
        raise DataError(problems)


def describe_splits(splits: Sequence[Split], patient_ids: Sequence[str]) -> list[list[str]]:
    """Return the ids of the held-out patients of each split, which determine the splits.

    >>> describe_splits([Split(np.array([0, 2]), np.array([1]))], ["P1", "P2", "P3"])
    [['P2']]
    """
    return [[patient_ids[index] for index in split.test] for split in splits]
