"""Names, counts and lists as text for messages."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

SOME = 5  # items of a long list that a message shows
_LINES, _LINE_LENGTH = 40, 600  # of an error message on the terminal


def printable(text: str | Path) -> str:
    r"""Return a text or a path fit for a one-line message: escaped, if it is not printable as it is.

    >>> printable("müller")
    'müller'
    >>> printable("two\nlines")
    'two\\nlines'
    """
    line = str(text)
    return line if line.isprintable() else ascii(line)[1:-1]


def visible(text: str) -> str:
    r"""Return a text of several lines with every character escaped that a terminal may act on.

    >>> visible("one\ntwo \x1b[31m")
    'one\ntwo \\x1b[31m'
    """
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    is_space = character in "\n\t" or unicodedata.category(character) == "Zs"
    return character if is_space or character.isprintable() else ascii(character)[1:-1]


def one_screen(message: str) -> str:
    r"""Return an error message as it fits on a screen, with its first lines and its last one.

    >>> one_screen("problem\n" * 100 + "advice").splitlines()[-2:]
    ['... and 62 more problems ...', 'advice']
    """
    lines = message.split("\n")
    if len(lines) > _LINES:
        lines[_LINES - 2 : -1] = [f"... and {len(lines) - _LINES + 1} more problems ..."]
    return "\n".join(map(_shortened, lines))


def _shortened(line: str) -> str:
    left_out = len(line) - _LINE_LENGTH
    half = _LINE_LENGTH // 2
    return line if left_out <= 0 else f"{line[:half]} ... ({left_out} more characters) ... {line[-half:]}"


def by_name(names: Sequence[str], values: Sequence[object]) -> str:
    """Return values by name; readable where names are numbers, too.

    >>> by_name(["1", "2"], [10, 13])
    '1: 10, 2: 13'
    """
    return ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))


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


def duration_words(seconds: float) -> str:
    """Return a duration in words, exact to a few per cent.

    >>> duration_words(42.4), duration_words(200), duration_words(4 * 3600)
    ('42 s', '3.3 min', '4.0 h')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return f"{seconds:.0f} s"
