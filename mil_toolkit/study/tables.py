"""Tables of predictions and attention: building, publishing and reading them."""

import contextlib
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from pandas.errors import ParserWarning

from mil_toolkit.config.settings import head_config
from mil_toolkit.core.access import exists
from mil_toolkit.core.errors import DataError, Diverged, UsageError
from mil_toolkit.core.files import publish
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.core.text import SOME, count_of, printable, some
from mil_toolkit.evaluation.scoring import Predictions, Scoring
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.study.folder import outer_folders
from mil_toolkit.study.plan import Search
from mil_toolkit.training.patients import Patients

ATTENTION_COLUMNS = ["patient_id", "image", "attention"]  # then those of class-wise attention
_OF_CLASS = "attention:"  # then the name of the class
TRIAL_COLUMNS = ["number", "value", "state"]  # then the hyperparameters
TRIAL_STATES = ("COMPLETE", "PRUNED", "FAIL")
ROUNDING = 1e-3  # of the attention on a single image
ROW_COLUMNS = ["repeat", "fold", "patient_id"]  # then the columns of the outcome
GROUP = "group"  # a further column where groups are declared
_WHOLE, _TEXT = ("repeat", "fold", "label", "prediction"), ("patient_id", "image", GROUP, "rival")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how a formula begins in a spreadsheet
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}")
_ROWS = 2**18  # of attention that are in memory together
TABLE_LIMIT = 512 * MEBIBYTE  # a row of attention takes about 40 bytes


def prediction_table(
    search: Search, places: np.ndarray, patients: Patients, predictions: Predictions
) -> pd.DataFrame:
    """Return a table of predictions of the patients at `places` (n,).

    It has ROW_COLUMNS and the columns of the outcome, see `Scoring`. GROUP follows where groups are declared.
    """
    repeat, fold = search.path
    scoring = patients.outcome.scoring
    ids = patients.metadata.index[places].tolist()
    columns: dict[str, object] = dict(zip(ROW_COLUMNS, (repeat, fold, ids), strict=True))
    columns |= scoring.target_columns(patients.labels[places])
    table = pd.DataFrame(columns | scoring.prediction_columns(predictions))
    return table if patients.groups is None else table.assign(**{GROUP: patients.groups[places]})


