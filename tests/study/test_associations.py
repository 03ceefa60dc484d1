"""Tests of independence: they agree with exact tests and keep their level."""

import numpy as np
import pytest
from scipy.stats import fisher_exact, mannwhitneyu, permutation_test

from mil_toolkit.study.associations import (
    DRAWS,
    FISHER,
    PERMUTATION,
    Labelled,
    association_of_numbers,
    association_of_words,
)


def patients(positive: object, groups: object = None) -> Labelled:
    return Labelled(np.array(positive, dtype=bool), None if groups is None else np.array(groups))


def test_numbers_agree_with_the_exact_test_of_mann_and_whitney() -> None:
    random = np.random.default_rng(0)
    for shift in (0.0, 0.6, 1.2):
        positive = random.permutation(np.arange(18) < 8)
        values = random.normal(size=18) + shift * positive
        exact = mannwhitneyu(values[positive], values[~positive], method="exact").pvalue
        found = association_of_numbers(values, patients(positive))
        assert found.test == PERMUTATION
        assert found.p_value == pytest.approx(exact, rel=0.35, abs=3 / DRAWS)


def test_ties_count_as_half_a_win() -> None:
    positive = np.arange(12) < 6
    values = np.array([1, 1, 2, 2, 3, 3, 2, 2, 3, 3, 4, 4.0])

    def auc(one: np.ndarray, other: np.ndarray) -> float:
        return abs(np.mean(np.sign(one[:, None] - other[None])))

    exact = permutation_test((values[:6], values[6:]), auc, alternative="greater", n_resamples=np.inf).pvalue
    assert association_of_numbers(values, patients(positive)).p_value == pytest.approx(exact, rel=0.35)


def test_two_words_without_groups_have_the_exact_test_of_fisher() -> None:
    words = np.array(["a"] * 9 + ["b"] * 11)
    positive = [1] * 7 + [0] * 2 + [1] * 3 + [0] * 8
    found = association_of_words(words, patients(positive))
    assert found.test == FISHER
    assert found.p_value == pytest.approx(fisher_exact([[7, 3], [2, 8]]).pvalue)


def test_several_words_agree_with_the_exact_distribution_of_the_statistic() -> None:
    """Nine patients, three words: all 84 assignments of three positives are equally likely."""
    words = np.repeat(["a", "b", "c"], 3)
    # All three positives in one word, the largest statistic: 3 of 84. Two and one: 54 more. One each: 27.
    assert association_of_words(words, patients([1, 1, 1] + [0] * 6)).p_value == pytest.approx(
        3 / 84, rel=0.3
    )
    assert association_of_words(words, patients([1, 1, 0, 1] + [0] * 5)).p_value == pytest.approx(
        57 / 84, rel=0.3
    )
    assert association_of_words(words, patients([1, 0, 0] * 3)).p_value == 1


def test_groups_exchange_their_labels_as_a_whole() -> None:
    """Six pairs with one word and one label each: of the 20 ways to choose three positive pairs, two."""
    words, positive = np.repeat(["a", "b"], 6), np.repeat([1, 0], 6)
    pairs = np.repeat(np.arange(6), 2)
    assert association_of_words(words, patients(positive)).p_value < 0.003
    assert association_of_words(words, patients(positive, pairs)).p_value == pytest.approx(0.1, rel=0.3)
    numbers = np.arange(12.0)
    assert association_of_numbers(numbers, patients(positive, pairs)).p_value == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("test", [association_of_numbers, association_of_words])
def test_the_level_is_kept(test: object) -> None:
    random = np.random.default_rng(1)
    p_values = [
        test(random.integers(0, 6, 40).astype(float), patients(random.permutation(np.arange(40) < 15)))  # type: ignore[operator]
        for _ in range(400)
    ]
    for level in (0.05, 0.2, 0.5):
        share = np.mean([found.p_value <= level for found in p_values])
        assert share <= level + 3 * np.sqrt(level * (1 - level) / 400)
    assert np.mean([found.p_value <= 0.2 for found in p_values]) > 0.12  # and not merely by never rejecting
