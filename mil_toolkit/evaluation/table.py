"""`Table`: predictions of the same patients in every repeat, and bootstrap draws of patients or groups.

A table of predictions has the columns `repeat`, `fold`, `patient_id`, `label`, `probability` and
`prediction`, and one row for each patient and repeat. Where groups are declared, it also has `group`, unless
folds of an older version lack it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mil_toolkit.evaluation.metrics import Metric, Predicted
from mil_toolkit.evaluation.scoring import BINARY, Scoring

DRAWS = 2000  # resamples of a band, and permutations of a test


@dataclass(frozen=True)
class Table:
    """Predictions of n patients in R repeats, as arrays in the order of the patients' ids.

    labels: (n,) of 0 and 1; folds, probabilities, decisions: (R, n)
    scoring: of the outcome; for others than two classes, see `Predicted` for the shapes
    prevalence: share of positives for the predictive values; None uses the share among the patients
    groups: (n,), patients of one group depend on each other; None: every patient is a group
    selected_from: number of patients of the table that these were selected from; None if they are all
    """

    patient_ids: tuple[str, ...]
    labels: np.ndarray
    folds: np.ndarray
    probabilities: np.ndarray
    decisions: np.ndarray
    prevalence: float | None = None
    groups: np.ndarray | None = None
    selected_from: int | None = None
    scoring: Scoring = BINARY

    @classmethod
    def of(
        cls, predictions: pd.DataFrame, prevalence: float | None = None, scoring: Scoring = BINARY
    ) -> "Table":
        """Convert a table of predictions, in which every repeat must have the same patients.

        >>> rows = {"repeat": [1, 1], "fold": [1, 2], "patient_id": ["P2", "P1"], "label": [0, 1],
        ...         "probability": [0.2, 0.7], "prediction": [0, 1]}
        >>> Table.of(pd.DataFrame(rows)).patient_ids
        ('P1', 'P2')
        """
        wide = predictions.pivot(index="repeat", columns="patient_id")
        ids = tuple(map(str, wide["fold"].columns))
        folds = wide["fold"].to_numpy()
        labels = scoring.targets_of({name: wide[name].to_numpy()[0] for name in scoring.targets})
        probabilities = scoring.values_of({name: wide[name].to_numpy() for name in scoring.values})
        decisions = np.zeros_like(folds)
        if scoring.decision is not None:
            decisions = scoring.decided(wide[scoring.decision].to_numpy())
        grouped = "group" in predictions and predictions["group"].notna().all()
        groups = wide["group"].to_numpy()[0].astype(str) if grouped else None
        return cls(ids, labels, folds, probabilities, decisions, prevalence, groups, scoring=scoring)

    def select(self, patient_ids: Sequence[str]) -> "Table":
        """Return the predictions of these patients only, in this order."""
        index = {patient: place for place, patient in enumerate(self.patient_ids)}
        places = [index[patient] for patient in patient_ids]
        return replace(
            self,
            patient_ids=tuple(patient_ids),
            labels=self.labels[places],
            folds=self.folds[:, places],
            probabilities=self.probabilities[:, places],
            decisions=self.decisions[:, places],
            groups=None if self.groups is None else self.groups[places],
            selected_from=self.cross_validated,
        )

    @property
    def cross_validated(self) -> int:
        """The number of patients on whom the models were trained and scored in turn."""
        return self.selected_from or len(self.labels)

    @property
    def strata(self) -> np.ndarray:
        """The stratum of each patient, (n,): the class, if there are classes."""
        return self.scoring.strata(self.labels)

    @property
    def one_model(self) -> bool:
        """Whether a single model made all predictions: they have one repeat and one fold."""
        return len(self.folds) == 1 and len(np.unique(self.folds)) == 1

    @property
    def units(self) -> np.ndarray:
        """The number of each patient's group, (n,) from 0; without groups, the number of the patient."""
        if self.groups is None:
            return np.arange(len(self.labels))
        return np.unique(self.groups, return_inverse=True)[1]

    @property
    def one_unit(self) -> bool:
        """Whether all patients are in one group, so that no variance over groups can be estimated."""
        return self.groups is not None and len(np.unique(self.groups)) < 2

    def repeats(self) -> Iterator[Predicted]:
        """Yield the predictions of each repeat."""
        for row in zip(self.probabilities, self.decisions, self.folds, strict=True):
            yield Predicted(self.labels, *row, self.prevalence)

    def fold_scores(self, repeat: int, metric: Metric) -> np.ndarray:
        """Return a metric in each fold of a repeat (by its place), (F,); NaN where a class is missing."""
        return np.array([self._fold_score(repeat, fold, metric) for fold in np.unique(self.folds[repeat])])

    def _fold_score(self, repeat: int, fold: float, metric: Metric) -> float:
        inside = self.folds[repeat] == fold
        labels = self.labels[inside]
        if not self.scoring.scorable(labels):
            return np.nan
        probabilities, decisions, folds = (
            rows[repeat][inside] for rows in (self.probabilities, self.decisions, self.folds)
        )
        return metric.value(Predicted(labels, probabilities, decisions, folds, self.prevalence))

    def scores(self, metric: Metric, weights: np.ndarray) -> np.ndarray:
        """Return a metric averaged over repeats, (draws,), given weights (draws, n) of the patients."""
        return np.mean([metric.of(predicted, weights) for predicted in self.repeats()], axis=0)

    def score(self, metric: Metric) -> float:
        """Return a metric averaged over repeats."""
        return float(self.scores(metric, np.ones((1, len(self.labels))))[0])


def draw_patients(
    labels: np.ndarray, seed: int = 0, draws: int = DRAWS, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return how often each patient is drawn in each bootstrap resample, (draws, n).

    labels: (n,), or the strata of an outcome without classes; groups: (n,), drawn as a whole; None draws
        patients

    The classes are resampled separately, so that each keeps its number of patients. Groups are resampled
    separately by the classes that they hold, so that no resample lacks a class.

    >>> draw_patients(np.array([1, 1, 0]), draws=4).sum(axis=1).tolist()
    [3.0, 3.0, 3.0, 3.0]
    >>> draw_patients(np.array([1, 1, 0]), draws=1, groups=np.array(["a", "a", "b"])).tolist()
    [[1.0, 1.0, 1.0]]
    """
    random = np.random.default_rng(seed)
    if groups is None:
        return _draw_within(labels, random, draws)
    names, units = np.unique(groups, return_inverse=True)
    held = [np.bincount(units[labels == label], minlength=len(names)) > 0 for label in np.unique(labels)]
    strata = sum(has * 2**place for place, has in enumerate(held))
    return _draw_within(np.asarray(strata), random, draws)[:, units]


def _draw_within(strata: np.ndarray, random: np.random.Generator, draws: int) -> np.ndarray:
    """Resample units (n,) separately in each stratum; return how often each is drawn, (draws, n)."""
    weights = np.zeros((draws, len(strata)))
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        weights[:, places] = random.multinomial(
            len(places), np.full(len(places), 1 / len(places)), size=draws
        )
    return weights
