"""The max-T test over many candidates, and Holm's adjusted p-values."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from mil_toolkit.evaluation.metrics import METRICS, Predicted
from mil_toolkit.evaluation.multiplicity import FEWEST_UNITS, LEVEL, MaxT, Units, holm, max_t

LOSS = METRICS["balanced_log_loss"]
LABELS = np.arange(120) % 3 // 2  # 80 negatives, 40 positives


def predicted(logits: np.ndarray, labels: np.ndarray = LABELS) -> Predicted:
    probabilities = expit(logits)
    return Predicted(labels, probabilities, probabilities >= 0.5, np.arange(len(labels)) % 5)


def trials(count: int, seed: int = 0, labels: np.ndarray = LABELS) -> list[np.ndarray]:
    """Return logits of equally good trials that share a part of their errors."""
    random = np.random.default_rng(seed)
    shared, own = random.normal(size=len(labels)), random.normal(size=(count, len(labels)))
    return list(1.5 * (2 * labels - 1) + 1.5 * shared + 0.6 * own)


def compared(logits: list[np.ndarray], metric: str = "balanced_log_loss", **options: object) -> MaxT:
    reference, *candidates = [predicted(each) for each in logits]
    return max_t(METRICS[metric], reference, candidates, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["balanced_log_loss", "auc", "brier", "balanced_accuracy"])
def test_a_lead_is_positive_where_the_candidate_is_better(metric: str) -> None:
    plain = trials(1)[0]
    better, worse = plain + 1.5 * (2 * LABELS - 1), plain - 1.5 * (2 * LABELS - 1)
    result = compared([plain, better, worse], metric)
    one, other = (METRICS[metric].of(predicted(each), np.ones(120)) for each in (better, plain))
    assert result.leads[0] == pytest.approx(abs(one - other))
    assert result.leads[0] > 0 > result.leads[1]
    assert result.surpasses.tolist() == [True, False]


def test_the_error_of_a_mean_of_losses_is_that_of_the_paired_differences() -> None:
    one, other = trials(2)
    losses = [-np.log(np.where(LABELS == 1, expit(each), expit(-each))) for each in (one, other)]
    difference = losses[0] - losses[1]
    parts = [difference[label == LABELS] for label in (0, 1)]
    error = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / 2
    result = compared([one, other])
    assert result.leads[0] == pytest.approx(
        difference[LABELS == 0].mean() / 2 + difference[LABELS == 1].mean() / 2
    )
    assert result.errors[0] == pytest.approx(error, rel=0.02)


def test_one_candidate_is_tested_one_sided() -> None:
    criticals = [compared(trials(2, seed)).critical for seed in range(5)]
    assert np.mean(criticals) == pytest.approx(norm.ppf(LEVEL), abs=0.12)
    wide = compared(trials(2), level=0.99)
    assert wide.critical > compared(trials(2)).critical


def test_more_candidates_need_a_larger_lead_and_copies_of_one_do_not() -> None:
    logits = trials(40)
    few, many = compared(logits[:3]), compared(logits)
    assert few.critical + 0.4 < many.critical < norm.ppf(1 - (1 - LEVEL) / 39) + 0.3  # below Bonferroni
    copies = compared([logits[0], *[logits[1]] * 39])
    assert copies.critical == pytest.approx(compared(logits[:2]).critical)


def test_poor_candidates_cost_no_power() -> None:
    logits = trials(3)
    poor = [logits[0] - (2 * LABELS - 1) * (3 + part) for part in np.linspace(0, 1, 40)]
    assert compared([*logits, *poor]).critical == pytest.approx(compared(logits).critical)


def test_equal_candidates_surpass_in_few_cases() -> None:
    replaced = [compared(trials(21, seed)).surpasses.any() for seed in range(120)]
    assert np.mean(replaced) < 0.1


def test_a_copy_of_the_reference_never_surpasses_it() -> None:
    plain = trials(1)[0]
    result = compared([plain, plain, plain.copy()])
    assert result.leads.tolist() == result.errors.tolist() == [0, 0]
    assert not result.surpasses.any() and np.isfinite(result.critical)


def test_an_undefined_candidate_does_not_disturb_the_others() -> None:
    logits = trials(5)
    nobody = np.full(120, -9.0)  # nobody is predicted positive: the PPV is undefined
    with_it, without = compared([*logits, nobody], "ppv"), compared(logits, "ppv")
    assert np.isnan(with_it.leads[-1]) and not with_it.surpasses[-1]
    assert with_it.critical == pytest.approx(without.critical)


def test_patients_entered_twice_count_once_where_they_share_a_group() -> None:
    once = trials(11)
    twice = [np.tile(each, 2) for each in once]
    labels, groups = np.tile(LABELS, 2), np.tile(np.arange(120), 2).astype(str)
    single = compared(once)
    reference, *candidates = [predicted(each, labels) for each in twice]
    grouped = max_t(LOSS, reference, candidates, groups)
    naive = max_t(LOSS, reference, candidates)
    np.testing.assert_allclose(grouped.errors, single.errors, rtol=0.01)
    np.testing.assert_allclose(naive.errors, single.errors / np.sqrt(2), rtol=0.02)
    assert grouped.critical == pytest.approx(single.critical, abs=0.15)


def test_groups_of_one_patient_are_patients() -> None:
    logits = trials(6)
    alone = np.array([f"{number:03d}" for number in range(120)])
    one, other = compared(logits), compared(logits, groups=alone)
    np.testing.assert_allclose(one.errors, other.errors)
    assert one.critical == pytest.approx(other.critical)


def test_groups_of_both_classes_are_drawn_as_a_whole() -> None:
    mixed = Units.of(np.array([1, 0, 1, 1]), np.array(["a", "a", "b", "b"]))
    assert mixed.places.tolist() == [0, 0, 1, 1] and mixed.strata.tolist() == [0, 0]


def test_too_few_patients_or_groups_show_nothing() -> None:
    logits = [trials(1)[0], trials(1)[0] + 3 * (2 * LABELS - 1)]
    groups = (np.arange(120) % (FEWEST_UNITS - 1)).astype(str)
    assert compared(logits).surpasses.all()
    few = compared(logits, groups=groups)
    assert few.critical == np.inf and not few.surpasses.any()


def test_the_result_is_reproducible() -> None:
    assert compared(trials(9)).critical == compared(trials(9)).critical


def test_holm_multiplies_by_the_number_of_hypotheses_left_and_never_decreases() -> None:
    p_values = {"a": 0.02, "b": 0.001, "c": 0.4, "d": 0.021, "e": None}
    assert holm(p_values) == pytest.approx({"a": 0.06, "b": 0.004, "c": 0.4, "d": 0.06, "e": None})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.03}) == {"a": 0.03} and holm({}) == {}
    assert list(holm(p_values)) == list(p_values)
