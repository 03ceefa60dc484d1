"""Cross-fitting: nothing that is fitted for a patient depends on the patient's own outcome or group."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import expit

from mil_toolkit.bundle.records import Step
from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.validation.crossfit import FOLDS, CrossFit, folds_of
from mil_toolkit.validation.refits import Labelled, Setting

RULE = Decision(slope=1.0, intercept=0.0, threshold=0.5)
SETTING = Setting(0.3, 0.5, ThresholdRule("share", None, None))


def fitted(count: int = 120, groups: bool = False, labels: np.ndarray | None = None) -> CrossFit:
    random = np.random.default_rng(0)
    outputs = random.normal(0, 1, count)
    drawn = (random.random(count) < expit(outputs + 0.5)).astype(int)
    names = np.array([f"G{place // 3}" for place in range(count)]) if groups else None
    ids = [f"P{place}" for place in range(count)] if names is None else names.tolist()
    data = Labelled(outputs, drawn if labels is None else labels, names)
    return CrossFit("binary", RULE, data, SETTING, folds_of(ids))


@pytest.mark.parametrize("steps", [("intercept",), ("slope",), ("threshold",), ("slope", "threshold")])
@pytest.mark.parametrize("groups", [False, True])
def test_a_patients_own_outcome_changes_nothing_for_the_patients_fold(
    steps: Sequence[Step], groups: bool
) -> None:
    before = fitted(groups=groups)
    for place in (0, 7, 55, 119):
        labels = before.data.targets.copy()
        labels[place] = 1 - labels[place]
        after, fold = fitted(groups=groups, labels=labels), before.folds == before.folds[place]
        one, other = before.predictions(steps), after.predictions(steps)
        assert np.array_equal(one.values[fold], other.values[fold])
        assert np.array_equal(one.decisions[fold], other.decisions[fold])
        if steps != ("threshold",):
            assert not np.array_equal(one.values[~fold], other.values[~fold])


def test_a_fold_is_predicted_by_the_rule_of_all_others() -> None:
    fit = fitted()
    found = fit.predictions(("intercept",)).values
    for fold in range(FOLDS):
        inside = fit.folds == fold
        rule = fit.refitted(("intercept",), ~inside)
        assert np.array_equal(found[inside], rule.predict(fit.data.outputs[inside]).values)


def test_groups_share_a_fold_whatever_the_order_of_the_patients() -> None:
    names = [f"G{place % 17}" for place in range(60)]
    folds = folds_of(names)
    assert len(set(zip(names, folds.tolist(), strict=True))) == 17 and set(folds) == set(range(FOLDS))
    order = np.random.default_rng(1).permutation(60)
    assert np.array_equal(folds_of([names[place] for place in order]), folds[order])


def test_steps_follow_each_other() -> None:
    fit = fitted()
    both = fit.refitted(("slope", "threshold"))
    alone = fit.refitted(("slope",))
    assert isinstance(both, Decision) and isinstance(alone, Decision)
    assert (both.slope, both.intercept) == (alone.slope, alone.intercept)
    assert both.threshold != alone.threshold == RULE.threshold


@pytest.mark.parametrize(
    ("fit", "steps", "words"),
    [
        (fitted(30), ("slope",), "20 are needed"),
        (fitted(120, labels=np.eye(1, 120, 3, dtype=int)[0]), ("intercept",), "0 patients of the smaller"),
        (
            CrossFit("binary", RULE, fitted().data, SETTING, np.zeros(120, dtype=int)),
            ("intercept",),
            "one group",
        ),
        (
            CrossFit("number", RULE, fitted().data, SETTING, fitted().folds),
            ("threshold",),
            "does not apply to the outcome number",
        ),
        (
            CrossFit("binary", RULE, fitted().data, Setting(None, 0.5, SETTING.threshold), fitted().folds),
            ("prevalence",),
            "--prevalence",
        ),
        (
            CrossFit("binary", RULE, fitted().data, Setting(0.3, None, SETTING.threshold), fitted().folds),
            ("prevalence",),
            "recalibrated before",
        ),
        (
            CrossFit(
                "binary",
                RULE,
                fitted().data,
                Setting(None, None, ThresholdRule("share", 0.99, 0.95)),
                fitted().folds,
            ),
            ("threshold",),
            "positive patients",
        ),
    ],
)
def test_what_cannot_be_cross_fitted_is_said(fit: CrossFit, steps: Sequence[Step], words: str) -> None:
    obstacle = fit.obstacle(steps)
    assert obstacle is not None and words in obstacle


def test_nothing_stands_in_the_way_of_enough_patients() -> None:
    assert fitted().obstacle(("intercept", "threshold")) is None
    assert fitted().obstacle(("slope",)) is None and fitted().obstacle(("prevalence",)) is None
