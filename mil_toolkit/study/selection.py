"""The choice between the defaults and the other trials of a search, from their out-of-fold predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.multiplicity import MaxT, max_t
from mil_toolkit.evaluation.records import PassedOver
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.search.trials import FinishedTrial
from mil_toolkit.study.plan import Search
from mil_toolkit.training.patients import Patients


@dataclass(frozen=True)
class HeldOut:
    """The n held-out patients of a search's inner folds, in the order of the trials' logits.

    labels: their targets; folds: (n,); groups: (n,), or None where no groups are declared
    outcome: what is predicted, fitted to the patients of the search
    """

    labels: np.ndarray
    folds: np.ndarray
    groups: np.ndarray | None = None
    outcome: Outcome = field(default_factory=Binary)

    @classmethod
    def of(cls, search: Search, patients: Patients) -> "HeldOut":
        """Return the held-out patients of a search; patients: all of the study."""
        folds = np.full(len(search.patients), -1)
        for fold, split in enumerate(search.inner):
            folds[split.test] = fold
        held_out = search.patients[folds >= 0]
        groups = None if patients.groups is None else patients.groups[held_out]
        outcome = patients.outcome.fitted(patients.labels[search.patients])
        return cls(patients.labels[held_out], folds[folds >= 0], groups, outcome)

    def predicted(self, logits: np.ndarray) -> Predicted:
        """Return predictions from a trial's logits, (n,) or flat (n * C,)."""
        shape = (len(self.labels), self.outcome.outputs) if self.outcome.outputs > 1 else (-1,)
        return self.outcome.predicted(logits.astype(float).reshape(shape), self.labels, self.folds)


def best_or_defaults(
    trials: Sequence[FinishedTrial], best: FinishedTrial, objective: str, held_out: HeldOut
) -> tuple[FinishedTrial, PassedOver | None]:
    """Return the best trial that surpasses the defaults; without one the defaults, and the trial passed over.

    trials: the defaults first, which are complete; best: the complete trial with the best value

    The best of many trials owes a part of its lead to chance. Therefore a trial replaces the defaults only
    where its lead is larger than the largest lead of all trials is likely to be by chance; see `max_t`.
    Pruned trials count too, since they could have become the best.
    """
    defaults, compared = trials[0], [trial for trial in trials[1:] if trial.logits is not None]
    if best.number == defaults.number:
        return defaults, None
    if defaults.logits is None or best.logits is None:  # the trials of an older version
        return defaults, PassedOver(best.number, None, None)
    metric = held_out.outcome.scoring.metrics[objective]
    predictions = [held_out.predicted(trial.logits) for trial in compared if trial.logits is not None]
    strata = held_out.outcome.scoring.strata(held_out.labels)
    test = max_t(metric, held_out.predicted(defaults.logits), predictions, held_out.groups, strata=strata)
    surpassing = [trial for trial, better in zip(compared, test.surpasses, strict=True) if better]
    complete = [trial for trial in surpassing if trial.complete]
    if complete:
        pick = max if metric.higher_is_better else min
        return pick(complete, key=lambda trial: trial.value or 0.0), None
    return defaults, _passed_over(best.number, [trial.number for trial in compared], test)


def _passed_over(number: int, compared: Sequence[int], test: MaxT) -> PassedOver:
    place = compared.index(number)
    lead, error = _finite(test.leads[place]), _finite(test.errors[place])
    return PassedOver(number, lead, error, _finite(test.critical), len(compared))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
