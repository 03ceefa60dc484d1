"""The choice between the defaults and the other trials, from the trials' stored out-of-fold logits."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.splits import Split
from mil_toolkit.search.trials import FinishedTrial, encode_logits
from mil_toolkit.study.plan import Search
from mil_toolkit.study.selection import HeldOut, best_or_defaults
from mil_toolkit.training.patients import Patients

LABELS = np.arange(120) % 3 // 2  # 80 negatives, 40 positives
SIGNS = 2 * LABELS - 1
HELD_OUT = HeldOut(LABELS, np.arange(120) % 5)
RANDOM = np.random.default_rng(0)
SHARED = RANDOM.normal(size=120)
EQUAL = [SIGNS + 2 * SHARED + 0.5 * RANDOM.normal(size=120) for _ in range(12)]
BETTER = EQUAL[0] + 3 * SIGNS * RANDOM.random(120)


def trial(number: int, logits: np.ndarray, objective: str, state: str = "COMPLETE") -> FinishedTrial:
    value = float(METRICS[objective].of(HELD_OUT.predicted(logits), np.ones(120)))
    return FinishedTrial(number, state, value, {}, 3, None, None, encode_logits(logits))


def chosen(
    logits: Sequence[np.ndarray],
    objective: str = "balanced_log_loss",
    pruned: Sequence[int] = (),
    held_out: HeldOut = HELD_OUT,
) -> tuple[int, object]:
    """Return the number of the chosen trial, and the trial that was passed over."""
    states = ["PRUNED" if number in pruned else "COMPLETE" for number in range(len(logits))]
    trials = [trial(number, row, objective, states[number]) for number, row in enumerate(logits)]
    pick = max if METRICS[objective].higher_is_better else min
    best = pick((each for each in trials if each.complete), key=lambda each: each.value or 0.0)
    result, passed_over = best_or_defaults(trials, best, objective, held_out)
    return result.number, passed_over


@pytest.mark.parametrize("objective", ["balanced_log_loss", "auc", "brier"])
def test_a_clearly_better_trial_replaces_the_defaults_and_equal_ones_do_not(objective: str) -> None:
    assert chosen([*EQUAL, BETTER], objective) == (12, None)
    number, passed_over = chosen(EQUAL, objective)
    assert number == 0
    assert passed_over is None or passed_over.lead <= passed_over.critical * passed_over.error  # type: ignore


def test_the_record_of_the_passed_over_trial_has_its_lead() -> None:
    values = [trial(0, row, "balanced_log_loss").value or 0.0 for row in EQUAL[1:3]]
    order = [0, 1] if values[1] < values[0] else [1, 0]
    number, passed_over = chosen([EQUAL[1:3][place] for place in order])
    assert number == 0 and passed_over is not None
    assert (passed_over.trial, passed_over.trials) == (1, 1)  # type: ignore[attr-defined]
    assert passed_over.lead == pytest.approx(abs(values[0] - values[1]))  # type: ignore[attr-defined]


def test_the_best_trial_that_surpasses_is_chosen_where_a_better_one_may_be_chance() -> None:
    """The trial with the best value owes its lead to a few patients."""
    few = EQUAL[0].copy()
    worst = np.argsort(SIGNS * EQUAL[0])[:2]
    few[worst] = 9 * SIGNS[worst]
    slightly = EQUAL[0] + 0.1 * SIGNS
    assert chosen([EQUAL[0], few, slightly])[0] == 2
    losses = [trial(0, row, "balanced_log_loss").value or 0.0 for row in (few, slightly)]
    assert losses[0] < losses[1]


def test_a_pruned_trial_is_never_chosen_and_counts_among_the_compared() -> None:
    assert chosen([EQUAL[0], BETTER, EQUAL[1]], pruned=[1])[0] == 0
    alone, among = (
        chosen([EQUAL[0], *rest], pruned=pruned)[1]
        for rest, pruned in (
            ([EQUAL[3]], ()),
            ([EQUAL[3], *EQUAL[4:12]], range(2, 10)),
        )
    )
    if alone is not None and among is not None:
        assert among.critical > alone.critical  # type: ignore[attr-defined]
        assert among.trials == 9  # type: ignore[attr-defined]


def test_the_best_of_equals_is_the_defaults() -> None:
    assert chosen([EQUAL[0], EQUAL[0]]) == (0, None)


def test_trials_without_logits_are_not_compared() -> None:
    trials = [trial(number, row, "auc") for number, row in enumerate((EQUAL[0], BETTER, EQUAL[1]))]
    lost = replace(trials[2], state="FAIL", value=None, epoch=None, logits_text=None)
    assert best_or_defaults([*trials[:2], lost], trials[1], "auc", HELD_OUT) == (trials[1], None)
    older = replace(trials[0], logits_text=None)
    kept, passed_over = best_or_defaults([older, *trials[1:]], trials[1], "auc", HELD_OUT)
    assert kept == older and passed_over is not None and passed_over.lead is None


def test_groups_are_resampled_together() -> None:
    """A lead that rests on copies of a few patients is not evidence."""
    first, change = EQUAL[0][:24], np.where(np.arange(24) % 3 == 0, -0.8, 0.6) * SIGNS[:24]
    logits = [np.tile(row, 5) for row in (first, first + change)]
    patients = HeldOut(np.tile(LABELS[:24], 5), np.arange(120) % 5)
    groups = replace(patients, groups=np.tile(np.arange(24), 5).astype(str))
    trials = [
        FinishedTrial(number, "COMPLETE", 1.0 - number / 2, {}, 3, None, None, encode_logits(row))
        for number, row in enumerate(logits)
    ]
    naive, honest = (
        best_or_defaults(trials, trials[1], "balanced_log_loss", held_out)[0].number
        for held_out in (patients, groups)
    )
    assert (naive, honest) == (1, 0)


def test_held_out_patients_are_those_of_the_inner_folds_with_their_groups(
    make_patients: object,
) -> None:
    patients: Patients = make_patients(10, images=False)  # type: ignore[operator]
    grouped = replace(patients, groups=np.array([f"g{number // 2}" for number in range(10)]))
    members = np.array([1, 2, 4, 7, 8, 9])  # of the search
    inner = [Split(np.array([1, 2, 3, 4, 5]), np.array([0])), Split(np.array([0, 1, 3, 4, 5]), np.array([2]))]
    search = Search((1, 1), members, np.array([0, 3]), inner)
    held_out = HeldOut.of(search, grouped)
    assert held_out.labels.tolist() == grouped.labels[[1, 4]].tolist()
    assert held_out.folds.tolist() == [0, 1]
    assert held_out.groups is not None and held_out.groups.tolist() == ["g0", "g2"]
    assert HeldOut.of(search, patients).groups is None
