"""Splits: they keep strata and groups and hold out every patient once; their errors say what to do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import configuration

from mil_toolkit.core.errors import DataError
from mil_toolkit.evaluation.splits import Split, age_bins, describe_splits, leave_one_group_out, make_splits

NAMES = {1: "positive", 0: "negative"}


def labels_and_ages(positive: int = 40, negative: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and ages; positive patients are older."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.array([1] * positive + [0] * negative))
    return labels, random.normal(60 + 15 * labels, 10)


def check_partition(splits: list[Split], count: int) -> None:
    for split in splits:
        assert np.array_equal(np.sort(np.concatenate([split.train, split.test])), np.arange(count))
        assert (np.diff(split.train) > 0).all() and (np.diff(split.test) > 0).all()


@given(st.integers(5, 40), st.integers(5, 40), st.integers(2, 5), st.integers(0, 99))
def test_every_patient_is_held_out_once_and_classes_keep_their_share(
    positive: int, negative: int, folds: int, seed: int
) -> None:
    labels, ages = labels_and_ages(positive, negative, seed)
    splits, _ = make_splits(labels, folds, seed, ages, names=NAMES)
    check_partition(splits, len(labels))
    assert np.array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(len(labels)))
    for label, count in ((1, positive), (0, negative)):
        held_out = [int((labels[split.test] == label).sum()) for split in splits]
        assert all(abs(number - count / folds) <= 4 for number in held_out)
        assert min(held_out) >= 1


def test_age_strata_keep_their_share() -> None:
    labels, ages = labels_and_ages(80, 40)
    splits, count = make_splits(labels, 5, 0, ages, names=NAMES)
    assert count == 4
    bins, _ = age_bins(labels, ages, 5)
    for split in splits:
        for label, size in ((1, 20), (0, 10)):
            counts = np.bincount(bins[split.test][labels[split.test] == label], minlength=4)
            assert counts.tolist() == [size // 5] * 4


@pytest.mark.parametrize(("smallest", "count"), [(20, 4), (19, 3), (15, 3), (14, 2), (10, 2), (9, 1), (5, 1)])
def test_every_label_and_age_bin_has_a_patient_per_fold(smallest: int, count: int) -> None:
    labels, ages = labels_and_ages(100, smallest)
    bins, bin_count = age_bins(labels, ages, folds=5)
    assert bin_count == count
    assert set(bins.tolist()) == set(range(count))


def test_age_bins_are_quantiles_within_each_label() -> None:
    labels = np.array([0] * 20 + [1] * 20)
    ages = np.concatenate([np.arange(20.0), 100 + np.arange(20.0)])
    bins, count = age_bins(labels, ages, 5)
    assert count == 4
    assert bins.tolist() == np.repeat([0, 1, 2, 3, 0, 1, 2, 3], 5).tolist()


def test_a_missing_age_is_put_into_the_middle_bin() -> None:
    labels = np.array([0] * 31 + [1] * 30)
    ages = np.concatenate([[np.nan], np.arange(60.0)])
    bins, count = age_bins(labels, ages, 10)
    assert count == 3 and bins[0] == 1


def test_equal_or_missing_ages_form_one_bin() -> None:
    labels = np.array([0, 1] * 20)
    for ages in (np.full(40, 50.0), np.full(40, np.nan)):
        bins, count = age_bins(labels, ages, 5)
        assert count == 1 and not bins.any()


def test_one_fold_is_a_single_80_20_split() -> None:
    labels, ages = labels_and_ages(80, 40)
    (split,), _ = make_splits(labels, 1, 0, ages, names=NAMES)
    check_partition([split], 120)
    assert len(split.test) == 24
    assert labels[split.test].sum() == 16


def test_the_seed_determines_the_splits() -> None:
    labels, ages = labels_and_ages()
    ids = [f"P{i}" for i in range(60)]
    first, again, other = (
        describe_splits(make_splits(labels, 5, seed, ages, names=NAMES)[0], ids) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(patient for fold in first for patient in fold) == sorted(ids)


@given(st.integers(0, 99), st.sampled_from([1, 2, 5]))
def test_groups_are_never_split(seed: int, folds: int) -> None:
    labels, ages = labels_and_ages(60, 60, seed)
    groups = np.array([f"G{i}" for i in np.random.default_rng(seed).integers(0, 40, 120)])
    splits, count = make_splits(labels, folds, seed, ages, groups, names=NAMES)
    assert count == 1 and len(splits) == folds
    check_partition(splits, 120)
    for split in splits:
        assert not set(groups[split.train]) & set(groups[split.test])


@pytest.mark.parametrize("seed", range(10))
def test_many_unequal_groups_give_folds_with_about_equal_class_counts(seed: int) -> None:
    """scikit-learn before 1.8 shuffles the class counts away from their groups: folds differ by up to 40."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), random.integers(1, 9, 60))
    of_one_class = (random.random(60) < 0.6).astype(int)[groups]
    of_both_classes = (random.random(len(groups)) < 0.6).astype(int)
    for labels, most in ((of_one_class, 3), (of_both_classes, 9)):
        splits, _ = make_splits(labels, 5, seed, groups=groups, names=NAMES)
        for label in (0, 1):
            assert np.ptp([np.sum(labels[split.test] == label) for split in splits]) <= most


