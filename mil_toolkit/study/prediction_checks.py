"""Checks of tables of predictions: whose they are, and whether they follow from the stored decision."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from mil_toolkit.core.text import count_of, printable, some
from mil_toolkit.evaluation.scoring import Scoring
from mil_toolkit.study.tables import ROW_COLUMNS

TOLERANCE = 1e-6  # of probabilities and scores that are computed again, perhaps on another machine
Target: TypeAlias = tuple[float, ...]  # of a patient, a number for each of `Scoring.targets`
_GROUP = "group"  # optional column of all tables


@dataclass(frozen=True)
class Expected:
    """What a table of predictions must contain.

    scoring: of the outcome
    repeat: in every row; folds: of each patient, who has one row; targets: of these and other patients
    constants: of the decision rule
    members: number of members, each with a column; None for out-of-fold predictions, which have no such
        columns
    """

    scoring: Scoring
    repeat: int
    folds: Mapping[str, int]
    targets: Mapping[str, Target]
    constants: Mapping[str, float]
    members: int | None = None

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        columns = prediction_columns(self.scoring)
        return columns if self.members is None else [*columns, *self.constants, *self.member_columns]

    @property
    def member_columns(self) -> list[str]:
        """The names of the columns of the members."""
        numbers = range(1, (self.members or 0) + 1)
        return [name for number in numbers for name in self.scoring.member_names(number)]


def prediction_columns(scoring: Scoring) -> list[str]:
    """Return the columns that all tables of predictions have."""
    return [*ROW_COLUMNS, *scoring.columns]


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
    for place, name in enumerate(expected.scoring.targets):
        targets = {patient: target[place] for patient, target in expected.targets.items()}
        yield from _different(table[known], name, table["patient_id"].map(targets)[known])


def _value_problems(table: pd.DataFrame, expected: Expected) -> Iterator[str]:
    """Yield whether values are out of bounds, or the decisions are not those of the decision rule."""
    scoring, constants = expected.scoring, {}
    checked = [
        name
        for name in expected.columns[len(ROW_COLUMNS) + len(scoring.targets) :]
        if name not in expected.constants
    ]
    outside = list(value_problems(table, checked, scoring))
    yield from outside
    for name, number in expected.constants.items():
        constants[name] = np.full(len(table), number)
        if name in expected.columns:
            yield from _different(table, name, pd.Series(number, table.index))
    if scoring.decision is not None:
        values = scoring.values_of({name: table[name].to_numpy() for name in scoring.values})
        decided = scoring.decide(values, constants).astype(int)
        yield from _different(table, scoring.decision, pd.Series(decided, table.index))
    if expected.members is not None and not outside:
        yield from _mean_problems(table, expected)


def value_problems(table: pd.DataFrame, columns: Sequence[str], scoring: Scoring) -> Iterator[str]:
    """Yield which of some columns have values or decisions that are out of bounds."""
    for name in columns:
        low, high = scoring.bounds
        if name == scoring.decision:
            low, high = min(scoring.decisions), max(scoring.decisions)
        outside = ~table[name].between(low, high)
        if outside.any():
            yield f"{name} is not between {low:g} and {high:g} in row {_first(outside)}."


def _mean_problems(table: pd.DataFrame, expected: Expected) -> Iterator[str]:
    """Yield whether a value is not that of the members' mean logit."""
    scoring = expected.scoring
    if scoring.pooled is None:
        return
    members = np.asarray(table[expected.member_columns]).T.reshape(expected.members or 0, -1, len(table))
    values = members[:, 0] if len(scoring.values) == 1 else members.swapaxes(1, 2)
    means = scoring.pooled(values).reshape(len(table), -1)
    for name, mean in zip(scoring.values, means.T, strict=True):
        wrong = np.abs(mean - np.asarray(table[name])) > TOLERANCE  # false for NaN
        if wrong.any():
            yield f"{name} is not that of the members' mean logit {_rows(wrong)}."


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
