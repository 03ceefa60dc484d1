"""`Sight`: what the search for nuclei found in an image, and its words."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain, islice, zip_longest
from typing import Literal, TypeVar

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
DOUBTFUL: tuple[Sight, ...] = ("none", "cut", "several")
Image = TypeVar("Image")


def choose_doubtful(images: Iterable[tuple[Sight, Image]], most: int) -> list[Image]:
    """Choose at most so many images with any doubt, in turn of each kind, sorted in the order of DOUBTFUL.

    >>> choose_doubtful([("several", 1), ("one", 2), ("several", 3), ("none", 4)], 2)
    [4, 1]
    """
    kinds: dict[Sight, list[tuple[Sight, Image]]] = defaultdict(list)
    for sight, image in images:
        kinds[sight].append((sight, image))
    turns = zip_longest(*(kinds[sight] for sight in DOUBTFUL))
    chosen = islice((pair for pair in chain.from_iterable(turns) if pair is not None), most)
    return [image for _, image in sorted(chosen, key=lambda pair: DOUBTFUL.index(pair[0]))]


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
