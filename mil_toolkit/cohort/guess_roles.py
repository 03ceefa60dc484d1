"""Guess which columns hold the ids and the labels, and which words stand for the classes."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mil_toolkit.cohort.draft_lines import examples
from mil_toolkit.cohort.header_words import (
    NEGATIVE_WORDS,
    POSITIVE_WORDS,
    UNLABELLED_WORDS,
    is_named_group,
    is_named_id,
    is_named_label,
    is_sex,
)
from mil_toolkit.cohort.near_ids import near_ids, nearest_column
from mil_toolkit.core.cells import NUMBER, is_missing, normal_form
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import count_of, printable

MANY_WORDS = 20  # a column with more different words is not a category


@dataclass(frozen=True)
class IdGuess:
    """The column that is taken as the id, and the doubts about it."""

    column: str
    doubts: tuple[str, ...]


def guess_id(table: str, columns: Mapping[str, Sequence[str]], folders: Collection[str]) -> IdGuess:
    """Return the column that contains the most folder names; `table` is the table's name in messages.

    A column that only numbers the rows loses against any other with at least half as many.

    Raises DataError if no column contains any, or if another column nearly matches more of them.
    """
    shared = {
        name: len({normal_form(cell) for cell in cells} & set(folders)) for name, cells in columns.items()
    }
    most = max(shared.values(), default=0)
    rivals = [name for name, count in shared.items() if 2 * count >= most > 0]
    alike = {
        name: shared[name] + len(near_ids(name, cells, folders).pairs) for name, cells in columns.items()
    }
    if max(alike.values(), default=0) > max((alike[name] for name in rivals), default=-1):
        raise DataError(_no_id(table, columns, folders))
    best = max(rivals, key=lambda name: _id_rank(name, columns[name], shared[name]))
    return IdGuess(best, tuple(_doubts_of_id(best, rivals, columns, folders)))


def _id_rank(name: str, cells: Sequence[str], shared: int) -> tuple[bool, int, bool, bool]:
    """Return what decides between columns that name folders; the greatest wins."""
    return not numbers_the_rows(cells), shared, len(set(cells)) == len(cells), is_named_id(name)


def _no_id(table: str, columns: Mapping[str, Sequence[str]], folders: Collection[str]) -> str:
    reason = (
        f"no column of {table} ({examples(columns)}) contains the names of the folders ({examples(folders)})."
    )
    near = nearest_column(columns, folders)
    if near is None:
        return (
            f"{reason} Each patient needs a folder named as the patient's id; otherwise, write a cohort.toml"
            " with image_table by hand."
        )
    closest = f"Closest is {printable(repr(near.column))}, with {near}"
    return (
        f"{reason} {closest}. Ids and folder names must be the same; rename the folders or change the cells."
    )


def _doubts_of_id(
    best: str, rivals: Sequence[str], columns: Mapping[str, Sequence[str]], folders: Collection[str]
) -> Iterator[str]:
    cells = columns[best]
    if len(rivals) > 1:
        names = " and ".join(printable(name) for name in rivals)
        example = next(
            (row for row in zip(*map(columns.get, rivals), strict=True) if len(set(row)) > 1), None
        )
        values = zip(example or [], rivals, strict=False)
        shown = "; one row is " + " and ".join(f"{value!r} by {printable(name)}" for value, name in values)
        yield f"{names} name folders{shown if example else ''}; {printable(best)} is taken as the id."
    elif numbers_the_rows(cells):
        yield f"{printable(best)} is taken as the id, although it only numbers the rows."
    near = near_ids(best, cells, folders)
    if near.pairs:
        yield f"ids in {printable(best)} must be the same as the names of the folders, but there is {near}."
    if len(set(cells)) < len(cells):
        repeated = [cell for cell, count in Counter(cells).items() if count > 1]
        yield (
            f"{printable(best)} has several rows for {count_of(len(repeated), 'patient')},"
            f" {examples(repeated)}. A table has one row per patient; a list of images is declared as"
            " image_table."
        )


def numbers_the_rows(cells: Sequence[str]) -> bool:
    """Return whether the cells are consecutive whole numbers in the order of the rows."""
    numbers = [int(cell) for cell in map(_without_zero_decimals, cells) if re.fullmatch("[0-9]{1,18}", cell)]
    return len(cells) == len(numbers) > 1 and numbers == [numbers[0] + row for row in range(len(cells))]


def guess_label(columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column of two classes that looks most like a label: by its name first, then by its words.

    None if there is no such column.
    """
    candidates = {
        name: guess_classes(cells)[0] for name, cells in columns.items() if not is_named_group(name)
    }
    named = set(filter(is_named_label, candidates))
    scores = {
        name: 2 * (name in named) + (guess_positive(classes)[0].lower() in POSITIVE_WORDS)
        for name, classes in candidates.items()
        if len(classes) == 2 and not any(map(is_missing, classes)) and (name in named or not is_sex(classes))
    }
    return max(scores, key=lambda name: scores[name], default=None)


def spellings_of(cells: Sequence[str]) -> dict[str, Counter[str]]:
    """Return the different words of a column, each with its spellings and their numbers of rows.

    Words that differ only in case are one word, and so are all markers of missing values.
    """
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in map(_without_zero_decimals, cells):
        words["" if is_missing(cell) else normal_form(cell.casefold())][cell] += 1
    return words


def _without_zero_decimals(cell: str) -> str:
    """Return 1.0 as 1, and any other cell as it is."""
    return re.sub(r"\.0+$", "", cell) if NUMBER.fullmatch(cell) else cell


def usual_spelling(spellings: Mapping[str, int]) -> str:
    """Return the spelling with the most rows; the first in sorted order if several have as many."""
    return max(sorted(spellings), key=lambda word: spellings[word])


def guess_classes(cells: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the sorted classes of a label column, and the word for unlabelled patients if there is one.

    A word such as "unknown" or an empty cell stands for unlabelled patients if there are two other words.
    """
    words = sorted(map(usual_spelling, spellings_of(cells).values()))
    unlabelled = [word for word in words if is_missing(word) or word.lower() in UNLABELLED_WORDS]
    if len(words) == 3 and unlabelled:
        return [word for word in words if word != unlabelled[0]], unlabelled[0]
    return words, None


def guess_positive(classes: Sequence[str]) -> tuple[str, str]:
    """Return the positive and the negative one of two sorted classes; the last is positive by default."""
    first, second = classes
    if first.lower() in POSITIVE_WORDS or second.lower() in NEGATIVE_WORDS:
        return first, second
    return second, first
