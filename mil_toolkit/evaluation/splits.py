"""`Split`s: made once, saved as JSON, never straddled by a group."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import count_of

MOST_BINS = 4


@dataclass(frozen=True)
class Split:
    """Indices of the patients that train and of those that are held out, both ascending."""

    train: np.ndarray
    test: np.ndarray


def age_bins(labels: np.ndarray, ages: np.ndarray, folds: int) -> tuple[np.ndarray, int]:
    """Age quantile bin of each patient within its label, and the number of bins.

    Shapes: labels (n,), ages (n,) in years, NaN where unknown -> (n,)
    The number is the largest up to four for which every cell of label x bin holds at least `folds`
    patients. A patient without age goes to the middle bin.
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
        int(np.sum((labels == label) & (bins == each)))
        for label in np.unique(labels)
        for each in range(count)
    )


def make_splits(
    labels: np.ndarray,
    folds: int,
    seed: int,
    ages: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[list[Split], int]:
    """Splits of n labelled patients, and the number of age bins used.

    Shapes: labels (n,) of 0 and 1, ages (n,) in years, groups (n,)
    folds = 1 is a single stratified 80/20 split. With groups the strata are the labels alone, since age
    strata and whole groups can rarely be had together. Raises DataError where a class has fewer patients
    (or groups) than folds, or than five for a single split.
    """
    _check_enough(labels, folds, groups)
    if groups is not None:
        return _grouped(labels, groups, folds, seed), 1
    bins, count = (
        age_bins(labels, ages, _least(folds)) if ages is not None else (np.zeros(len(labels), dtype=int), 1)
    )
    strata = labels * count + bins
    splitter = (
        StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=seed)
        if folds == 1
        else StratifiedKFold(folds, shuffle=True, random_state=seed)
    )
    return _sorted_splits(splitter.split(strata, strata)), count


def _grouped(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[Split]:
    splitter = StratifiedGroupKFold(_least(folds), shuffle=True, random_state=seed)
    splits = _sorted_splits(splitter.split(labels, labels, groups))
    lacking = [str(i + 1) for i, each in enumerate(splits) if _one_sided(labels, each)]
    if lacking:
        raise DataError(
            f"with the declared groups, fold {', '.join(lacking)} of {len(splits)} leaves a class out of its "
            "training or its held-out patients. Use fewer folds, or a finer group column."
        )
    return splits[:1] if folds == 1 else splits


def leave_one_group_out(labels: np.ndarray, groups: np.ndarray) -> list[Split]:
    """Splits of n labelled patients that hold out one group each, in the order of the groups' names.

    Shapes: labels (n,) of 0 and 1, groups (n,). A group may be of one class, what remains may not: DataError then.
    """
    names = np.unique(groups)
    splits = [Split(np.flatnonzero(groups != name), np.flatnonzero(groups == name)) for name in names]
    lacking = [
        f"without group {name} the training patients are not of both classes."
        for name, split in zip(names, splits, strict=True)
        if len(np.unique(labels[split.train])) < 2
    ]
    if lacking:
        raise DataError([*lacking, "Give a number of outer folds in the place of groups."])
    return splits


def _one_sided(labels: np.ndarray, split: Split) -> bool:
    return any(len(np.unique(labels[part])) < 2 for part in (split.train, split.test))


def _sorted_splits(pairs: object) -> list[Split]:
    return [Split(np.sort(train), np.sort(test)) for train, test in pairs]  # type: ignore[attr-defined]


def _least(folds: int) -> int:
    """Patients that a stratum needs: one for each fold; a single 80/20 split is one of five folds."""
    return 5 if folds == 1 else folds


def _check_enough(labels: np.ndarray, folds: int, groups: np.ndarray | None) -> None:
    problems = []
    for label, name in ((1, "positive"), (0, "negative")):
        chosen = labels == label
        count = int(chosen.sum()) if groups is None else len(np.unique(groups[chosen]))
        if count < _least(folds):
            found = count_of(count, "patient" if groups is None else "group")
            needed = "5 of a single 80/20 split" if folds == 1 else f"{folds} folds. Use fewer folds"
            problems.append(f"the {name} class has {found}, fewer than the {needed}.")
    if problems:
        raise DataError(problems)


def describe_splits(splits: Sequence[Split], patient_ids: Sequence[str]) -> list[list[str]]:
    """The held-out patients of each split by id: all that is needed to make the splits again."""
    return [[patient_ids[index] for index in split.test] for split in splits]
