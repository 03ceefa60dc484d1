"""`REFITS`: what of a decision rule can be refitted on another cohort, for each kind of outcome.

A refit returns a new decision rule and leaves the heads as they are. Slope and intercept are those of a
regression of the outcome on the predictor as it stands, its calibrated logit (Cox 1958; Steyerberg et al.
2004, "Validation and updating of predictive logistic regression models", methods 2 and 3).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import logit

from mil_toolkit.bundle.records import Step
from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.evaluation.calibration import (
    FEWEST_FOR_SLOPE,
    Decision,
    balanced,
    fit_calibration,
    fit_intercept,
    sensitive,
)
from mil_toolkit.evaluation.class_calibration import SoftmaxDecision, fit_biases, fit_class_calibration
from mil_toolkit.evaluation.decisions import sensitivity_to_reach
from mil_toolkit.evaluation.discrete_time import hazard_rows, to_intervals
from mil_toolkit.evaluation.number_calibration import (
    AffineCalibration,
    fit_affine,
    left_out_residuals,
    prediction_margin,
)
from mil_toolkit.outcomes.number import LOG, NumberRule
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.outcomes.survival import SurvivalRule

FEWEST: dict[Step, int] = {"intercept": 2, "slope": FEWEST_FOR_SLOPE, "prevalence": 0, "threshold": 2}
"""The fewest patients (of the smallest class; with events) on whom a step is fitted."""
_LEAST = 1e-300  # probability whose logarithm is taken


class Labelled(NamedTuple):
    """Patients on whom a rule is refitted.

    outputs: of the heads, averaged over members, (n,) or (n, C); targets: of the outcome
    groups: (n,), None if there are none
    """

    outputs: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None

    def take(self, places: np.ndarray) -> "Labelled":
        """Return the patients at these places, (m,) of numbers or (n,) bool."""
        groups = None if self.groups is None else self.groups[places]
        return Labelled(self.outputs[places], self.targets[places], groups)


@dataclass(frozen=True)
class Setting:
    """The facts that are known before any refit.

    stated: the prevalence at the new place, None if it was not stated
    trained: the share of positives among the patients that the model was fitted on; None without two classes
    threshold: the rule by which the study chose thresholds
    """

    stated: float | None
    trained: float | None
    threshold: ThresholdRule


Refit = Callable[[DecisionRule, Labelled, Setting], DecisionRule]


@dataclass(frozen=True)
class Refits:
    """The refits of a kind of outcome.

    steps: by name; smallest: counts what the steps need enough of; what: its name in messages
    """

    steps: Mapping[Step, Refit]
    smallest: Callable[[np.ndarray, DecisionRule], int]
    what: str


# Two classes.


def _binary_intercept(rule: DecisionRule, data: Labelled, setting: Setting) -> Decision:
    assert isinstance(rule, Decision)
    shift = fit_intercept(rule.slope * data.outputs + rule.intercept, data.targets)
    return replace(rule, intercept=rule.intercept + shift)


def _binary_slope(rule: DecisionRule, data: Labelled, setting: Setting) -> Decision:
    assert isinstance(rule, Decision)
    slope, intercept = fit_calibration(rule.slope * data.outputs + rule.intercept, data.targets)
    return replace(rule, slope=slope * rule.slope, intercept=slope * rule.intercept + intercept)


def _prevalence(rule: DecisionRule, data: Labelled, setting: Setting) -> Decision:
    """Shift the logit by the change of the prior odds (Saerens et al. 2002, eq. 2.4); no label is used."""
    assert isinstance(rule, Decision) and setting.stated is not None and setting.trained is not None
    return replace(rule, intercept=rule.intercept + float(logit(setting.stated) - logit(setting.trained)))


def _threshold(rule: DecisionRule, data: Labelled, setting: Setting) -> Decision:
    """Choose the threshold that reaches the study's sensitivity, else that of highest balanced accuracy.

    Other rules of a study rest on calibrated probabilities, which cannot be assumed at another place.
    """
    assert isinstance(rule, Decision)
    probabilities = rule.probabilities(data.outputs)
    reach = sensitivity_to_reach(setting.threshold, data.targets, data.groups)
    if reach is None:
        return replace(rule, threshold=balanced(probabilities, data.targets))
    return replace(rule, threshold=sensitive(probabilities, data.targets, reach))


def _smaller_class(targets: np.ndarray, rule: DecisionRule) -> int:
    return int(min((targets == 1).sum(), (targets == 0).sum()))


# Several classes, in order or not.


def _log_probabilities(rule: SoftmaxDecision, outputs: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(rule.probabilities(outputs), _LEAST))


def _composed(rule: SoftmaxDecision, slope: float, biases: np.ndarray) -> SoftmaxDecision:
    """Return softmax(slope * log p + biases) of the probabilities p of a rule."""
    moved = slope * np.array(rule.biases) + biases
    return replace(rule, slope=slope * rule.slope, biases=tuple((moved - moved.mean()).tolist()))


def _class_biases(rule: DecisionRule, data: Labelled, setting: Setting) -> SoftmaxDecision:
    assert isinstance(rule, SoftmaxDecision)
    return _composed(rule, 1.0, fit_biases(_log_probabilities(rule, data.outputs), data.targets))


def _class_slope(rule: DecisionRule, data: Labelled, setting: Setting) -> SoftmaxDecision:
    assert isinstance(rule, SoftmaxDecision)
    return _composed(rule, *fit_class_calibration(_log_probabilities(rule, data.outputs), data.targets))


def _smallest_class(targets: np.ndarray, rule: DecisionRule) -> int:
    assert isinstance(rule, SoftmaxDecision)
    return int(np.bincount(targets, minlength=len(rule.names)).min())


# A number, on the scale of its logarithm if the model has learned that.


def _scaled(rule: NumberRule, data: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and targets (n,) on the scale on which the rule is linear."""
    targets = np.log(data.targets) if rule.transform == LOG else data.targets.astype(float)
    return rule.slope * data.outputs + rule.intercept, targets


