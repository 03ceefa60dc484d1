"""Guess the kind of a metadata column, or the reason to leave it out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
from scipy.stats import skew

from mil_toolkit.cohort.dates import read_date
from mil_toolkit.cohort.draft_lines import TableColumn, check, examples
from mil_toolkit.cohort.guess_dates import check_formats, guess_formats, readings_as_text, shape_of
from mil_toolkit.cohort.guess_roles import MANY_WORDS, numbers_the_rows, spellings_of
from mil_toolkit.cohort.header_words import is_named_birth, is_named_group, is_named_label, present
from mil_toolkit.cohort.kinds import DAYS_PER_YEAR
from mil_toolkit.cohort.plausibility import Oddity, numbers_for_dates, odd_ages, odd_numbers
from mil_toolkit.cohort.toml import toml_string
from mil_toolkit.core.cells import is_missing_value
from mil_toolkit.core.numbers import (
    ambiguous_thousands,
    has_separated_thousands,
    is_number,
    looks_numeric,
    number_text,
)
from mil_toolkit.core.text import printable, some

FEW_NUMBERS = 5  # a column of at most this many different whole numbers may hold codes
SKEWED = 1.0  # a column of greater skewness gets a logarithm, if the logarithm is less skewed


@dataclass(frozen=True)
class Guess:
    """A guessed kind and the lines that follow it in the draft; kind is None if the column is left out."""

    kind: str | None
    lines: tuple[str, ...]


def guess_decimal(columns: Mapping[str, Sequence[str]]) -> str:
    """Return a comma if more cells are numbers with it than with a point, otherwise a point."""
    counts = {
        decimal: sum(is_number(cell, decimal) for cells in columns.values() for cell in cells)
        for decimal in (".", ",")
    }
    return "," if counts[","] > counts["."] else "."


def guess_column(column: TableColumn, decimal: str, written: date, taken: str | None) -> Guess:
    """Guess the kind of a column that is neither the id nor part of the outcome.

    written: when the table was last written, which is proposed as reference of an age
    taken: a sentence about the outcome that is taken, if any
    """
    name, cells = column.name, column.cells
    known = present(cells)
    words = {cell.casefold() for cell in known}
    if len(words) < 2:
        return _left_out(name, "it has the same value in every row" if words else "it is empty")
    if is_named_label(name):
        return _other_label(name, cells, taken)
    if is_named_group(name):
        return _left_out(name, "the place where patients were seen tells nothing about patients elsewhere")
    if numbers_the_rows(cells):
        return _left_out(name, "it only numbers the rows")
    values = [cell for cell in known if not is_missing_value(cell)]
    if values and all(is_number(cell, decimal) for cell in values):
        return _guess_number(column, decimal)
    formats = guess_formats(values) if values else None
    if formats is not None:
        return _guess_birth_date(column, formats, values, written)
    return _mixed(column, values, decimal) or _guess_words(column, known)


def _left_out(name: str, reason: str) -> Guess:
    return Guess(None, (f"# Left out: {printable(name)}, because {reason}.",))


def left_out_to_check(name: str, reason: str) -> Guess:
    """Return that a column is left out for a reason that the reader should check."""
    return Guess(None, (check(f"{printable(name)} is left out: {reason}."),))


def _other_label(name: str, cells: Sequence[str], taken: str | None) -> Guess:
    """Leave out a column that may be the label or reveal it; only the user may let the model see it."""
    words = spellings_of(cells).values()
    if taken is not None:
        why = taken
    else:
        rows: Counter[str] = sum(words, Counter())
        counts = some([f"{printable(repr(word))} {count}" for word, count in rows.most_common()])
        why = f"its {len(words)} different words name neither classes nor numbers to predict (rows: {counts})"
    return left_out_to_check(name, f"its name is that of a label, which the model must not see, but {why}")


def _mixed(column: TableColumn, values: Sequence[str], decimal: str) -> Guess | None:
    """Leave out a column of mostly numbers or dates and show the other cells; None if it is neither."""
    numeric = [cell for cell in values if looks_numeric(cell)]
    dates = [cell for cell in values if readings_as_text(cell)]
    kind, alike = max(("numbers", numeric), ("dates", dates), key=lambda option: len(option[1]))
    if 2 * len(alike) <= len(values):
        return None
    fitting = dates if kind == "dates" else [cell for cell in values if is_number(cell, decimal)]
    others = sorted(set(values) - set(fitting))
    count = len(values) - len(fitting)
    verb = "is" if count == 1 else "are"
    reason = f"{len(fitting)} of {len(values)} cells are {kind}, {count} {verb} not, {examples(others)}"
    codes = "" if kind == "dates" else '; if all are codes, use kind = "category"'
    advice = f"Correct or empty {'it' if count == 1 else 'them'}{codes}"
    return left_out_to_check(column.name, f"{reason} ({column.rows_of(others)}). {advice}")


def _guess_words(column: TableColumn, known: Sequence[str]) -> Guess:
    words = {cell.casefold() for cell in known}
    if len(words) > MANY_WORDS:
        reason = f"it has {len(words)} different words, which are neither all numbers nor all dates"
        return left_out_to_check(column.name, f"{reason}, {examples(known)}")
    return Guess("category", tuple(_category_lines(column, known)))


def _category_lines(column: TableColumn, cells: Sequence[str]) -> Iterator[str]:
    counts = Counter(cell.casefold().upper() for cell in cells)
    odd = [cell for cell in cells if is_missing_value(cell) or looks_numeric(cell)]
    if odd:
        yield check(
            f"{printable(column.name)}: cells such as {some(sorted(set(map(repr, odd))))} are read as words"
            f" ({column.rows_of(odd)}); empty them if the value is missing."
        )
    rare = [word for word, count in counts.items() if count == 1]
    if rare:
        yield check(
            f"{printable(column.name)} has words that occur in only one row, {examples(rare)};"
            " are they typing errors?"
        )


def _guess_number(column: TableColumn, decimal: str) -> Guess:
    texts = [None if is_missing_value(cell) else number_text(cell, decimal) for cell in column.cells]
    values = np.array([np.nan if text is None else float(text) for text in texts])
    known = values[~np.isnan(values)]
    if not np.isfinite(known).all():
        return left_out_to_check(column.name, "some numbers are too large to be read")
    known_cells = [cell for cell, text in zip(column.cells, texts, strict=True) if text is not None]
    dates = numbers_for_dates(known_cells) if is_named_birth(column.name) else None
    if dates is not None:
        reason = f"its name is that of a date of birth, but it holds {dates}"
        return left_out_to_check(column.name, reason)
    return Guess("number", tuple(_number_lines(column, decimal, values, known)))


def _number_lines(
    column: TableColumn, decimal: str, values: npt.NDArray[np.float64], known: npt.NDArray[np.float64]
) -> Iterator[str]:
    yield '# unit = "..."  # state it: a model refuses a cohort that declares another unit'
    yield from notation_lines(column, decimal)
    yield from _missing_lines(column)
    yield from odd_number_lines(column, values)
    different = len(set(known))
    if 2 < different <= FEW_NUMBERS and all(known == known.round()):
        advice = 'if they are codes, use kind = "category"'
        yield check(f"{printable(column.name)} has only {different} different numbers; {advice}.")
    if known.min() > 0:
        before, after = float(skew(known)), float(skew(np.log(known)))
        if before > max(SKEWED, abs(after)):
            yield f'transform = "log"  # skewness {before:.1f}; of the logarithm {after:.1f}'


def notation_lines(column: TableColumn, decimal: str) -> Iterator[str]:
    """Yield what a column's numbers are written with, if that has another reading."""
    name = printable(column.name)
    ambiguous = ambiguous_thousands(column.cells, decimal)
    if ambiguous:
        cell, sign = ambiguous[0], "comma" if decimal == "," else "point"
        yield check(
            f"{name}: every cell with a {sign} has three digits behind it: {cell!r} is read as"
            f" {cell.replace(',', '.')}, but is {cell.replace(decimal, '')} if the {sign} separates"
            f" thousands. In that case, remove it from the table ({column.rows_of(ambiguous)})."
        )
    grouped = [cell for cell in column.cells if has_separated_thousands(cell, decimal)]
    if grouped:
        reading = number_text(grouped[0], decimal)
        yield check(
            f"{name}: thousands are separated, so {printable(repr(grouped[0]))} is read as {reading}."
        )