def without_members(predictions: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Return ROW_COLUMNS and the columns of the outcome, and GROUP where it is there."""
    return predictions[[*ROW_COLUMNS, *scoring.columns, *({GROUP} & set(predictions))]]


def outer_predictions(
    search: Search, test: Patients, logits: np.ndarray, decision: DecisionRule
) -> pd.DataFrame:
    """Return predictions of an outer fold's held-out patients from the members' logits (K, n) or (K, n, C).

    The columns of `prediction_table` by the mean logit, the constants of the decision rule, then the values
    of each member. Raises Diverged where a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise Diverged(f"{search.name}: the refitted model diverged. Limit learning_rate by --set.")
    table = prediction_table(search, np.arange(len(test)), test, decision.predict(logits.mean(0)))
    members: dict[str, float | np.ndarray] = dict(decision.constants)
    for number, values in enumerate(decision.predict(logits).values, 1):
        members |= test.outcome.scoring.member_columns(number, values)
    return table.assign(**members)


def attention_table(
    patients: Patients, attention: np.ndarray | None, class_names: Sequence[str]
) -> pd.DataFrame | None:
    """Return the attention as a table of `patient_id`, `image`, `attention`; None without images.

    attention: (N,), or (N, C) if each class has its own. `attention` is then the mean over the classes, and
        a column `attention:NAME` follows for each of the C `class_names`.
    """
    if attention is None or patients.bags is None:
        return None
    ids = np.repeat(patients.ids, patients.bags.sizes.numpy())
    table = pd.DataFrame({"patient_id": ids, "image": patients.bags.image_names})
    if attention.ndim == 1:
        return table.assign(attention=attention)
    columns = dict(zip(map(class_column, class_names), attention.T, strict=True))
    return table.assign(attention=attention.mean(1), **columns)


def class_column(name: str) -> str:
    """Return the column of a class in a table of attention."""
    return f"{_OF_CLASS}{name}"


def class_of(column: str) -> str:
    """Return the name of the class of a column that `class_column` names."""
    return column.removeprefix(_OF_CLASS)


def class_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns of class-wise attention, none for shared attention."""
    return [name for name in map(str, table) if name.startswith(_OF_CLASS)]


def joined_attention(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of several tables of attention, one or more.

    Where some searches chose class-wise attention and others the shared one, the shared one is that of every
    class.
    """
    table = pd.concat(parts, ignore_index=True)
    return table.assign(**{name: table[name].fillna(table["attention"]) for name in class_columns(table)})


def outer_attention(folder: Path) -> pd.DataFrame | None:
    """Return the attention of the outer models of a study folder, none of which was trained on the patient.

    `repeat`, `fold` and the columns of `attention_table`. The attention sums to one in each patient and
    repeat. None where no model looked at images. Raises DataError where a file cannot be read.
    """
    tables = [*outer_attention_parts(folder)]
    return joined_attention(tables) if tables else None


def outer_attention_parts(folder: Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of `outer_attention`, some at a time."""
    for search in outer_folders(folder).values():
        if exists(search.attention):
            yield from attention_parts(search.attention, ["repeat", "fold", *ATTENTION_COLUMNS])


def publish_table(path: Path, table: pd.DataFrame) -> None:
    """Publish a table as CSV: numbers keep all their digits, names that are not valid UTF-8 keep their bytes.

    Text that a spreadsheet would take for a formula gets an apostrophe before it, which `read_predictions`
    takes away again.
    """
    texts = {str(name): each.map(defused) for name, each in table.items() if not is_numeric_dtype(each)}
    publish(path, table.assign(**texts).to_csv(index=False).encode(errors="surrogateescape"))


def defused(text: Any) -> Any:
    """Return text that no spreadsheet takes for a formula, reversibly: an apostrophe is put before it."""
    return f"'{text}" if isinstance(text, str) and _FORMULA.match(text) else text


def _as_it_was(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_attention(path: Path, columns: Sequence[str] = ATTENTION_COLUMNS) -> pd.DataFrame:
    """Read a table of attention with these columns, and those of class-wise attention where it has any.

    Raises DataError for other columns, and for attention that is out of range.
    """
    return pd.concat([*attention_parts(path, columns)])


def attention_parts(path: Path, columns: Sequence[str] = ATTENTION_COLUMNS) -> Iterator[pd.DataFrame]:
    """Yield the rows of a table of attention, some at a time; raises as `read_attention`."""
    for table in _parts(path):
        of_classes = class_columns(table)
        if list(table) != [*columns, *of_classes]:
            names, expected = some([printable(str(name)) for name in table]), ", ".join(columns)
            raise DataError(f"{printable(path)} has the columns {names}, where {expected} are expected.")
        for name in ("attention", *of_classes):
            outside = ~table[name].between(0, 1 + ROUNDING)
            if outside.any():
                row = int(table.index[outside][0]) + 2
                raise DataError(f"{printable(path)}, row {row}: {printable(name)} is not between 0 and 1.")
        yield table


def read_trials(path: Path) -> pd.DataFrame:
    """Read the table of a search's trials as text; see `SearchFolder.trials`.

    Raises DataError where a trial has no number, state or value, or what a hyperparameter cannot be.
    """
    table = _read_texts(path)
    if [*table][:3] != TRIAL_COLUMNS:
        raise DataError(f"{printable(path)} does not begin with the columns {', '.join(TRIAL_COLUMNS)}.")
    problems = [
        f"{printable(path)}, row {row}: {problem}."
        for row, cells in enumerate(table.to_dict("records"), 2)
        for problem in _trial_problems({str(name): str(cell) for name, cell in cells.items()})
    ]
    if table["number"].duplicated().any():
        problems.append(f"{printable(path)}: a number occurs twice.")
    if problems:
        raise DataError(
            [*problems[:SOME], *([f"{len(problems)} problems in all."] if problems[SOME:] else [])]
        )
    return table


def _trial_problems(cells: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with a trial's cells, by the name of the column."""
    number, value, state = (cells[name] for name in TRIAL_COLUMNS)
    if _whole(number) is None or number.startswith("-"):
        yield f"number is {printable(number)!r}, not a whole number"
    if state not in TRIAL_STATES:
        yield f"state is {printable(state)!r}, not one of {', '.join(TRIAL_STATES)}"
    if _finite(value) is None and (value or state == TRIAL_STATES[0]):
        yield f"value is {printable(value)!r}, not a finite number"
    settings = {name: text for name, text in cells.items() if name not in TRIAL_COLUMNS and text}
    try:
        head_config(settings)
    except UsageError as error:
        yield printable(str(error)).rstrip(".")


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a table of predictions or attention, whose ids and names are text, whatever they look like.

    Raises DataError that names the file, and the first row and column with a cell that is not a number or not
    finite.
    """
    return _parsed(path, _read_texts(path))


def _parsed(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a table of predictions or attention with numbers where the cells are numbers."""
    problems: list[str] = []
    for name in map(str, table):
        if name in _TEXT:
            table[name] = table[name].map(_as_it_was)
        else:
            table[name] = _numbers(path, name, table[name], problems)
    if problems:
        raise DataError(problems)
    return table


def _parts(path: Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of a table of attention, _ROWS at a time; raises as `read_predictions`."""
    with _table_errors(path):
        reader = _reader(path, _ROWS)
    while True:
        with _table_errors(path):
            part = next(reader, None)
        if part is None:
            return
        yield _parsed(path, part)


def _read_texts(path: Path) -> pd.DataFrame:
    """Read the cells of a CSV file as text."""
    with _table_errors(path):
        return next(_reader(path, None))


def _reader(path: Path, rows: int | None) -> Iterator[pd.DataFrame]:
    """Return an iterator over the rows of a CSV file, so many at a time; it has at least one part."""
    reader: Iterator[pd.DataFrame] = pd.read_csv(
        BytesIO(read_input(path, TABLE_LIMIT)),
        dtype=str,
        keep_default_na=False,
        index_col=False,
        encoding_errors="surrogateescape",
        iterator=True,
        chunksize=rows,
    )
    return reader


@contextlib.contextmanager
def _table_errors(path: Path) -> Iterator[None]:
    """Turn errors of pandas into errors that name the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)  # rows with more cells than the header
            yield
    except FileNotFoundError:
        raise DataError(f"{printable(path)} does not exist.") from None
    except (ValueError, ParserWarning) as error:
        reason = printable(str(error).strip()).rstrip(".")
        raise DataError(f"{printable(path)} cannot be read as a table: {reason}.") from None


def _numbers(path: Path, name: str, texts: pd.Series, problems: list[str]) -> pd.Series:
    """Return the numbers of a column; unlike those of pandas' own parser, exact to the last bit."""
    parse = _whole if name in _WHOLE else _finite
    cells = texts.tolist()  # whose items are quicker to take than those of a Series
    parsed = {text: parse(text) for text in set(cells)}  # of a fold or label, there are few
    numbers = [parsed[text] for text in cells]
    if None not in parsed.values():
        return pd.Series(numbers, texts.index, dtype=int if name in _WHOLE else float)
    bad = [place for place, number in enumerate(numbers) if number is None]
    kind = "a whole number" if name in _WHOLE else "a finite number"
    others = f" Nor is it in {count_of(len(bad) - 1, 'other row')}." if len(bad) > 1 else ""
    cell, column = printable(texts.iloc[bad[0]]), printable(name)
    problems.append(
        f"{printable(path)}, row {texts.index[bad[0]] + 2}: {column} is {cell!r}, not {kind}.{others}"
    )
    return texts


def _whole(text: str) -> int | None:
    """Return a whole number of at most 9 digits, and None for all other texts."""
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else None


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
