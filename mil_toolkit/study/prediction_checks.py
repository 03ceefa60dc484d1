"""Checks of tables of predictions: whose they are, and whether they follow from the stored decision."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from mil_toolkit.core.text import count_of, printable, some
from mil_toolkit.study.tables import PREDICTION_COLUMNS

TOLERANCE = 1e-6  # of probabilities and scores that are computed again, perhaps on another machine
_SATURATED = 1e-9  # probabilities nearer to 0 or 1 do not determine their logits
_GROUP = "group"  # optional column of all tables


@dataclass(frozen=True)
class Expected:
    """What a table of predictions must contain.

    repeat: in every row; folds: of each patient, who has one row; labels: of these and other patients
    threshold: decides whether a prediction is positive
    members: number of members, each with a column; None for out-of-fold predictions, which have no such
        columns
    """

    repeat: int
    folds: Mapping[str, int]
    labels: Mapping[str, int]
    threshold: float
    members: int | None = None

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        if self.members is None:
            return PREDICTION_COLUMNS
        return [*PREDICTION_COLUMNS, "threshold", *(f"member{number + 1}" for number in range(self.members))]


def prediction_problems(table: pd.DataFrame, expected: Expected) -> list[str]:
    """Return what is wrong with a table of predictions, a sentence each."""
    problems = [*column_problems(table, expected.columns)] or [*_row_problems(table, expected)]
    return problems or [*_value_problems(table, expected)]


def column_problems(table: pd.DataFrame, columns: Sequence[str]) -> Iterator[str]:
    """Yield whether a table has other columns."""
    names = [str(name) for name in table if name != _GROUP]
    missing = [name for name in columns if name not in names]
    unknown = [printable(name) for name in names if name not in columns]
    if missing:
        yield f"it lacks the columns {some(missing)}."
    if unknown:
        yield f"it has unknown columns: {some(unknown)}."


def _row_problems(table: pd.DataFrame, expected: Expected) -> Iterator[str]:
    """Yield whether the rows are those of other patients, repeats or folds."""
    rows = table["patient_id"].value_counts()
    for patients, fault in (
        (sorted(set(rows.index) - expected.folds.keys()), "has patients who are not held out here"),
        (sorted(expected.folds.keys() - set(rows.index)), "lacks patients who are held out here"),
        (sorted(rows.index[rows > 1]), "has several rows of the same patients"),
    ):
        if patients:
            yield f"it {fault}: {some([printable(patient) for patient in patients])}."
    folds = table["patient_id"].map(expected.folds)
    known = folds.notna()
    yield from _different(table[known], "fold", folds[known])
    yield from _different(table, "repeat", pd.Series(expected.repeat, table.index))
    labels = table["patient_id"].map(expected.labels)
    yield from _different(table[known], "label", labels[known])


def _value_problems(table: pd.DataFrame, expected: Expected) -> Iterator[str]:
    """Yield whether the values are no probabilities, or no decisions by the threshold."""
    outside = list(probability_problems(table, expected.columns[4:]))
    yield from outside
    if "threshold" in expected.columns:
        yield from _different(table, "threshold", pd.Series(expected.threshold, table.index))
    decided = (table["probability"] >= expected.threshold).astype(int)
    yield from _different(table, "prediction", decided)
    if expected.members is not None and not outside:
        yield from _mean_problems(table, expected.columns[len(PREDICTION_COLUMNS) + 1 :])


def probability_problems(table: pd.DataFrame, columns: Sequence[str]) -> Iterator[str]:
    """Yield which of some columns have values that are not between 0 and 1."""
    for name in columns:
        outside = ~table[name].between(0, 1)
        if outside.any():
            yield f"{name} is not between 0 and 1 in row {_first(outside)}."


def _mean_problems(table: pd.DataFrame, members: Sequence[str]) -> Iterator[str]:
    """Yield whether the probability is not that of the members' mean logit."""
    alone = np.asarray(table[members])
    determined = np.all((alone > _SATURATED) & (alone < 1 - _SATURATED), axis=1)
    means = expit(logit(np.where(determined[:, None], alone, 0.5)).mean(1))
    wrong = determined & (np.abs(means - np.asarray(table["probability"])) > TOLERANCE)
    if wrong.any():
        yield f"probability is not that of the members' mean logit {_rows(wrong)}."


def _different(table: pd.DataFrame, name: str, expected: pd.Series) -> Iterator[str]:
    """Yield whether a column has other values than expected."""
    wrong = table[name] != expected
    if wrong.any():
        place = int(np.argmax(wrong.to_numpy()))
        there, here = table[name].iloc[place], expected.iloc[place]
        patient = printable(table["patient_id"].iloc[place])
        yield f"{name} of patient {patient} is {there}, where {here:.6g} is expected{_others(wrong)}."


def _others(wrong: pd.Series) -> str:
    more = int(wrong.sum()) - 1
    return f" (and {count_of(more, 'other row')})" if more else ""


def _rows(wrong: np.ndarray) -> str:
    return f"in row {_first(wrong)}{_others(pd.Series(wrong))}"


def _first(wrong: np.ndarray | pd.Series) -> int:
    """Return the first row in which something is wrong, as a spreadsheet counts: the header is row 1."""
    return int(np.argmax(np.asarray(wrong))) + 2
