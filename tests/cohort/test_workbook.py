"""Reading Excel workbooks: typed cells, sheets, and files that are not workbooks."""

import sys
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import pytest
from support.cohort_files import only_problem, problems, touch
from support.fuzzing import run_isolated
from support.workbooks import write_workbook

from mil_toolkit.cohort import workbook
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import read_table
from mil_toolkit.cohort.workbook import UNPACKED_LIMIT

TOML = """\
[cohort]
name = "c"
table = "t.xlsx"
id = "Nr"
label = "L"
positive = 1
negative = 0
decimal = ","
{more}
[metadata.age]
column = "DOB"
kind = "birth-date"
formats = ["%m/%d/%y"]
reference = 2020-12-31

[metadata.n]
column = "N"
kind = "number"
"""
ROWS = [
    ("Nr", "L", "DOB", "N"),
    (1.0, 1.0, datetime(1950, 3, 5), 1.234),
    (2, 0, date(1960, 4, 6), 2),
    ("0003", "1", "07/28/65", "3,5"),
    (4, 0, datetime(1970, 1, 2, 10, 30), None),
]


def cohort_of(folder: Path, more: str = "", rows: Sequence[Sequence[object]] = ROWS) -> Path:
    write_workbook(folder / "t.xlsx", {"Data": rows, "Empty": []})
    (folder / "c.toml").write_text(TOML.format(more=more))
    return folder / "c.toml"


def test_numbers_and_dates_of_a_workbook_are_typed(tmp_path: Path) -> None:
    cohort = read_cohort(cohort_of(tmp_path), images=False)
    assert cohort.patient_ids == ("1", "2", "0003", "4")
    assert cohort.labels.tolist() == [1, 0, 1, 0]
    births = [date(1950, 3, 5), date(1960, 4, 6), date(1965, 7, 28), date(1970, 1, 2)]
    assert cohort.metadata["age"].tolist() == [(date(2020, 12, 31) - birth).days / 365.25 for birth in births]
    assert cohort.metadata["n"].tolist()[:3] == [1.234, 2.0, 3.5]
    assert cohort.metadata["n"].isna().tolist() == [False, False, False, True]


def test_booleans_and_large_numbers_keep_their_values(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "t.xlsx", {"A": [("a", "b"), (True, 12345678901), (False, 0.1)]})
    table = read_table(path, "t.xlsx", Problems())
    assert table is not None and table.rows == (("TRUE", "12345678901"), ("FALSE", "0.1"))


def test_one_of_several_sheets_must_be_named(tmp_path: Path) -> None:
    path = cohort_of(tmp_path)
    write_workbook(tmp_path / "t.xlsx", {"Data": ROWS, "Old": [("x",)]})
    expected = "t.xlsx has several sheets: 'Data', 'Old'. Name one of them in [cohort]"
    assert only_problem(path, images=False).startswith(expected)
    path.write_text(TOML.format(more='sheet = "Data"'))
    assert len(read_cohort(path, images=False)) == 4
    path.write_text(TOML.format(more='sheet = "data"'))
    assert only_problem(path, images=False) == "t.xlsx has no sheet 'data'; it has 'Data', 'Old'."


def test_a_sheet_of_a_text_table_is_refused(tmp_path: Path) -> None:
    path = cohort_of(tmp_path, 'sheet = "Data"\n')
    (tmp_path / "t.csv").write_text("Nr,L,DOB,N\n1,1,03/05/50,2\n")
    path.write_text(path.read_text().replace("t.xlsx", "t.csv"))
    assert only_problem(path, images=False) == "t.csv is not a workbook; remove the sheet 'Data'."


def test_errors_and_unknown_results_of_formulas_are_reported(tmp_path: Path) -> None:
    rows = [*ROWS[:4], (4, 0, "#DIV/0!", "=A2*2"), (5, 1, "#N/A", "#REF!")]
    formula = "the result of the formula in cell D5 is not stored."
    assert problems(cohort_of(tmp_path, rows=rows), images=False)[:3] == [
        "t.xlsx, row 5: cell C5 holds the error #DIV/0!. Correct or empty it.",
        f"t.xlsx, row 5: {formula} Open the workbook in a spreadsheet program and save it.",
        "t.xlsx, row 6: cell D6 holds the error #REF!. Correct or empty it.",
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.ods", b"PK\x03\x04", "t.ods is an OpenDocument spreadsheet, which is not read."),
        ("t.XLS", b"x", "t.XLS is an old Excel workbook, which is not read."),
        ("t.xlsb", b"x", "t.xlsb is a binary Excel workbook, which is not read."),
        ("t.numbers", b"x", "t.numbers is a Numbers spreadsheet, which is not read."),
        ("t.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "t.xlsx is an old or an encrypted Excel workbook"),
        ("t.csv", b"PK\x03\x04abc", "t.csv is a compressed file without an Excel workbook"),
        ("t.xlsx", b"ID,L\n", "t.xlsx is not an Excel workbook, in spite of its name."),
    ],
)
def test_other_spreadsheets_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    found = Problems()
    assert read_table(tmp_path / name, name, found) is None
    assert found.lines == [found.lines[0]] and found.lines[0].startswith(expected)
    assert found.lines[0].endswith("Save the table as .xlsx or as CSV in UTF-8.")


