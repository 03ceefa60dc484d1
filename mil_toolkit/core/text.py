"""Names, counts and lists as text for messages."""

from collections.abc import Iterable, Sequence


def shown(text: str) -> str:
    """A text as a message may show it: what cannot be printed is escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]


SOME = 5  # items of a list that a message shows


def some(items: Sequence[object]) -> str:
    """The first of some items, and how many more there are."""
    rest = len(items) - SOME
    return ", ".join(map(str, items[:SOME])) + (f" and {rest} more" if rest > 0 else "")


def each_or_most(failed: Sequence[str], of: int, lines: Iterable[str], most: str) -> list[str]:
    """A line for each that failed; where most of all did, one line that tells the cause, with some of them.

    lines: of each; most: the cause, behind how many failed: "7 of 9 " + most + " P1, P2, P3, P4, P5 and 2 more."
    """
    if len(failed) <= SOME or 2 * len(failed) <= of:
        return list(lines)
    return [f"{len(failed)} of {of} {most} {some(failed)}."]


def counted(value: float) -> str:
    """A mean count: one decimal, none where it is whole."""
    return f"{value:.1f}".removesuffix(".0")


def count_of(value: float, one: str, many: str = "") -> str:
    """How many of something, in the singular or the plural, which has an s unless told."""
    return f"{counted(value)} {one if counted(value) == '1' else many or one + 's'}"
