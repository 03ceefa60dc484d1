"""Read the cells of a table's columns of classes or numbers into arrays of targets.

Each function takes cells with their places, as `columns.cells_of` yields them, and reports what is wrong.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mil_toolkit.cohort.kinds import MetadataColumn, Unreadable, parse_number
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.cells import canonical_word, is_missing, is_missing_value
from mil_toolkit.core.text import each_or_most, printable

Word = str | int
Cells = Sequence[tuple[str, str]]  # place, such as the row and the patient, and text of each cell
UNLABELLED = -1  # the class of a patient without a label


# Classes.


def read_classes(
    cells: Cells,
    column: str,
    classes: Mapping[str, Sequence[Word]],
    problems: Problems,
    unlabelled: Collection[Word] = (),
) -> np.ndarray:
    """Return the number of each cell's class, (P,) from 0 in the order of `classes`; -1 if unlabelled.

    classes: the words of each class, several of which are merged into one; unlabelled: the words of patients
    without a label

    Missing cells and words of no class are reported, and get -1.
    """
    known = {canonical_word(word): number for number, words in enumerate(classes.values()) for word in words}
    known |= {canonical_word(word): UNLABELLED for word in unlabelled}
    unknown = []
    for place, cell in cells:
        if canonical_word(cell) in known:
            continue
        if is_missing(cell):
            _add_missing("label", place, cell, column, problems)
        else:
            unknown.append(f"{place}: {printable(column)} {cell!r}")
    reason = f"not one of {', '.join(_class_words(classes))}"
    lines = (f"{cell} is {reason}." for cell in unknown)
    summary = f"labels are {reason}. Does the table use other words for the classes? Affected:"
    problems.extend(each_or_most(unknown, len(cells), lines, summary))
    return np.array([known.get(canonical_word(cell), UNLABELLED) for _, cell in cells], dtype=int)


def _class_words(classes: Mapping[str, Sequence[Word]]) -> list[str]:
    """Return each word, with the name of its class where the two differ."""
    return [
        repr(word) if str(word) == name else f"{word!r} ({printable(name)})"
        for name, words in classes.items()
        for word in words
    ]


def _add_missing(noun: str, place: str, cell: str, column: str, problems: Problems) -> None:
    advice = f'Fill it in, or declare unlabelled = "{cell}" if the patient is to be predicted.'
    problems.add(f"no {noun} in {column!r}. {advice}", place)


def check_class_words(
    classes: Mapping[str, Sequence[Word]], problems: Problems, unlabelled: Collection[Word] = ()
) -> None:
    """Report fewer than two classes, and words that belong to several classes or also mean unlabelled."""
    if len(classes) < 2:
        names = ", ".join(map(repr, classes)) or "none"
        problems.add(f"at least two classes are needed, but the declared ones are: {names}.", "[cohort]")
    uses: dict[str, list[str]] = defaultdict(list)
    for name, words in (*classes.items(), ("unlabelled", tuple(unlabelled))):
        for canonical in set(map(canonical_word, words)):
            uses[canonical].append(name)
    for canonical, owners in uses.items():
        if len(owners) > 1:
            both = " and ".join(map(repr, owners))
            problems.add(f"the word {canonical!r} belongs to {both}; keep it in one of them.", "[cohort]")


def check_class_sizes(
    labels: np.ndarray, names: Sequence[str], folds: int, problems: Problems, groups: np.ndarray | None = None
) -> None:
    """Report a single class, and classes with fewer patients than folds: labels (P,), -1 if unlabelled.

    groups: (P,); if given, the groups of each class are counted, because folds do not split them
    """
    present = sorted(set(labels[labels >= 0].tolist()))
    if len(present) < 2:
        only = f"only the class {names[present[0]]!r}" if present else "no class"
        problems.add(f"the labelled patients have {only}; at least two classes are needed to train a model.")
        return
    unit = "patients" if groups is None else "groups"
    for number, name in enumerate(names):
        own = labels == number
        count = int(own.sum()) if groups is None else len(np.unique(groups[own]))
        if count < folds:
            problems.add(
                f"the class {name!r} has {count} {unit}, fewer than the {folds} folds. Merge it with another"
                " class (list the words of both under one name), exclude its patients, or use fewer folds."
            )


# Numbers.


def read_numbers(
    cells: Cells,
    column: str,
    decimal: str,
    problems: Problems,
    unlabelled: Collection[Word] = (),
    noun: str = "target",
    transform: str | None = None,
) -> np.ndarray:
    """Return the number of each cell, (P,), NaN if unlabelled; missing and unreadable cells are reported.

    decimal: the decimal sign; noun: what messages call the number; transform: "log" if its logarithm will be
    taken, for which it has to be above 0
    """
    spec = MetadataColumn(noun, column, "number", transform=transform)
    without = set(map(canonical_word, unlabelled))
    values = np.full(len(cells), np.nan)
    unreadable: dict[str, list[str]] = defaultdict(list)
    advice: dict[str, None] = {}  # keys in the order in which they came
    for position, (place, cell) in enumerate(cells):
        if canonical_word(cell) in without:
            continue
        if is_missing_value(cell):
            _add_missing(noun, place, cell, column, problems)
            continue
        try:
            values[position] = parse_number(cell, spec, decimal)
        except Unreadable as error:
            unreadable[error.reason].append(f"{place}: {printable(column)} {cell!r}")
            advice[error.advice.replace(spec.section, "[cohort]")] = None
    for reason, affected in unreadable.items():
        lines = (f"{cell} {reason}" for cell in affected)
        summary = f"cells cannot be read: each {reason} Affected:"
        problems.extend(each_or_most(affected, len(cells), lines, summary))
    problems.extend(f"{text}." for text in advice if text)
    if 2 * sum(map(len, unreadable.values())) > len(cells) and noun == "target":
        problems.add(
            f"Is {column!r} a number? If it holds the names of classes, declare it as label, with classes."
        )
    return values


def check_numbers(targets: np.ndarray, column: str, problems: Problems) -> None:
    """Report a target without two different values: targets (P,), NaN if unlabelled."""
    known = targets[~np.isnan(targets)]
    if len(np.unique(known)) < 2:
        value = f"is {known[0]:g} for every labelled patient" if len(known) else "has no number"
        problems.add(f"the target {column!r} {value}; a model needs targets that differ.")
