"""Guess which columns hold the ids and the labels, and which words stand for the classes."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from mil_toolkit.cohort.cells import NUMBER, is_missing, normal_form
from mil_toolkit.cohort.draft_lines import examples
from mil_toolkit.cohort.header_words import (
    NEGATIVE_WORDS,
    POSITIVE_WORDS,
    UNLABELLED_WORDS,
    is_named_group,
    is_named_label,
    is_sex,
)
from mil_toolkit.core.errors import DataError

MANY_WORDS = 20  # a column with more different words is not a category


def guess_id(table: str, columns: Mapping[str, Sequence[str]], folders: Collection[str]) -> str:
    """Return the column that contains the most folder names; `table` is the table's name in messages.

    Raises DataError if no column contains any.
    """
    shared = {
        name: len({normal_form(cell) for cell in cells} & set(folders)) for name, cells in columns.items()
    }
    best = max(shared, key=lambda name: shared[name], default="")
    if not shared.get(best):
        raise DataError(
            f"no column of {table} ({examples(columns)}) contains the names of the folders"
            f" ({examples(folders)}). Each patient needs a folder named as the patient's id; otherwise, write"
            " a cohort.toml with image_table by hand."
        )
    return best


def guess_label(columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column of two classes that looks most like a label: by its name first, then by its words.

    None if there is no such column, and if the columns that are named like a label have more classes: any
    other column would be something else.
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
    if not named & scores.keys() and any(2 < len(candidates[name]) <= MANY_WORDS for name in named):
        return None
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
