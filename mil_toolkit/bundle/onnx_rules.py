"""Decision rules of all kinds of outcome in torch, for the export to ONNX."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mil_toolkit.core.records import Json
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.class_calibration import SoftmaxDecision
from mil_toolkit.evaluation.discrete_time import survival_at
from mil_toolkit.evaluation.survival_metrics import grid_of
from mil_toolkit.outcomes.number import LARGEST_EXPONENT, LOG, NumberRule
from mil_toolkit.outcomes.outcome import DecisionRule, Outcome
from mil_toolkit.outcomes.survival import SurvivalRule
from mil_toolkit.training.class_losses import ordered_log_probabilities


class TorchRule(Protocol):
    """A decision rule in torch; see `DecisionRule`."""

    def values(self, outputs: Tensor) -> Tensor:
        """Return the predicted values (n, V) from outputs (n,) or (n, C) of the head."""
        ...

    def decisions(self, values: Tensor) -> Tensor | None:
        """Return the decisions (n,) int64 from values (n, V); None if nothing is decided."""
        ...

    def intervals(self, values: Tensor) -> list[Tensor]:
        """Return the columns (n,) of `DecisionRule.intervals`."""
        ...

    @property
    def properties(self) -> Mapping[str, Json]:
        """The entries of the rule in the metadata of the ONNX file."""
        ...


class TwoClasses(TorchRule):
    """Calibration and threshold of two classes."""

    def __init__(self, rule: Decision):
        self.rule = rule

    def values(self, outputs: Tensor) -> Tensor:
        """Return the probability of the positive class, (n, 1)."""
        return torch.sigmoid(self.rule.slope * outputs + self.rule.intercept)[:, None]

    def decisions(self, values: Tensor) -> Tensor:
        """Return 1 at or above the threshold, else 0."""
        return (values[:, 0] >= self.rule.threshold).long()

    def intervals(self, values: Tensor) -> list[Tensor]:
        """Return no columns."""
        return []

    @property
    def properties(self) -> Mapping[str, Json]:
        """The threshold."""
        return {"threshold": self.rule.threshold}


class SeveralClasses(TorchRule):
    """Calibration and priors of classes."""

    def __init__(self, rule: SoftmaxDecision):
        self.rule = rule
        self.biases, self.priors = torch.tensor(rule.biases), torch.tensor(rule.priors)

    def values(self, outputs: Tensor) -> Tensor:
        """Return the probabilities (n, C)."""
        return torch.softmax(self.rule.slope * self.logits(outputs) + self.biases, dim=-1)

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the logits of the classes, (n, C): the outputs themselves."""
        return outputs

    def decisions(self, values: Tensor) -> Tensor:
        """Return the class whose probability is the largest multiple of its prior, the last of several."""
        return len(self.priors) - 1 - (values / self.priors).flip(-1).argmax(-1)

    def intervals(self, values: Tensor) -> list[Tensor]:
        """Return no columns."""
        return []

    @property
    def properties(self) -> Mapping[str, Json]:
        """The priors."""
        return {"priors": list(self.rule.priors)}


class OrderedClasses(SeveralClasses):
    """Calibration and priors of ordered classes."""

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the log-probabilities of the classes (n, C) from outputs (n, C - 1)."""
        return ordered_log_probabilities(outputs)


class Numbers(TorchRule):
    """Recalibration and prediction interval of a number; in float64, since its unit may have any scale."""

    def __init__(self, rule: NumberRule, unit: str | None):
        self.rule, self.unit, self.logarithm = rule, unit, rule.transform == LOG

    def values(self, outputs: Tensor) -> Tensor:
        """Return the number in its unit, (n, 1)."""
        return self._in_unit(self.rule.slope * outputs.double() + self.rule.intercept)[:, None]

    def decisions(self, values: Tensor) -> None:
        """Return None."""

    def intervals(self, values: Tensor) -> list[Tensor]:
        """Return the ends of the prediction interval, NaN where the patients were too few for one."""
        margin = torch.nan if self.rule.margin is None else self.rule.margin
        centres = values[:, 0].log() if self.logarithm else values[:, 0]
        return [self._in_unit(centres - margin), self._in_unit(centres + margin)]

    def _in_unit(self, values: Tensor) -> Tensor:
        return values.clamp(max=LARGEST_EXPONENT).exp() if self.logarithm else values

    @property
    def properties(self) -> Mapping[str, Json]:
        """The unit, None if none is declared."""
        return {"unit": self.unit}


class Hazards(TorchRule):
    """Calibration of hazards, and the risk and the survival that follow from them."""

    def __init__(self, rule: SurvivalRule):
        self.rule = rule
        grid, cuts = grid_of(rule.horizon), np.array(rule.cuts)
        # Interpolation in time is linear in the survival at the cut points.
        start = survival_at(grid, cuts, np.zeros(len(cuts)))  # (G,)
        shares = survival_at(grid, cuts, np.eye(len(cuts))) - start  # (T, G)
        self.start, self.shares = torch.tensor(start).float(), torch.tensor(shares).float()

    def values(self, outputs: Tensor) -> Tensor:
        """Return the risk at the horizon and the survival at the times of the grid, (n, 1 + G)."""
        hazards = self.rule.slope * outputs[:, : len(self.rule.cuts)] + self.rule.intercept
        at_cuts = torch.exp(-functional.softplus(hazards).cumsum(-1))
        survival = self.start + at_cuts @ self.shares
        return torch.cat([1 - survival[:, -1:], survival], dim=-1)

    def decisions(self, values: Tensor) -> None:
        """Return None."""

    def intervals(self, values: Tensor) -> list[Tensor]:
        """Return no columns."""
        return []

    @property
    def properties(self) -> Mapping[str, Json]:
        """The horizon."""
        return {"horizon": self.rule.horizon}


def torch_rule(rule: DecisionRule, outcome: Outcome) -> TorchRule:
    """Return a decision rule in torch; outcome: the one that the rule belongs to."""
    return TORCH_RULES[outcome.kind](rule, outcome)


TORCH_RULES: dict[str, Callable[..., TorchRule]] = {
    "binary": lambda rule, _: TwoClasses(rule),
    "ordered": lambda rule, _: OrderedClasses(rule),
    "classes": lambda rule, _: SeveralClasses(rule),
    "number": lambda rule, outcome: Numbers(rule, outcome.unit),
    "survival": lambda rule, _: Hazards(rule),
}
"""The decision rules in torch by kind of outcome."""
