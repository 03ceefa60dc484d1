"""Pieces of the lines that mil-init writes."""

from collections.abc import Collection

from mil_toolkit.core.text import printable

CHECK = "# CHECK: "
EXAMPLES = 3  # cells that a line shows


def check(text: str) -> str:
    """Return a comment that asks the reader to check a guess."""
    return CHECK + text


def examples(cells: Collection[str]) -> str:
    """Return the first different cells in their order, as messages show them."""
    return "for example " + ", ".join(printable(repr(cell)) for cell in sorted(set(cells))[:EXAMPLES])
