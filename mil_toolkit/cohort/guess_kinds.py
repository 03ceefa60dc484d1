"""Guess the kind of a metadata column, or the reason to leave it out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
from scipy.stats import skew

from mil_toolkit.cohort.cells import NUMBER
from mil_toolkit.cohort.draft_lines import check, examples
from mil_toolkit.cohort.guess_dates import DATE_FORMATS, check_formats, guess_formats, shape_of
from mil_toolkit.cohort.guess_roles import MANY_WORDS, guess_classes, spellings_of
from mil_toolkit.cohort.header_words import is_named_birth, is_named_group, is_named_label, present
from mil_toolkit.cohort.kinds import read_date
from mil_toolkit.cohort.toml import toml_string
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


def is_number(cell: str, decimal: str) -> bool:
    """Return whether a cell is a number with this decimal sign."""
    return NUMBER.fullmatch(cell.replace(decimal, ".")) is not None and (decimal == "." or "." not in cell)


def guess_column(name: str, cells: Sequence[str], decimal: str, written: date, label: str | None) -> Guess:
    """Guess the kind of a column that is neither the id nor the label.

    written: when the table was last written, which is proposed as reference of an age
    label: the column that is taken as the label, if any
    """
    known = present(cells)
    words = {cell.casefold() for cell in known}
    if len(words) < 2:
        return _left_out(name, "it has the same value in every row" if words else "it is empty")
    if is_named_label(name):
        return _other_label(name, cells, label)
    if is_named_group(name):
        return _left_out(name, "the place where patients were seen tells nothing about patients elsewhere")
    if _numbers_the_rows(cells):
        return _left_out(name, "it only numbers the rows")
    if all(is_number(cell, decimal) for cell in known):
        return _guess_number(name, np.array([float(cell.replace(decimal, ".")) for cell in known]))
    formats = guess_formats(known)
    if formats is not None:
        return _guess_birth_date(name, formats, known, written)
    if len(words) > MANY_WORDS:
        return _mixed(name, known, decimal)
    return Guess("category", tuple(_category_lines(name, known)))


def _left_out(name: str, reason: str) -> Guess:
    return Guess(None, (f"# Left out: {printable(name)}, because {reason}.",))


def _left_out_to_check(name: str, reason: str) -> Guess:
    return Guess(None, (check(f"{printable(name)} is left out: {reason}."),))


def _other_label(name: str, cells: Sequence[str], label: str | None) -> Guess:
    """Leave out a column that may be the label or reveal it; only the user may let the model see it."""
    words = spellings_of(cells).values()
    if label is not None and len(guess_classes(cells)[0]) == 2:
        why = f"{printable(label)} is taken as the label"
    else:
        rows: Counter[str] = sum(words, Counter())
        counts = some([f"{printable(repr(word))} {count}" for word, count in rows.most_common()])
        why = f"it has {len(words)} different words instead of two, or three with unlabelled (rows: {counts})"
    return _left_out_to_check(name, f"its name is that of a label, which the model must not see, but {why}")


def _mixed(name: str, cells: Sequence[str], decimal: str) -> Guess:
    """Leave out a column of many words; if most are numbers or dates, the line shows those that are not."""
    numbers = [cell for cell in cells if is_number(cell, decimal)]
    dates = [cell for cell in cells if read_date(cell, DATE_FORMATS)]
    kind, fitting = max(("numbers", numbers), ("dates", dates), key=lambda option: len(option[1]))
    others = sorted(set(cells) - set(fitting)) if 2 * len(fitting) > len(cells) else []
    if not others:
        words = len({cell.casefold() for cell in cells})
        reason = f"it has {words} different words, which are neither all numbers nor all dates"
        return _left_out_to_check(name, f"{reason}, {examples(cells)}")
    count = f"{len(fitting)} of {len(cells)} cells are {kind}, {len(cells) - len(fitting)} are not"
    return _left_out_to_check(name, f"{count}, {examples(others)}")


def _numbers_the_rows(cells: Sequence[str]) -> bool:
    return list(cells) in [[str(start + row) for row in range(len(cells))] for start in (0, 1)]


def _category_lines(name: str, cells: Sequence[str]) -> Iterator[str]:
    counts = Counter(cell.casefold().upper() for cell in cells)
    rare = [word for word, count in counts.items() if count == 1]
    if rare:
        yield check(
            f"{printable(name)} has words that occur in only one row, {examples(rare)};"
            " are they typing errors?"
        )


def _guess_number(name: str, values: npt.NDArray[np.float64]) -> Guess:
    if not np.isfinite(values).all():
        return _left_out_to_check(name, "some numbers are too large to be read")
    lines = ['# unit = "..."']
    different = len(set(values))
    if 2 < different <= FEW_NUMBERS and all(values == values.round()):
        advice = 'if they are codes, use kind = "category"'
        lines.append(check(f"{printable(name)} has only {different} different numbers; {advice}."))
    if values.min() > 0:
        before, after = float(skew(values)), float(skew(np.log(values)))
        if before > max(SKEWED, abs(after)):
            lines.append(f'transform = "log"  # skewness {before:.1f}; of the logarithm {after:.1f}')
    return Guess("number", tuple(lines))


def _guess_birth_date(
    name: str, formats: Mapping[str, tuple[str, ...]], cells: Sequence[str], written: date
) -> Guess:
    """Guess a birth date from the formats that fit best by the cells' shapes; other dates are left out."""
    if not is_named_birth(name):
        reason = "it contains dates, but its name does not say that they are dates of birth"
        return _left_out_to_check(name, f"{reason}, {examples(cells)}")
    shapes = Counter(map(shape_of, cells))
    chosen = {shape: formats[shape][0] for shape, _ in shapes.most_common()}
    births = [day for cell in cells for day in read_date(cell, [chosen[shape_of(cell)]]).values()]
    return Guess(
        "birth-date",
        (
            *check_formats(name, formats, chosen, cells),
            f"formats = [{', '.join(map(toml_string, chosen.values()))}]",
            check(
                f"{printable(name)} becomes the age at the reference, which should be the day of the smears"
                " if they share one. Proposed: the day on which the table was last modified."
            ),
            f"reference = {max(written, *births)}",
        ),
    )
