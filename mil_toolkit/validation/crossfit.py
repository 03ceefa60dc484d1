"""Cross-fitting: each patient is predicted by a rule that was refitted on the other folds' patients only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mil_toolkit.bundle.records import STEP_WORDS, Step
from mil_toolkit.core.errors import DataError
from mil_toolkit.evaluation.scoring import Predictions
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.validation.refits import FEWEST, REFITS, Labelled, Setting

FOLDS = 10


def folds_of(names: Sequence[str]) -> np.ndarray:
    """Return the fold of each patient, (n,) from 0; names: of the patients or, where declared, their groups.

    Patients of one group share a fold. Folds are drawn with a fixed seed and never look at the outcome:
    nothing that is fitted for a patient depends on the patient's own.

    >>> len(set(folds_of(["A", "B", "A", "C"]).tolist()))
    3
    """
    units = np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]
    count = int(units.max()) + 1
    order = np.random.default_rng(0).permutation(count)
    return np.asarray((order % min(FOLDS, count))[units])


@dataclass(frozen=True)
class CrossFit:
    """Refits of a rule on some patients; kind: of the outcome; folds: (n,), see `folds_of`."""

    kind: str
    rule: DecisionRule
    data: Labelled
    setting: Setting
    folds: np.ndarray

    def refitted(self, steps: Sequence[Step], places: np.ndarray | None = None) -> DecisionRule:
        """Return the rule after these steps, one after the other, on the patients at these places (or all).

        Raises DataError where the patients are too few for the study's threshold rule.
        """
        data, rule = self.data if places is None else self.data.take(places), self.rule
        for step in steps:
            rule = REFITS[self.kind].steps[step](rule, data, self.setting)
        return rule

    def predictions(self, steps: Sequence[Step]) -> Predictions:
        """Return the predictions of all patients, each by the rule of the other folds."""
        start = self.rule.predict(self.data.outputs)
        values, decisions = start.values.copy(), start.decisions.copy()
        for fold in np.unique(self.folds):
            held_out = self.folds == fold
            part = self.refitted(steps, ~held_out).predict(self.data.outputs[held_out])
            values[held_out], decisions[held_out] = part.values, part.decisions
        return Predictions(values, decisions)

    def obstacle(self, steps: Sequence[Step]) -> str | None:
        """Return why these steps cannot be cross-fitted, a sentence; None if they can."""
        reasons = (reason for step in steps for reason in self._obstacles(step))
        return next(reasons, None)

    def _obstacles(self, step: Step) -> Iterator[str]:
        refits, words = REFITS[self.kind], STEP_WORDS[step].capitalize()
        if step not in refits.steps:
            yield f"{words}: does not apply to the outcome {self.kind}, only to two classes."
            return
        if step == "prevalence":
            if self.setting.stated is None:
                yield f"{words}: no prevalence was stated (--prevalence)."
            elif self.setting.trained is None:
                yield f"{words}: the model was recalibrated before; for which prevalence is not known."
            return
        if self.folds.max() == 0:
            yield f"{words}: all patients are in one group, so that nothing can be cross-fitted."
            return
        training = [self.folds != fold for fold in np.unique(self.folds)]
        fewest = min(refits.smallest(self.data.targets[part], self.rule) for part in training)
        if fewest < FEWEST[step]:
            yield (
                f"{words}: without the held-out patients, {fewest} {refits.what} are left to fit it;"
                f" {FEWEST[step]} are needed."
            )
            return
        try:
            for part in training:
                self.refitted([step], part)
        except DataError as error:
            yield f"{words}: {error}"
