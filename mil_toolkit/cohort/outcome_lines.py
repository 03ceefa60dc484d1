"""Lines of a drafted cohort.toml that declare the outcome."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mil_toolkit.cohort.draft_lines import TableColumn, check
from mil_toolkit.cohort.guess_kinds import notation_lines, odd_number_lines
from mil_toolkit.cohort.guess_outcome import (
    Candidate,
    Clarity,
    Outcomes,
    class_words,
    is_decimal_number,
    stands_for_unlabelled,
)
from mil_toolkit.cohort.guess_roles import guess_classes, guess_positive, spellings_of, usual_spelling
from mil_toolkit.cohort.guess_survival import Columns, holds_numbers, is_unknown, numbers_of
from mil_toolkit.cohort.header_words import is_named_age, is_named_censored, is_named_label
from mil_toolkit.cohort.toml import toml_string
from mil_toolkit.core.cells import canonical_word, is_missing_value
from mil_toolkit.core.numbers import number_text
from mil_toolkit.core.text import count_of, printable, some

INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as TOML writes it
FEW_ROWS = 10  # of a class: five outer folds of at least two patients
PREDICTED = "these patients are predicted, and never used for training"


def outcome_lines(outcomes: Outcomes, columns: Columns) -> Iterator[str]:
    """Yield the lines that declare the most likely outcome, and name the others."""
    taken = outcomes.taken
    if taken is None:
        yield from _lines_without_outcome(columns)
    else:
        yield from PROPOSALS[taken.kind].lines(taken, [columns[name] for name in taken.columns])
    least = Clarity.UNNAMED if taken is None else Clarity.PERHAPS
    rivals = [_declared(other) for other in outcomes.others if other.clarity >= least]
    if rivals:
        yield check(f"another outcome is possible; it would be declared by {some(rivals)}.")


def taken_as(outcomes: Outcomes) -> str | None:
    """Return a sentence about the outcome that is taken, or None without one."""
    if outcomes.taken is None:
        return None
    columns = " and ".join(map(printable, outcomes.columns))
    return f"{columns} {PROPOSALS[outcomes.taken.kind].taken_as}"


def numbers_among(outcomes: Outcomes) -> tuple[str, ...]:
    """Return the columns of the outcome that is taken whose cells have a decimal sign."""
    if outcomes.taken is None or PROPOSALS[outcomes.taken.kind].lacks_number is None:
        return ()
    return outcomes.columns[:1]


def doubts_about_numbers(outcomes: Outcomes, columns: Sequence[TableColumn], decimal: str) -> Iterator[str]:
    """Yield how the numbers of the outcome that is taken could be read otherwise, and which are implausible.

    columns: those that `numbers_among` names
    """
    lacks_number = None if outcomes.taken is None else PROPOSALS[outcomes.taken.kind].lacks_number
    if lacks_number is None:
        return
    for column in columns:
        missing = [lacks_number(cell) for cell in column.cells]
        texts = [number_text(cell, decimal) for cell in column.cells]
        values = [float(text or "nan") for text in texts]
        yield from notation_lines(column, decimal)
        yield from odd_number_lines(column, np.where(missing, np.nan, values))


def _declared(candidate: Candidate) -> str:
    return PROPOSALS[candidate.kind].declared.format(*map(toml_string, candidate.columns))


def _lines_without_outcome(columns: Columns) -> Iterator[str]:
    yield check("no column looks like a label, so all patients are unlabelled and can only be predicted.")
    yield '# label = "LABEL"'
    for name, cells in columns.items():
        decimals = any(mark in cell for cell in cells for mark in ".,")
        if decimals and holds_numbers(cells) and not is_named_age(name):
            yield f"# target = {toml_string(name)}  # if this number is to be predicted"


def _doubt_about_name(candidate: Candidate) -> str:
    return ", although its name does not suggest it" if candidate.clarity < Clarity.TYPE else ""


def _binary_lines(candidate: Candidate, cells: Sequence[Sequence[str]]) -> Iterator[str]:
    (label,), (words,) = candidate.columns, cells
    column = printable(label)
    if not is_named_label(label):
        yield check(f"{column} is taken as the label, although its name does not suggest it.")
    classes, unlabelled = guess_classes(words)
    positive, negative = guess_positive(classes)
    yield f"label = {toml_string(label)}"
    for spellings in spellings_of(words).values():
        yield from _spelling_lines(column, spellings)
    yield check(f"{column} {printable(positive)} is taken as positive, {printable(negative)} as negative.")
    yield f"positive = {_word(positive)}"
    yield f"negative = {_word(negative)}"
    if unlabelled is not None:
        yield check(f"{column} {unlabelled!r} is taken as unlabelled: {PREDICTED}.")
        yield f"unlabelled = {_word(unlabelled)}"


def _class_lines(candidate: Candidate, cells: Sequence[Sequence[str]]) -> Iterator[str]:
    (label,), classes = candidate.columns, class_words(cells[0])
    column = printable(label)
    counts = {usual_spelling(spellings): sum(spellings.values()) for spellings in classes.values()}
    shown = some([f"{printable(repr(word))} {rows}" for word, rows in counts.items()])
    doubt = _doubt_about_name(candidate)
    yield check(f"{column} is taken as the label of {len(counts)} classes (rows: {shown}){doubt}.")
    if all(map(is_decimal_number, counts)):
        yield check(
            f"{column} holds numbers. If they measure something, declare target = {toml_string(label)}."
        )
    yield f"label = {toml_string(label)}"
    for spellings in classes.values():
        if len(spellings) > 1:
            yield check(f"{column} {', '.join(map(repr, spellings))} are taken as the same class.")
    few = [printable(repr(word)) for word, rows in counts.items() if rows < FEW_ROWS]
    if few:
        advice = "Every fold needs each class: merge it with another (list the words of both), or exclude it"
        yield check(f"{column}: fewer than {FEW_ROWS} rows have {some(few)}. {advice}.")
    yield f"classes = {_classes(classes)}"
    yield "# ordered = true  # if the classes are grades; list them from the lowest to the highest"
    unlabelled = dict.fromkeys(cell for cell in cells[0] if stands_for_unlabelled(cell))
    yield from _unlabelled_lines(column, unlabelled)


def _classes(classes: Mapping[str, Mapping[str, int]]) -> str:
    """Return the classes as TOML: a list of words, or the words of each class if one has several."""
    different = {  # 01 and 1 are the same word
        usual_spelling(spellings): {canonical_word(word): word for word in spellings}.values()
        for spellings in classes.values()
    }
    if all(len(words) == 1 for words in different.values()):
        return _word_list([word for words in different.values() for word in words])
    named = (f"{toml_string(name)} = {_word_list(words)}" for name, words in different.items())
    return f"{{ {', '.join(named)} }}"


def _number_lines(candidate: Candidate, cells: Sequence[Sequence[str]]) -> Iterator[str]:
    (target,) = candidate.columns
    column = printable(target)
    doubt = _doubt_about_name(candidate)
    yield check(f"{column} is taken as the number to predict{doubt}. If it is none, remove target.")
    yield f"target = {toml_string(target)}"
    yield '# unit = "..."  # for texts'
    yield from _unlabelled_lines(column, dict.fromkeys(filter(is_missing_value, cells[0])))


def _survival_lines(candidate: Candidate, cells: Sequence[Sequence[str]]) -> Iterator[str]:
    time, event = candidate.columns
    columns = f"{printable(time)} and {printable(event)}"
    yield check(
        f"{columns} are taken as time and event of survival: {printable(event)} 1 means that the event"
        " happened at this time, 0 that the patient was last seen then (censored)."
    )
    if is_named_censored(event):
        yield check(f"does {printable(event)} 1 mean censored? Then swap 0 and 1 in the table.")
    yield f"time = {toml_string(time)}"
    yield f"event = {toml_string(event)}"
    yield from _horizon_lines(printable(time), *cells)
    unknown = dict.fromkeys(cell for pair in zip(*cells, strict=True) for cell in pair if is_unknown(cell))
    yield from _unlabelled_lines(columns, unknown)


def _horizon_lines(time: str, times: Sequence[str], events: Sequence[str]) -> Iterator[str]:
    """Propose the lower median of the times of events as horizon, if there are any that can be used."""
    happened = [canonical_word(event) == "1.0" for event in events]
    known = [not is_unknown(cell) for cell in times]
    numbers = numbers_of([cell for cell, is_known in zip(times, known, strict=True) if is_known])
    of_events = numbers[np.array(happened)[known]]
    usable = np.sort(of_events[(of_events > 0) & np.isfinite(of_events)])
    if len(usable):
        yield check("risks are predicted up to the horizon. Proposed: the median time of the events.")
        yield f"horizon = {usable[(len(usable) - 1) // 2]:g}  # in the unit of {time}"
    else:
        yield check("no event has a time above 0. State the horizon up to which risks are predicted.")
        yield f"# horizon = ...  # in the unit of {time}"


def _unlabelled_lines(column: str, words: Collection[str]) -> Iterator[str]:
    if words:
        shown = ", ".join(map(toml_string, words))
        yield check(f"{column} {shown} is taken as unlabelled: {PREDICTED}.")
        yield f"unlabelled = {_word_list(words)}"


def _spelling_lines(column: str, spellings: Mapping[str, int]) -> Iterator[str]:
    usual = usual_spelling(spellings)
    for word, rows in spellings.items():
        if word != usual:
            rare = f"{printable(repr(word))} ({count_of(rows, 'row')})"
            common = f"{printable(repr(usual))} ({count_of(spellings[usual], 'row')})"
            yield check(f"{column} {rare} is read as a different word from {common}; use one spelling.")


def _word_list(words: Iterable[str]) -> str:
    return f"[{', '.join(map(_word, words))}]"


def _word(text: str) -> str:
    """Return a label as TOML: an integer if it is written as TOML writes it, otherwise a string."""
    return text if INTEGER.fullmatch(text) else toml_string(text)


@dataclass(frozen=True)
class Proposal:
    """How mil-init proposes a kind of outcome.

    lines: returns the lines that declare it from the candidate and the cells of its columns
    taken_as: what its columns are taken as, after their names
    declared: the keys that declare it, with places for the columns
    lacks_number: whether a cell of the first column has no number; None if that column holds words
    """

    lines: Callable[[Candidate, Sequence[Sequence[str]]], Iterator[str]]
    taken_as: str
    declared: str
    lacks_number: Callable[[str], bool] | None = None


_CLASSES = Proposal(_class_lines, "is taken as the label", "label = {0} (several classes)")
PROPOSALS = {
    "binary": Proposal(_binary_lines, "is taken as the label", "label = {0} (two classes)"),
    "ordered": _CLASSES,  # proposed as classes, with a comment on their order
    "classes": _CLASSES,
    "number": Proposal(
        _number_lines,
        "is taken as the number to predict",
        "target = {0} (a number)",
        lacks_number=is_missing_value,
    ),
    "survival": Proposal(
        _survival_lines,
        "are taken as time and event",
        "time = {0} and event = {1} (survival)",
        lacks_number=is_unknown,
    ),
}
"""The proposal of each kind of outcome."""
