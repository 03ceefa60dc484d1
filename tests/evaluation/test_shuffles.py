"""Shuffled labels: whole groups exchange their labels, and nothing predicts the shuffled label."""

import numpy as np
import pytest

from mil_toolkit.evaluation.shuffles import draw_shuffles


def shuffles(labels: list[int], groups: list[str] | None, draws: int = 4000, seed: int = 0) -> np.ndarray:
    given = None if groups is None else np.array(groups)
    return draw_shuffles(np.array(labels), given, np.random.default_rng(seed), draws)


def test_without_groups_every_shuffle_is_a_permutation() -> None:
    labels = [1, 0, 0, 1, 1, 0, 0]
    drawn = shuffles(labels, None)
    assert drawn.shape == (4000, 7) and (drawn.sum(1) == 3).all()
    assert len(np.unique(drawn, axis=0)) == 35  # 7 choose 3: all that there are
    assert drawn.mean(0) == pytest.approx(3 / 7, abs=0.03)


def test_groups_of_one_patient_are_permuted_like_patients() -> None:
    drawn = shuffles([1, 0, 0, 1, 1, 0, 0], list("gfedcba"))
    assert (drawn.sum(1) == 3).all() and len(np.unique(drawn, axis=0)) == 35
    assert drawn.mean(0) == pytest.approx(3 / 7, abs=0.03)


def test_groups_of_equal_size_exchange_their_label_vectors() -> None:
    labels, groups = [1, 1, 0, 0, 1, 0, 0, 0], list("aabbccdd")
    drawn = shuffles(labels, groups)
    assert (drawn.sum(1) == 3).all()  # the number of positives stays
    assert {tuple(sorted(row.reshape(4, 2).sum(1))) for row in drawn} == {(0, 0, 1, 2)}
    assert len({tuple(row) for row in drawn}) == 12 * 2  # who is positive twice, who once, and in which order
    assert drawn.mean(0) == pytest.approx(3 / 8, abs=0.03)


def test_the_order_of_the_patients_does_not_matter() -> None:
    """The patients of a group need not be neighbours."""
    labels, groups = [1, 0, 0, 1, 0, 0], list("abcabc")
    for row in shuffles(labels, groups, 100):
        assert (row[:3] == row[3:]).all() and row.sum() == 2


def test_groups_of_one_class_stay_of_one_class_whatever_their_size() -> None:
    groups = [name for name, size in zip("abcdef", (1, 2, 3, 4, 5, 6), strict=True) for _ in range(size)]
    labels = [int(name in "ace") for name in groups]
    drawn = shuffles(labels, groups)
    of_group = [drawn[:, [place for place, group in enumerate(groups) if group == name]] for name in "abcdef"]
    assert all((part == part[:, :1]).all() for part in of_group)
    assert (sum(part[:, 0] for part in of_group) == 3).all()  # the number of positive groups stays
    for part in of_group:  # neither the size nor the own label predicts the shuffled label
        assert part[:, 0].mean() == pytest.approx(0.5, abs=0.03)


def test_nothing_predicts_the_shuffled_label_of_groups_of_both_classes() -> None:
    """Hospitals of different size and prevalence: every patient has the mean label of the groups."""
    sizes, positives = {"a": 10, "b": 20, "c": 40}, {"a": 9, "b": 10, "c": 4}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    labels = [int(number < positives[name]) for name, size in sizes.items() for number in range(size)]
    means = shuffles(labels, groups, 20_000).mean(0)
    assert means == pytest.approx((0.9 + 0.5 + 0.1) / 3, abs=0.02)
