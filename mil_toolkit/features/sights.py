"""`Sight`: what the search for nuclei found in an image, and its words."""

from collections.abc import Mapping
from typing import Literal

from mil_toolkit.core.text import count_of

Sight = Literal["one", "several", "cut", "none"]
"""The content of an image: one nucleus, several, one that the image's border cuts, or none."""
FINDER = "nuclear-stain-1"
"""The name of the search in specs; a search that finds other nuclei gets another number."""
RIM = 0.3  # width of what a cell mask keeps around a nucleus, as a share of the nucleus's radius
SIGHTS: dict[Sight, str] = {
    "one": "one nucleus",
    "several": "several nuclei",
    "cut": "nucleus cut by the border",
    "none": "no nucleus",
}


def sight_summary(counts: Mapping[Sight, int]) -> str:
    """Return one line with the number of images of each kind, and what a window shows of them.

    >>> sight_summary({"one": 1, "none": 1}).partition(". ")[0]
    '2 images: one nucleus in 1, several in 0, one that the border cuts in 0, none in 1'
    """
    one, several, cut, none = (f"{counts.get(sight, 0):,}" for sight in SIGHTS)
    return (
        f"{count_of(sum(counts.values()), 'image')}: one nucleus in {one}, several in {several}, one that the"
        f" border cuts in {cut}, none in {none}. Of several, the window shows the nearest to the centre;"
        " without one, the centre; at the border, it is moved inside."
    )