def test_the_first_scikit_learn_that_balances_shuffled_groups_is_required() -> None:
    """1.8.0 fixes `StratifiedGroupKFold(shuffle=True)` (scikit-learn pull request 32540)."""
    assert "scikit-learn>=1.8" in configuration("setup.cfg")["options"]["install_requires"].splitlines()


def test_a_class_with_too_few_patients_is_named() -> None:
    with pytest.raises(DataError) as caught:
        make_splits(np.array([1] * 3 + [0] * 4), 5, 0, names=NAMES)
    assert caught.value.problems == [
        "the positive class has 3 patients, fewer than the 5 folds. Use fewer folds.",
        "the negative class has 4 patients, fewer than the 5 folds. Use fewer folds.",
    ]


def test_a_class_with_too_few_groups_is_named() -> None:
    labels = np.array([1, 0] * 10)
    groups = np.where(labels == 1, np.arange(20) // 10, np.arange(20))
    with pytest.raises(DataError, match="the positive class has 2 groups, fewer than the 5 folds"):
        make_splits(labels, 5, 0, groups=groups, names=NAMES)


def test_groups_that_leave_a_fold_without_a_class_are_refused() -> None:
    """Only two of the three groups have negatives, so that a held-out fold has none."""
    labels = np.array([1, 1, 1, 1, 1, 1, 0, 0])
    groups = np.array(["A", "A", "B", "B", "C", "C", "A", "B"])
    with pytest.raises(
        DataError, match=r"fold \d.* of 3 has no patients of one class|negative class has 2 groups"
    ):
        make_splits(labels, 3, 0, groups=groups, names=NAMES)


def test_a_single_split_needs_both_classes_on_both_sides() -> None:
    labels = np.array([1] * 10 + [0] * 10)
    groups = np.array(["A"] * 9 + ["B"] + ["A"] * 9 + ["C"])
    with pytest.raises(
        DataError, match="no patients of one class among its training or its held-out patients"
    ):
        make_splits(labels, 2, 0, groups=groups, names=NAMES)


# Leave one group out.


def test_each_group_is_held_out_once_as_a_whole() -> None:
    groups = np.array(["B", "A", "B", "C", "A", "C", "A"])
    labels = np.array([0, 1, 1, 0, 1, 1, 1])  # A has one class
    splits = leave_one_group_out(labels, groups, NAMES)
    assert [set(groups[split.test]) for split in splits] == [{"A"}, {"B"}, {"C"}]
    for split in splits:
        assert sorted([*split.train, *split.test]) == list(range(7))
        assert not set(groups[split.train]) & set(groups[split.test])


def test_a_group_with_all_patients_of_a_class_cannot_be_held_out() -> None:
    with pytest.raises(DataError, match="without group A"):
        leave_one_group_out(np.array([0, 0, 1, 1]), np.array(["A", "A", "B", "C"]), NAMES)
    with pytest.raises(DataError, match="without group A"):
        leave_one_group_out(np.array([0, 1]), np.array(["A", "A"]), NAMES)


def test_too_few_patients_for_a_single_split_are_named() -> None:
    with pytest.raises(
        DataError, match=r"class has 4 patients, fewer than the 5 that a single 80/20 split needs\."
    ):
        make_splits(np.array([1] * 9 + [0] * 4), 1, 0, names=NAMES)
