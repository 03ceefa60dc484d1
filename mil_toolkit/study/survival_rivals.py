"""Regressions of survival for the baselines: Cox, and logistic regression of the hazards."""

import warnings

import numpy as np

from mil_toolkit.core.errors import import_extra
from mil_toolkit.evaluation.survival_curves import StepCurve
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.outcomes.survival import FittedSurvival, hazard_regression

_LEAST = 1e-6  # hazard whose logit is taken


def linear_hazards(
    x: np.ndarray, targets: np.ndarray, outcome: Outcome, others: np.ndarray, strength: float
) -> np.ndarray:
    """Return the logits of the hazards by logistic regression, (m, outputs); see `hazard_regression`."""
    start = hazard_regression(x, targets, FittedSurvival.of(outcome), strength)
    return np.asarray(others @ start[:-1] + start[-1])


def cox(
    x: np.ndarray, targets: np.ndarray, outcome: Outcome, others: np.ndarray, strength: float
) -> np.ndarray:
    """Return the logits of the hazards by Cox regression with a ridge penalty, (m, outputs).

    The survival at the cut points, by Breslow's estimate of the baseline hazard, gives the hazard of each
    interval. Raises UsageError without scikit-survival.
    """
    cuts = np.array(FittedSurvival.of(outcome).cuts)
    linear_model = import_extra("sksurv.linear_model", "survival", "Cox regression")
    times = np.array(list(zip(targets[:, 1] == 1, targets[:, 0], strict=True)), dtype="?,f8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that are halved
        regression = linear_model.CoxPHSurvivalAnalysis(alpha=1 / strength).fit(x, times)
    baseline = regression.cum_baseline_hazard_
    hazards = -np.log(StepCurve(baseline.x, np.exp(-baseline.y)).at(cuts))
    survival = np.exp(-np.exp(regression.predict(others))[:, None] * hazards)
    return _logits(survival, outcome.outputs)


def _logits(survival: np.ndarray, outputs: int) -> np.ndarray:
    """Return the logits of the hazards from the survival (m, T) at the cut points, (m, outputs)."""
    before = np.concatenate([np.ones((len(survival), 1)), survival[:, :-1]], axis=1)
    hazard = np.clip(1 - survival / np.where(before > 0, before, 1), _LEAST, 1 - _LEAST)
    logits = np.zeros((len(survival), outputs))
    logits[:, : survival.shape[1]] = np.log(hazard) - np.log1p(-hazard)
    return logits
