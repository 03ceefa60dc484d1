"""Read the tables that declare official folds, in the layouts in which they are published.

- One row for each patient, and in each repeat one fold in which the patient is tested.
- One row for each patient and one column for each fold, with `train`, `val` or `test` (Patho-Bench). With a
  column `slide_id` beside the patients, there is one row for each slide.
- One file for each fold with the columns `train`, `val` and `test`, which list patients, or hold `True` or
  `False` for the patient of the row (CLAM).
"""

import re
from collections.abc import Collection, Sequence

from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.fold_readers import (
    BOOLEANS,
    PARTS,
    TEST,
    FoldColumns,
    PatientLists,
    PatientMarks,
    Reader,
    Report,
    TestedPatients,
    WrittenFolds,
)
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TextTable, read_table
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.text import printable, some

ID_COLUMNS = ("patient", "patient_id", "case_id", "slide_id")  # besides the cohort's own
_SLIDES = "slide_id"
_LISTS = ("train", "val", "test")  # columns of a file that holds one fold
_ONE_FOLD = re.compile(r"(?:fold|split)[ _-]?(\d+)")
_FOLDS = ("fold", "split")
_LAYOUTS = (
    "the columns patient and fold (and repeat); or patient and one column for each fold, such as fold_0, with"
    " train, val or test; or, in one file for each fold, the columns train, val and test"
)


def read_fold_tables(
    declared: Declaration, names: Sequence[str], ignored: Collection[str], problems: Problems
) -> WrittenFolds | None:
    """Read the folds that these files declare; rows that cannot be read are reported.

    ignored: patients who need no folds; rows about them that cannot be read are passed over

    Returns None, with the reason added to `problems`, if a file cannot be read or has another layout.
    """
    written, readable = WrittenFolds(), True
    report = Report(problems, ignored, written.faulty)
    for name in names:
        table = read_table(declared.path(name), name, problems)
        reader = None if table is None else _reader(declared, table, len(names) > 1, report)
        if reader is None:
            readable = False
        else:
            written.folds.extend(reader.read())
    return written if readable else None


def _reader(declared: Declaration, table: TextTable, one_of_several: bool, report: Report) -> Reader | None:
    """Return the reader of a table's layout; None, which is reported, if there is none."""
    header = table.header
    id_column = next((name for name in (declared.cohort.id, *ID_COLUMNS) if header.count(name) == 1), None)
    ids = [] if id_column is None else list(map(normal_form, table.column(id_column) or []))
    lists = [name for name in _LISTS if header.count(name) == 1]
    if {"train", TEST} <= {*lists}:
        marked = [cell.lower() in BOOLEANS for name in lists for cell in table.column(name) or []]
        if not any(marked):
            return PatientLists(table, [], report, lists)
        ids = ids or list(map(normal_form, table.column("") or []))  # pandas leaves the index without a name
        return _with_ids(PatientMarks(table, ids, report, lists))
    if one_of_several:
        text = f"{table.name} is one of several files of folds, but lacks the columns train and test."
        report.problems.add(f"{text} Several files need one fold in each; other layouts need a single file.")
        return None
    numbered = [name for name in header if _ONE_FOLD.fullmatch(name) and header.count(name) == 1]
    singles = [name for name in _FOLDS if header.count(name) == 1]
    single = next(iter(singles), None)
    if other := next((name for name in singles[1:] if _names_parts(table, name)), None):
        both = f"{table.name} has both the columns {single} and {other}, which says train or test."
        report.problems.add(f"{both} Keep one of them.")
        return None
    if numbered or _names_parts(table, single):
        columns = sorted(numbered, key=_number_of_fold) or [str(single)]
        slides = id_column != _SLIDES and _SLIDES in header
        return _with_ids(FoldColumns(table, ids, report, columns, slides))
    if single:
        return _with_ids(TestedPatients(table, ids, report, single))
    columns_there = some([printable(repr(name)) for name in header])
    report.problems.add(
        f"{table.name} declares no folds: expected {_LAYOUTS}. It has the columns {columns_there}."
    )
    return None


def _names_parts(table: TextTable, column: str | None) -> bool:
    return column is not None and any(cell.lower() in PARTS for cell in table.column(column) or [])


def _number_of_fold(column: str) -> int:
    match = _ONE_FOLD.fullmatch(column)
    assert match is not None
    return int(match[1])


def _with_ids(reader: Reader) -> Reader | None:
    """Return the reader if its table names the patients of its rows; otherwise report it."""
    if reader.ids or not reader.table.rows:
        return reader
    columns = ", ".join(ID_COLUMNS)
    text = f"{reader.table.name} has no column of patients: one of {columns}, or the id of [cohort]."
    reader.report.problems.add(text)
    return None
