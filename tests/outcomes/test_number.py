"""Numbers as an outcome: cohort.toml, bad cells, scales, recalibration, intervals and equal training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from support.cohort_files import problems, write

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.study import StudyConfig, ThresholdRule, for_outcome
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.evaluation.splits import leave_one_group_out, make_splits
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.layers import generators
from mil_toolkit.outcomes.number import Number, NumberRule, strata_of
from mil_toolkit.outcomes.outcome import OutcomeRow
from mil_toolkit.study.rivals import ridge
from mil_toolkit.training.losses import member_losses
from mil_toolkit.training.number_losses import huber_losses

RULE = ThresholdRule("share")
TOML = """\
[cohort]
name = "tiny"
table = "table.csv"
images = ["images"]
id = "ID"
target = "BLASTS"
"""


def cohort(folder: Path, cells: Sequence[str], keys: str = "") -> Path:
    table = "ID,BLASTS\n" + "".join(f"P{place},{cell}\n" for place, cell in enumerate(cells, 1))
    patients = " ".join(f"P{place}" for place in range(1, len(cells) + 1))
    return write(folder, table, TOML + keys, patients)


def parsed(*cells: str, **keys: str) -> tuple[list[float], list[str]]:
    outcome = Number("BLASTS", **keys)
    result = outcome.parse([OutcomeRow(f"row {n}", (cell,)) for n, cell in enumerate(cells, 2)], ".")
    return result.targets.tolist(), result.problems


# cohort.toml


def test_a_cohort_with_a_target_has_numbers_and_unknown_patients(tmp_path: Path) -> None:
    read = read_cohort(cohort(tmp_path, ["1.5", "?", "30"], 'unlabelled = "?"\nunit = "%"\n'))
    assert read.outcome == Number("BLASTS", unit="%", unlabelled="?")
    np.testing.assert_array_equal(read.labels, [1.5, np.nan, 30])
    assert [*read.labelled().patient_ids] == ["P1", "P3"]
    assert [*read.unlabelled().patient_ids] == ["P2"]


def test_rows_with_an_excluded_word_are_left_out(tmp_path: Path) -> None:
    read = read_cohort(cohort(tmp_path, ["1.5", "dry tap", "30"], 'exclude = "dry tap"\n'))
    assert read.labels.tolist() == [1.5, 30] and read.excluded == {"dry tap": 1}


def test_bad_targets_are_named_with_their_rows(tmp_path: Path) -> None:
    lines = problems(cohort(tmp_path, ["1.5", "many", "", "<5", '"3,5"', "7", "8", "9", "1e999"]))
    for row, cell in ((3, "many"), (5, "<5"), (6, "3,5"), (10, "1e999")):
        (line,) = [line for line in lines if f"row {row} " in line]
        assert repr(cell) in line and "BLASTS" in line
    assert any("row 4 " in line and "no target" in line and "unlabelled" in line for line in lines)
    assert any('decimal = ","' in line for line in lines)


def test_a_target_in_words_is_one_problem_with_advice(tmp_path: Path) -> None:
    lines = problems(cohort(tmp_path, ["low", "high"] * 5))
    assert len(lines) == 2
    assert "10 of 10 cells cannot be read" in lines[0]
    assert "declare it as label" in lines[1]


def test_the_logarithm_needs_targets_above_zero() -> None:
    values, (line, advice) = parsed("1", "0", "2", transform="log")
    assert values[0] == 1 and np.isnan(values[1])
    assert line == "row 3: BLASTS '0' is not above 0, so it has no logarithm."
    assert 'transform = "log"' in advice
    assert parsed("1", "0", "2") == ([1, 0, 2], [])


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ('transform = "sqrt"\n', "transform must be \"log\", not 'sqrt'"),
        ('label = "DX"\n', "label belongs to the outcome binary, but target declares the outcome number"),
        ('exclude = "x"\nunlabelled = "x"\n', "must differ"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path: Path, keys: str, reason: str) -> None:
    assert any(reason in line for line in problems(cohort(tmp_path, ["1", "2"], keys)))


def test_options_of_two_classes_are_refused() -> None:
    config = StudyConfig(sensitivity=0.9, prevalence=0.1, settings={"pooling": ("dsmil", "mean")})
    with pytest.raises(UsageError) as caught:
        for_outcome(config, "number")
    lines = str(caught.value).split("\n")
    assert len(lines) == 3 and "--sensitivity" in lines[0] and "dsmil" in lines[2]
    with pytest.raises(UsageError, match="--objective must be one of mae"):
        for_outcome(StudyConfig(objective="auc"), "number")


# Strata and splits


@given(st.lists(st.integers(0, 5), min_size=1, max_size=90))
def test_strata_are_ranges_of_equal_numbers_of_patients(targets: list[int]) -> None:
    strata = strata_of(np.array(targets, dtype=float))
    counts = np.bincount(strata)
    assert len(counts) == min(4, max(1, len(targets) // 10)) and counts.max() - counts.min() <= 1
    highest = [max(np.array(targets)[strata == number]) for number in range(len(counts))]
    assert highest == sorted(highest)


@pytest.mark.parametrize("folds", [2, 5, 20])
def test_every_fold_has_low_and_high_targets(folds: int) -> None:
    targets = np.random.default_rng(0).normal(size=40)
    splits, _ = make_splits(strata_of(targets), folds, 0, names={})
    assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(40))
    if folds <= 5:
        assert all(len(set(strata_of(targets)[split.test].tolist())) == 4 for split in splits)


def test_too_few_patients_or_groups_for_the_folds_are_an_error() -> None:
    with pytest.raises(DataError, match="the cohort has 4 patients, fewer than the 5 folds"):
        make_splits(np.zeros(4, dtype=int), 5, 0, names={})
    with pytest.raises(DataError, match="the cohort has 2 groups, fewer than the 3 folds"):
        make_splits(np.zeros(6, dtype=int), 3, 0, groups=np.array(list("aabbbb")), names={})


def test_a_group_may_be_held_out_whatever_the_targets_of_the_others() -> None:
    assert len(leave_one_group_out(np.zeros(4, dtype=int), np.array(list("aabb")), names={})) == 2


# Training


def test_training_targets_are_standardised_on_the_patients_of_the_search() -> None:
    targets = np.array([1.0, 10.0, 100.0])
    for transform, values in ((None, targets), ("log", np.log(targets))):
        outcome = Number("X", transform).fitted(targets)
        expected = (values - values.mean()) / values.std()
        np.testing.assert_allclose(outcome.training_targets(targets), expected, rtol=1e-6)
        again = outcome.predicted(expected, targets, np.zeros(3)).probabilities
        np.testing.assert_allclose(again, targets)
    assert Number("X").fitted(np.full(3, 7.0)).training_targets(np.full(3, 7.0)).tolist() == [0, 0, 0]


def test_members_in_lockstep_have_the_losses_and_gradients_that_they_have_alone() -> None:
    config = HeadConfig(image_branch=False, zero_start=False)
    x, targets = torch.randn(7, 3), torch.randn(7)

    def gradients(seeds: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model = MILModel(config, 0, 3, generators(seeds), outputs=1)
        logits = model(None, x.expand(len(seeds), -1, -1))
        losses = member_losses(logits, targets, torch.ones(len(seeds), 7), config, huber_losses)
        losses.sum().backward()
        return losses, [part.grad for part in model.parameters() if part.grad is not None]

    together, both = gradients([3, 4])
    for place, seed in enumerate([3, 4]):
        alone, own = gradients([seed])
        torch.testing.assert_close(together[place], alone[0])
        for shared, single in zip(both, own, strict=True):
            torch.testing.assert_close(shared[place], single[0])


def test_heads_start_at_a_ridge_regression() -> None:
    random = np.random.default_rng(0)
    x, targets = random.normal(size=(30, 2)), random.normal(size=30)
    outcome = Number("X").fitted(targets)
    expected = Ridge().fit(x, (targets - targets.mean()) / targets.std())
    start = outcome.linear_start(x, targets, balanced=True)
    np.testing.assert_allclose(start[:, 0], [*expected.coef_, expected.intercept_])
    baseline = ridge(x, targets, outcome, x, 1.0)
    np.testing.assert_allclose(baseline, x @ start[:2, 0] + start[2, 0], atol=1e-6)


# Decisions


@pytest.mark.parametrize("transform", [None, "log"])
def test_the_rule_recalibrates_and_its_interval_holds_most_patients(transform: str | None) -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(size=200)
    values = 0.5 * outputs + 2 + random.normal(size=200) / 4
    targets = np.exp(values) if transform else values
    rule = Number("X", transform).fitted(targets).decide(outputs, targets, RULE, None)
    np.testing.assert_allclose([rule.slope, rule.intercept], np.polyfit(outputs, values, 1))
    predicted = rule.predict(outputs).values
    low, high = rule.intervals(predicted).values()
    assert 0.93 < ((low <= targets) & (targets <= high)).mean() < 0.97
    np.testing.assert_allclose(
        np.log(predicted) if transform else predicted, rule.slope * outputs + rule.intercept
    )
    assert (low < predicted).all() and (predicted < high).all()


def test_few_patients_give_no_interval() -> None:
    targets = np.arange(18.0)
    rule = Number("X").fitted(targets).decide(targets, targets, RULE, None)
    assert rule.margin is None
    assert all(np.isnan(end).all() for end in rule.intervals(np.arange(3.0)).values())


def test_members_pool_to_the_prediction_of_their_mean_output() -> None:
    outputs = np.random.default_rng(0).normal(size=(3, 5))
    for transform in (None, "log"):
        rule = NumberRule(2.0, 1.0, None, transform)
        pooled = Number("X", transform).scoring.pooled
        assert pooled is not None
        np.testing.assert_allclose(pooled(rule.predict(outputs).values), rule.predict(outputs.mean(0)).values)


def test_an_enormous_output_stays_finite() -> None:
    assert np.isfinite(NumberRule(1.0, 0.0, 1.0, "log").predict(np.array([1e6])).values).all()