def odd_number_lines(column: TableColumn, values: npt.NDArray[np.float64]) -> Iterator[str]:
    """Yield what is implausible in the numbers of a column, (n,), NaN if missing."""
    for oddity in odd_numbers(column.name, values):
        yield check(f"{printable(column.name)}: {_oddity_line(column, oddity)}")


def _missing_lines(column: TableColumn) -> Iterator[str]:
    missing = [cell for cell in present(column.cells) if is_missing_value(cell)]
    if missing:
        cells = ", ".join(sorted(set(map(repr, missing))))
        yield check(
            f"{printable(column.name)}: {cells} is read as a missing value ({column.rows_of(missing)})."
        )


def _oddity_line(column: TableColumn, oddity: Oddity) -> str:
    return oddity.line(column.cells, [f"row {number}" for number in column.numbers])


def _guess_birth_date(
    column: TableColumn, formats: Mapping[str, tuple[str, ...]], values: Sequence[str], written: date
) -> Guess:
    """Guess a birth date from the formats that fit best by the cells' shapes; other dates are left out."""
    name = column.name
    if not is_named_birth(name):
        reason = "it contains dates, but its name does not say that they are dates of birth"
        return left_out_to_check(name, f"{reason}, {examples(values)}")
    shapes = Counter(map(shape_of, values))
    chosen = {shape: formats[shape][0] for shape, _ in shapes.most_common()}
    births = [
        next(iter(read_date(cell, [chosen.get(shape_of(cell), "")], latest=written).values()), None)
        for cell in column.cells
    ]
    reference = max(written, *filter(None, births))
    ages = [np.nan if day is None else (reference - day).days / DAYS_PER_YEAR for day in births]
    oddities = odd_ages(np.array(ages, dtype=np.float64), reference)
    return Guess(
        "birth-date",
        (
            *check_formats(name, formats, chosen, values),
            *(check(f"{printable(name)}: {_oddity_line(column, oddity)}") for oddity in oddities),
            f"formats = [{', '.join(map(toml_string, chosen.values()))}]",
            check(
                f"{printable(name)} becomes the age at the reference, which should be the day of the smears"
                " if they share one. Proposed: the day on which the table was last modified."
            ),
            f"reference = {reference}",
        ),
    )
