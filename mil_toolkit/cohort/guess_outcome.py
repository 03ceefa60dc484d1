"""Guess which columns hold the outcome, and of which kind it is."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from mil_toolkit.cohort.guess_dates import readings_as_text
from mil_toolkit.cohort.guess_roles import MANY_WORDS, guess_classes, guess_label, spellings_of
from mil_toolkit.cohort.guess_survival import Columns, find_pairs, holds_numbers
from mil_toolkit.cohort.header_words import (
    UNLABELLED_WORDS,
    is_named_age,
    is_named_birth,
    is_named_grade,
    is_named_group,
    is_named_label,
    is_named_quantity,
    is_named_target,
    is_named_type,
    is_sex,
)
from mil_toolkit.core.cells import NUMBER, canonical_word, is_missing, is_missing_value, normal_form
from mil_toolkit.core.numbers import is_number

FEWEST_CLASSES = 3


class Clarity(IntEnum):
    """How clearly the columns of an outcome say that they are one; the greatest is taken."""

    UNNAMED = 0  # only the cells suggest it: never taken, only named
    PERHAPS = 1  # a grade, which may as well be known beforehand
    TWO_WORDS = 2  # of any column without a better name
    WEAK_PAIR = 3  # a time and a status, which may be that of something else
    TYPE = 4
    PAIR = 5
    NAMED = 6
    NAMED_LABEL = 7


@dataclass(frozen=True)
class Candidate:
    """Columns that may hold the outcome of a kind: one, or those of time and event."""

    kind: str
    columns: tuple[str, ...]
    clarity: Clarity


@dataclass(frozen=True)
class Outcomes:
    """The outcome that is taken, if any, and the other candidates, the most likely one first."""

    taken: Candidate | None
    others: tuple[Candidate, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the outcome that is taken."""
        return () if self.taken is None else self.taken.columns


def guess_outcomes(columns: Columns) -> Outcomes:
    """Return the most likely outcome and the other candidates; columns: all but the id.

    If a column is named like a label but holds no classes, a column without such a name is something else.
    """
    found = [*_two_classes(columns), *_pairs(columns), *_classes(columns), *_numbers(columns)]
    found.sort(key=lambda candidate: -candidate.clarity)  # stable: in the order of the table
    unusable = any(_is_named_but_unusable(name, cells) for name, cells in columns.items())
    least = Clarity.TYPE if unusable else Clarity.PERHAPS
    taken = next((candidate for candidate in found[:1] if candidate.clarity >= least), None)
    return Outcomes(taken, tuple(candidate for candidate in found if candidate is not taken))


def _is_named_but_unusable(name: str, cells: Sequence[str]) -> bool:
    words = len(guess_classes(cells)[0])
    return is_named_target(name) and 2 < words <= MANY_WORDS and not holds_classes(name, cells)


def _two_classes(columns: Columns) -> Iterator[Candidate]:
    label = guess_label(columns)
    if label is not None:
        yield Candidate(
            "binary", (label,), Clarity.NAMED_LABEL if is_named_label(label) else Clarity.TWO_WORDS
        )


def _pairs(columns: Columns) -> Iterator[Candidate]:
    """Yield the time and the event of each possible survival, those first whose headers share most words."""
    for pair in find_pairs(columns):
        if pair.coded:
            yield Candidate(
                "survival", (pair.time, pair.event), Clarity.PAIR if pair.strong else Clarity.WEAK_PAIR
            )


def _classes(columns: Columns) -> Iterator[Candidate]:
    for name, cells in columns.items():
        if is_named_group(name) or not holds_classes(name, cells):
            continue
        numeric = all(is_decimal_number(word) for word in class_words(cells))
        if is_named_target(name):
            yield Candidate("classes", (name,), Clarity.NAMED)
        elif is_named_type(name):
            yield Candidate("classes", (name,), Clarity.TYPE)
        elif is_named_grade(name):
            yield Candidate("classes", (name,), Clarity.PERHAPS)
        elif not numeric and not is_named_label(name):
            yield Candidate("classes", (name,), Clarity.UNNAMED)


def holds_classes(name: str, cells: Sequence[str]) -> bool:
    """Return whether a column has three words or more that are neither ids nor dates nor measured numbers."""
    if is_named_age(name) or is_named_birth(name) or len(guess_classes(cells)[0]) == 2 or is_sex(cells):
        return False
    words = class_words(cells)
    rows = [cell for cell in cells if not stands_for_unlabelled(cell)]
    spelled = [cell for spellings in words.values() for cell in spellings]
    measured = holds_numbers(rows) and any(mark in cell for cell in spelled for mark in ",.")
    dates = 2 * sum(bool(readings_as_text(cell)) for cell in spelled) > len(spelled)
    repeated = len(set(rows)) < len(rows)
    return FEWEST_CLASSES <= len(words) <= MANY_WORDS and repeated and not measured and not dates


def class_words(cells: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the spellings of each class, with their numbers of rows; classes in the order of their words.

    Left out are missing values and words such as "unknown", which stand for unlabelled patients.
    """
    words: dict[str, dict[str, int]] = defaultdict(dict)
    for spellings in spellings_of(cells).values():
        for cell, rows in spellings.items():
            if not stands_for_unlabelled(cell):
                words[_class_of(cell)][cell] = rows
    return {word: words[word] for word in sorted(words, key=_order)}


def stands_for_unlabelled(cell: str) -> bool:
    """Return whether a cell of a column of classes is missing, or says that the class is unknown."""
    return is_missing(cell) or cell.lower() in UNLABELLED_WORDS


def _class_of(cell: str) -> str:
    return normal_form(canonical_word(cell).casefold())


def _order(word: str) -> tuple[bool, float, str]:
    numeric = NUMBER.fullmatch(word) is not None
    return not numeric, float(word) if numeric else 0.0, word


def is_decimal_number(cell: str) -> bool:
    """Return whether a cell is a number with a decimal point or comma."""
    return is_number(cell, ".") or is_number(cell, ",")


def _numbers(columns: Columns) -> Iterator[Candidate]:
    """Yield the columns of numbers to predict; whole ones only if they are too many to number classes."""
    for name, cells in columns.items():
        if not holds_numbers(cells) or is_named_age(name) or is_named_birth(name):
            continue
        decimals = any(mark in cell for cell in cells if not is_missing_value(cell) for mark in ".,")
        if is_named_target(name) and (decimals or len(set(cells)) > MANY_WORDS):
            yield Candidate("number", (name,), Clarity.NAMED)
        elif is_named_quantity(name) and decimals:
            yield Candidate("number", (name,), Clarity.PERHAPS)
