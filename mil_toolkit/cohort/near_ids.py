"""Find ids that nearly match the names of folders, to show them; ids are never matched loosely."""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mil_toolkit.core.cells import is_missing, normal_form
from mil_toolkit.core.text import printable, some


@dataclass(frozen=True)
class NearIds:
    """The cells of a column that nearly match folders, as pairs of a cell and a folder."""

    column: str
    pairs: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return some(
            [
                f"{printable(repr(cell))} for the folder {printable(repr(folder))}"
                for cell, folder in self.pairs
            ]
        )


def nearest_column(columns: Mapping[str, Sequence[str]], folders: Collection[str]) -> NearIds | None:
    """Return the column with the most ids that nearly match folders; None if no column has any."""
    for simplify in (_plain, _last_number):
        near = [NearIds(name, _pairs(cells, folders, simplify)) for name, cells in columns.items()]
        best = max(near, key=lambda ids: len(ids.pairs), default=None)
        if best and best.pairs:
            return best
    return None


def near_ids(column: str, cells: Sequence[str], folders: Collection[str]) -> NearIds:
    """Return the ids of a column without a folder that nearly match a folder without a row."""
    return NearIds(column, _pairs(cells, folders, _plain))


def _pairs(
    cells: Sequence[str], folders: Collection[str], simplify: Callable[[str], str]
) -> tuple[tuple[str, str], ...]:
    ids = dict.fromkeys(normal_form(cell) for cell in cells if not is_missing(cell))
    free = {simplify(folder): folder for folder in sorted(folders) if folder not in ids}
    pairs = ((cell, free.get(simplify(cell))) for cell in ids if cell not in folders and simplify(cell))
    return tuple((cell, folder) for cell, folder in pairs if folder is not None)


def _plain(text: str) -> str:
    """Return a text in lower case without spaces, signs, leading zeros and the decimals of 1.0."""
    text = unicodedata.normalize("NFKC", text).casefold().strip()
    text = re.sub(r"(?<=\d)[.,]0+$", "", text)
    return re.sub(r"0*(\d+)", r"\1", re.sub(r"[\W_]", "", text))


def _last_number(text: str) -> str:
    """Return the last number in a text without leading zeros; empty if there is none."""
    numbers = re.findall(r"\d+", _plain(text))
    return numbers[-1] if numbers else ""
