"""Read a sheet of an Excel workbook into rows of cells that keep their types."""

import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.cells import DateCell, NumberCell
from mil_toolkit.core.reading import MEBIBYTE
from mil_toolkit.core.text import printable

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.cell.cell import Cell
    from openpyxl.worksheet.worksheet import Worksheet

ZIP, OLD_OFFICE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
SAVE = "Save the table as .xlsx or as CSV in UTF-8."
REFUSED = {
    ".ods": "an OpenDocument spreadsheet",
    ".fods": "an OpenDocument spreadsheet",
    ".xls": "an old Excel workbook",
    ".xlsb": "a binary Excel workbook",
    ".numbers": "a Numbers spreadsheet",
}
UNPACKED_LIMIT = 256 * MEBIBYTE
SHEETS, ROWS, CELLS = 100, 2**20, 5_000_000  # at most; a spreadsheet program has no more rows
Rows: TypeAlias = list[list[str]]


class _Position(NamedTuple):
    """A cell with its value and with its formula, if it has one."""

    value: "Cell"
    formula: "Cell"


def is_workbook(data: bytes) -> bool:
    """Return whether a file is an Excel workbook by its content, whatever its name."""
    return data.startswith(ZIP) and "xl/workbook.xml" in _members(data)


def problem_of_format(suffix: str, data: bytes) -> str | None:
    """Return why a file cannot be read as a table, if that shows in its name or its first bytes."""
    if suffix.lower() in REFUSED:
        return f"is {REFUSED[suffix.lower()]}, which is not read. {SAVE}"
    if data.startswith(OLD_OFFICE):
        return f"is an old or an encrypted Excel workbook, which is not read. {SAVE}"
    if data.startswith(ZIP) and not is_workbook(data):
        return f"is a compressed file without an Excel workbook, which is not read. {SAVE}"
    if suffix.lower() in (".xlsx", ".xlsm") and not data.startswith(ZIP):
        return f"is not an Excel workbook, in spite of its name. {SAVE}"
    return None


def _members(data: bytes) -> dict[str, int]:
    """Return the sizes of the files in an archive; empty if it is damaged."""
    try:
        return {entry.filename: entry.file_size for entry in zipfile.ZipFile(io.BytesIO(data)).infolist()}
    except Exception:  # noqa: BLE001 - zipfile raises many kinds of errors at a damaged archive
        return {}


def read_workbook(data: bytes, name: str, problems: Problems, sheet: str | None) -> Rows | None:
    """Return the rows of a sheet; numbers and dates become `NumberCell` and `DateCell`.

    sheet: the name of the sheet; None if only one has cells

    Returns None, with the reason added to `problems`, if the workbook cannot be read.
    """
    size = sum(_members(data).values())
    if size > UNPACKED_LIMIT:
        problems.add(f"{name} is {size:,} bytes when it is unpacked, more than {UNPACKED_LIMIT:,}. {SAVE}")
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # a date out of range becomes an error cell
            values, formulas = _load(data, values=True), _load(data, values=False)
            title = _sheet_title(values, name, problems, sheet)
            return None if title is None else _read_sheet(values[title], formulas[title], name, problems)
    except Exception as error:  # noqa: BLE001 - openpyxl raises many kinds of errors at a damaged file
        problems.add(f"{name} cannot be read as an Excel workbook: {printable(str(error))}. {SAVE}")
        return None


def _load(data: bytes, values: bool) -> "Workbook":
    import openpyxl  # here, because most tables are text

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=values)
    if len(book.worksheets) > SHEETS:
        raise ValueError(f"it has {len(book.worksheets)} sheets, more than {SHEETS}")
    for worksheet in book.worksheets:
        worksheet.reset_dimensions()  # the stored dimensions may be wrong
    return book


def _sheet_title(book: "Workbook", name: str, problems: Problems, sheet: str | None) -> str | None:
    titles = [worksheet.title for worksheet in book.worksheets]
    if sheet is not None:
        if sheet in titles:
            return sheet
        problems.add(f"{name} has no sheet {sheet!r}; it has {', '.join(map(repr, titles))}.")
        return None
    filled = [worksheet.title for worksheet in book.worksheets if _has_cells(worksheet)]
    if len(filled) > 1:
        advice = f'Name one of them in [cohort], such as sheet = "{filled[0]}" (mil-init: --sheet).'
        problems.add(f"{name} has several sheets: {', '.join(map(repr, filled))}. {advice}")
        return None
    return (filled or titles)[0]


def _has_cells(worksheet: "Worksheet") -> bool:
    return any(cell.value is not None for row in _rows_of(worksheet) for cell in row)


def _rows_of(worksheet: "Worksheet") -> Iterator[Sequence["Cell"]]:
    """Yield the rows of a sheet; raises ValueError if they are too many, since a file may declare any number.

    A row's missing cells before its last one are filled in, and so are missing rows.
    """
    cells = 0
    for number, row in enumerate(worksheet.iter_rows(), start=1):
        cells += len(row)
        if number > ROWS or cells > CELLS:
            raise ValueError(f"sheet {worksheet.title} has more than {ROWS:,} rows or {CELLS:,} cells")
        yield row


def _read_sheet(values: "Worksheet", formulas: "Worksheet", name: str, problems: Problems) -> Rows:
    """Return the cells of the rows, all of the same length."""
    pairs = zip(_rows_of(values), _rows_of(formulas), strict=True)
    rows = []
    for number, (row, row_of_formulas) in enumerate(pairs, start=1):
        positions = [_Position(*pair) for pair in zip(row, row_of_formulas, strict=True)]
        for problem in _problems_of_row(positions):
            problems.add(problem, f"{name}, row {number}")
        rows.append([_cell(position.value) for position in positions])
    width = max(map(len, rows), default=0)
    if width * len(rows) > CELLS:
        raise ValueError(f"sheet {values.title} has more than {CELLS:,} cells")
    return [row + [""] * (width - len(row)) for row in rows]


def _problems_of_row(positions: list[_Position]) -> Iterator[str]:
    for value, formula in positions:
        if value.data_type == "e" and value.value != "#N/A":
            yield f"cell {value.coordinate} holds the error {value.value}. Correct or empty it."
        if value.value is None and formula.data_type == "f":
            advice = "Open the workbook in a spreadsheet program and save it."
            yield f"the result of the formula in cell {formula.coordinate} is not stored. {advice}"


def _cell(cell: "Cell") -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return NumberCell(int(value) if float(value).is_integer() else repr(value))
    if isinstance(value, datetime):
        midnight = value.time() == datetime.min.time()
        return DateCell(value.date() if midnight else value.isoformat(" "))
    return DateCell(value) if isinstance(value, date) else str(value).strip()
