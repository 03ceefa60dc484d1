"""Names, counts and lists as text for messages."""

from collections.abc import Iterable, Sequence
from pathlib import Path

SOME = 5  # items of a long list that a message shows


def printable(text: str | Path) -> str:
    r"""Return a text or a path fit for a one-line message: escaped, if it is not printable as it is.

    >>> printable("müller")
    'müller'
    >>> printable("two\nlines")
    'two\\nlines'
    """
    line = str(text)
    return line if line.isprintable() else ascii(line)[1:-1]


def some(items: Sequence[object]) -> str:
    """Return the first `SOME` items, separated by commas, and the number of the others.

    >>> some(["P1", "P2"])
    'P1, P2'
    >>> some(range(7))
    '0, 1, 2, 3, 4 and 2 more'
    """
    rest = len(items) - SOME
    return ", ".join(map(str, items[:SOME])) + (f" and {rest} more" if rest > 0 else "")


def each_or_most(failed: Sequence[str], total: int, lines: Iterable[str], summary: str) -> list[str]:
    """Return one line for each failed item, or a single summary line if most of a large number failed.

    The summary is used if more than `SOME` items and more than half of all items failed: a common cause is
    then more likely than separate mistakes.

    failed: names of the failed items; total: the number of items checked; lines: one message for each failed
    item
    summary: placed between the counts and the first names

    >>> each_or_most(["P1"], 9, ["P1 has no images."], "patients have no images:")
    ['P1 has no images.']
    >>> names = ["P1", "P2", "P3", "P4", "P5", "P6", "P7"]
    >>> each_or_most(names, 9, [f"{name} has no images." for name in names], "patients have no images:")
    ['7 of 9 patients have no images: P1, P2, P3, P4, P5 and 2 more.']
    """
    if len(failed) <= SOME or 2 * len(failed) <= total:
        return list(lines)
    return [f"{len(failed)} of {total} {summary} {some(failed)}."]


def counted(value: float) -> str:
    """Return a count, possibly a mean, with one decimal, or with none if that decimal is zero.

    >>> counted(7), counted(1.5)
    ('7', '1.5')
    """
    return f"{value:.1f}".removesuffix(".0")


def count_of(value: float, one: str, many: str = "") -> str:
    """Return a count with its noun: `one` for exactly one, else `many`, which defaults to `one` with an "s".

    >>> count_of(1, "patient"), count_of(1.5, "patient"), count_of(2, "search", "searches")
    ('1 patient', '1.5 patients', '2 searches')
    """
    return f"{counted(value)} {one if counted(value) == '1' else many or one + 's'}"