def test_a_damaged_workbook_is_refused(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "t.xlsx", {"A": ROWS})
    data = path.read_bytes()
    for position in range(60, len(data), 97):
        path.write_bytes(data[:position] + bytes(8) + data[position + 8 :])
        found = Problems()
        assert read_table(path, "t.xlsx", found) is not None or found.lines


def test_a_workbook_is_recognised_by_its_content(tmp_path: Path) -> None:
    write_workbook(tmp_path / "t.xlsx", {"A": ROWS}).rename(tmp_path / "t.csv")
    table = read_table(tmp_path / "t.csv", "t.csv", Problems())
    assert table is not None and len(table.rows) == 4


def test_an_image_table_may_be_a_workbook(tmp_path: Path) -> None:
    path = cohort_of(tmp_path, 'image_table = "i.xlsx"\n')
    ids = ("1", "2", "0003", "4")
    for patient in ids:
        touch(tmp_path / f"{patient}.png")
    write_workbook(tmp_path / "i.xlsx", {"A": [("patient", "path"), *((i, f"{i}.png") for i in ids)]})
    assert sum(map(len, read_cohort(path).images.values())) == 4


SHEET = "xl/worksheets/sheet1.xml"


def with_entry(path: Path, name: str, content: bytes) -> None:
    """Replace the content of a file in a workbook, and compress it."""
    with zipfile.ZipFile(path) as old:
        files = {entry: old.read(entry) for entry in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry, data in (files | {name: content}).items():
            new.writestr(entry, data)


def sheet(rows: str, before: str = "") -> bytes:
    space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    dimension = '<dimension ref="A1:XFD1048576"/>'
    text = f'{before}<worksheet xmlns="{space}">{dimension}<sheetData>{rows}</sheetData></worksheet>'
    return text.encode()


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
ENTITIES = f'<!DOCTYPE x [<!ENTITY l0 "{"ha" * 100}">{LAUGHS}]>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY l11 SYSTEM "file:///etc/passwd">]>'
TEXT = '<row r="1"><c r="A1" t="inlineStr"><is><t>&l11;</t></is></c></row>'
PADDED = "".join(f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(1, 2000))
BOMBS = {
    "entities that expand": sheet(TEXT, ENTITIES),
    "an external entity": sheet(TEXT, EXTERNAL),
    "a row far below": sheet('<row r="99999999999"><c><v>1</v></c></row>'),
    "cells far to the right": sheet(PADDED),
    "a column beyond all": sheet('<row r="1"><c r="ZZZZZZ1"><v>1</v></c></row>'),
    "numbers of many digits": sheet(f'<row r="1"><c r="A1"><v>{"9" * 5000}</v></c></row>'),
    "deep elements": b"<a>" * 100_000,
    "zeros": bytes(UNPACKED_LIMIT + 1),
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("name", BOMBS)
def test_workbooks_that_declare_more_than_they_hold_are_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process whose memory is limited."""
    monkeypatch.setattr(workbook, "CELLS", 10**5)
    path = write_workbook(tmp_path / "t.xlsx", {"A": ROWS})
    with_entry(path, SHEET, BOMBS[name])
    assert path.stat().st_size < 10**6

    def read() -> int:
        found = Problems()
        table = read_table(path, "t.xlsx", found)
        print(found.lines)
        return int(not found.lines or table is not None)

    done = run_isolated(read, tmp_path / "printed")
    assert done.code == 0, done.text
    assert "root:" not in done.text


def test_the_declared_dimensions_of_a_sheet_are_not_believed(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "t.xlsx", {"A": ROWS})
    rows = "".join(f'<row r="{row}"><c r="A{row}"><v>{row}</v></c></row>' for row in range(1, 4))
    with_entry(path, SHEET, sheet(rows))
    table = read_table(path, "t.xlsx", Problems())
    assert table is not None and len(table.rows) == 2


def test_the_number_of_sheets_has_a_limit(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "t.xlsx", {f"S{number}": [] for number in range(101)})
    found = Problems()
    assert read_table(path, "t.xlsx", found) is None
    assert "it has 101 sheets, more than 100" in found.lines[0]
