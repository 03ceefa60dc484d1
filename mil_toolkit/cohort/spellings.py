"""How the cells of a metadata column are written, where one value may be written in several ways.

Models never see it. The audit compares it with the label, since tables that were joined from several sources
differ in it.
"""

import numpy as np

from mil_toolkit.cohort.dates import read_date
from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.kinds import MetadataColumn, parse_category
from mil_toolkit.cohort.table import TextTable
from mil_toolkit.core.cells import is_missing, normal_form


def read_spellings(declared: Declaration, table: TextTable) -> dict[str, np.ndarray]:
    """Return how each cell is written, (P,) by metadata name; None if missing or written in only one way.

    Of a birth date, it is the format; of a word that the column writes in several ways, it is `upper case`,
    `lower case` or `mixed case`. Columns that are written in one way throughout are left out.
    """
    styles = {column.name: _styles(column, table.column(column.column) or []) for column in declared.columns}
    return {name: np.array(ways, dtype=object) for name, ways in styles.items() if len({*ways, None}) > 2}


def _styles(column: MetadataColumn, cells: list[str]) -> list[str | None]:
    if column.kind == "birth-date":
        return [next(iter(read_date(cell, column.formats)), None) for cell in cells]
    if column.kind != "category":
        return [None] * len(cells)
    words = [parse_category(cell, column, "") for cell in cells]
    spellings: dict[str, set[str]] = {}
    for word, cell in zip(words, cells, strict=True):
        spellings.setdefault(word, set()).add(normal_form(cell))
    return [
        None if is_missing(cell) or len(spellings[word]) < 2 else _case(cell)
        for word, cell in zip(words, cells, strict=True)
    ]


def _case(cell: str) -> str:
    return "upper case" if cell.isupper() else "lower case" if cell.islower() else "mixed case"