def _moved(rule: NumberRule, affine: AffineCalibration, residuals: np.ndarray) -> NumberRule:
    """Return a rule after a recalibration, with the margin of its left-out residuals (n,)."""
    margin = prediction_margin(residuals)
    return replace(
        rule,
        slope=affine.slope * rule.slope,
        intercept=affine.slope * rule.intercept + affine.intercept,
        margin=margin if np.isfinite(margin) else None,
    )


def _number_intercept(rule: DecisionRule, data: Labelled, setting: Setting) -> NumberRule:
    assert isinstance(rule, NumberRule)
    predicted, targets = _scaled(rule, data)
    residuals = targets - predicted
    left_out = (residuals - residuals.mean()) * len(residuals) / (len(residuals) - 1)
    return _moved(rule, AffineCalibration(1.0, float(residuals.mean())), left_out)


def _number_slope(rule: DecisionRule, data: Labelled, setting: Setting) -> NumberRule:
    assert isinstance(rule, NumberRule)
    predicted, targets = _scaled(rule, data)
    return _moved(rule, fit_affine(predicted, targets), left_out_residuals(predicted, targets))


def _patients(targets: np.ndarray, rule: DecisionRule) -> int:
    return len(targets)


# Survival: the hazards of the intervals up to the horizon.


def _hazards(rule: SurvivalRule, data: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Return the calibrated logit of each hazard up to the horizon, and whether the event happened."""
    intervals = to_intervals(data.targets[:, 0], data.targets[:, 1] == 1, np.array(rule.cuts))
    patient, interval, event = hazard_rows(intervals)
    early = interval <= rule.cuts.index(rule.horizon)
    logits = rule.slope * data.outputs[patient, interval] + rule.intercept
    return logits[early], event[early]


def _baseline(rule: DecisionRule, data: Labelled, setting: Setting) -> SurvivalRule:
    """Shift all hazards on the scale of their logits, as another baseline hazard does."""
    assert isinstance(rule, SurvivalRule)
    return replace(rule, intercept=rule.intercept + fit_intercept(*_hazards(rule, data)))


def _survival_slope(rule: DecisionRule, data: Labelled, setting: Setting) -> SurvivalRule:
    assert isinstance(rule, SurvivalRule)
    slope, intercept = fit_calibration(*_hazards(rule, data))
    return replace(rule, slope=slope * rule.slope, intercept=slope * rule.intercept + intercept)


def _events(targets: np.ndarray, rule: DecisionRule) -> int:
    assert isinstance(rule, SurvivalRule)
    return int(((targets[:, 1] == 1) & (targets[:, 0] <= rule.horizon)).sum())


_OF_CLASSES = Refits(
    {"intercept": _class_biases, "slope": _class_slope}, _smallest_class, "patients of the smallest class"
)
REFITS: dict[str, Refits] = {
    "binary": Refits(
        {
            "intercept": _binary_intercept,
            "slope": _binary_slope,
            "prevalence": _prevalence,
            "threshold": _threshold,
        },
        _smaller_class,
        "patients of the smaller class",
    ),
    "classes": _OF_CLASSES,
    "ordered": _OF_CLASSES,
    "number": Refits({"intercept": _number_intercept, "slope": _number_slope}, _patients, "patients"),
    "survival": Refits(
        {"intercept": _baseline, "slope": _survival_slope}, _events, "events up to the horizon"
    ),
}
"""The refits, by the kind of the outcome."""
