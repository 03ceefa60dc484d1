"""`misfits`: the tensors in which a checkpoint differs from a network, on ten lines."""

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches

from torch import Tensor

from mil_toolkit.core.text import printable

LINES = 10
_CLOSE = 0.7  # least similarity of two names for difflib
_COMPARED = 500  # names that are compared


def misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return at most LINES lines about tensors that are missing, unexpected or of another shape.

    A missing tensor is shown with the unexpected one of the same shape whose name is closest, if one is
    close.
    """
    missing, unexpected = own.keys() - given.keys(), given.keys() - own.keys()
    shapes = [name for name in own if name in given and given[name].shape != own[name].shape]
    kinds: list[tuple[str, Collection[str], Callable[[str], str]]] = [
        ("", shapes, lambda name: f"{printable(name)}: {_shape(given[name])} instead of {_shape(own[name])}"),
        ("missing: ", missing, lambda name: f"missing: {printable(name)}{_closest(name, own, given)}"),
        ("unexpected: ", unexpected, lambda name: f"unexpected: {printable(name)}"),
    ]
    kinds = [kind for kind in kinds if kind[1]]
    total = sum(len(names) for _, names, _ in kinds)
    room = total if total <= LINES else LINES // len(kinds)
    return sorted(line for kind in kinds for line in _shown(*kind, room))


def _shown(words: str, names: Collection[str], describe: Callable[[str], str], room: int) -> list[str]:
    """Return a line for each of the first names, and one for the number of the others."""
    first = sorted(names) if len(names) <= room else sorted(names)[: room - 1]
    rest = len(names) - len(first)
    return [describe(name) for name in first] + ([f"{words}{rest:,} more"] if rest else [])


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _closest(name: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    alike = [other for other, tensor in given.items() if other not in own and tensor.shape == own[name].shape]
    # Names that end alike first, since prefixes differ most often.
    alike.sort(key=lambda other: other.rpartition(".")[2] != name.rpartition(".")[2])
    close = get_close_matches(name, alike[:_COMPARED], 1, _CLOSE)
    return f" (closest: {printable(close[0])})" if close else ""
