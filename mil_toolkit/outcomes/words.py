"""Outcomes that are words in a column of the table: which words are declared, and what the cells hold."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from mil_toolkit.core.cells import canonical_word, is_missing
from mil_toolkit.core.text import each_or_most, printable
from mil_toolkit.outcomes.outcome import UNLABELLED, Exclusion, OutcomeRow, Parsed

Words: TypeAlias = str | int | tuple[str | int, ...]  # one word of the label column, or several
WordsByKey: TypeAlias = Mapping[str, tuple[str | int, ...]]


def words_by_key(**words: Words | None) -> dict[str, tuple[str | int, ...]]:
    """Return the declared words by the keys that declare them, without the keys that are absent."""
    return {
        key: word if isinstance(word, tuple) else (word,) for key, word in words.items() if word is not None
    }


def repeated_word_problems(words: WordsByKey) -> Iterator[str]:
    """Yield the words of the label column that are declared more than once."""
    uses: dict[str, list[str]] = defaultdict(list)  # keys that declare a word, by its canonical form
    for key, several in words.items():
        for word in several:
            uses[canonical_word(word)].append(key)
    repeated = {word: keys for word, keys in uses.items() if len(keys) > 1}
    if repeated and all(len(several) == 1 for several in words.values()):
        values = ", ".join(repr(word) for (word,) in words.values())
        yield f"{', '.join(words)} must differ, but they are {values}."
        return
    for word, keys in repeated.items():
        yield f"the word {word!r} is declared more than once: {', '.join(keys)}. Keep one."


def excluded_rows(column: str | None, exclude: Words | None) -> Exclusion | None:
    """Return the rows whose cell in a column is one of the words of `exclude`; None if there are none."""
    words = frozenset(map(canonical_word, words_by_key(exclude=exclude).get("exclude", ())))
    return Exclusion(column, words) if words and column is not None else None


def parse_words(
    rows: Sequence[OutcomeRow], column: str, words: WordsByKey, classes: Mapping[str, int]
) -> Parsed:
    """Return the class of each row, (n,) int8; cells that hold none of the words are reported.

    classes: the number of the class by the key that declares its words
    """
    known = {canonical_word(word): number for key, number in classes.items() for word in words.get(key, ())}
    labels, unknown, problems = [], [], []
    for place, (cell,) in rows:
        labels.append(known.get(canonical_word(cell), UNLABELLED))
        if canonical_word(cell) in known:
            continue
        if is_missing(cell):
            problems.append(missing_cell("label", place, cell, column))
        else:
            unknown.append(f"{place}: {printable(column)} {cell!r}")
    expected = [f"{word!r} ({key})" for key in words for word in words[key]]
    reason = f"not one of {', '.join(expected)}"
    each = (f"{label} is {reason}." for label in unknown)
    summary = f"labels are {reason}. Does the table use other words for the classes? Affected:"
    problems += each_or_most(unknown, len(labels), each, summary)
    return Parsed(np.array(labels, dtype=np.int8), problems)


def missing_cell(noun: str, place: str, cell: str, column: str) -> str:
    """Return that a cell is missing, and what to do; noun: what the column holds."""
    advice = f'Fill it in, or declare unlabelled = "{cell}" if the patient is to be predicted.'
    return f"{place}: no {noun} in {column!r}. {advice}"
