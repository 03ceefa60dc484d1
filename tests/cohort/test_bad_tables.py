"""Runs mil-init on every kind of odd table and compares its messages with tests/bad_inputs.md."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from support.bad_inputs import check_section
from support.commands import Command
from support.workbooks import write_workbook

NUMBERS = [f"{number}.5" for number in range(1, 10)]
DATES = [f"{day:02d}.03.1950" for day in range(1, 10)]
PATIENTS = [f"P{row}" for row in range(1, 11)]
Content = str | bytes | Callable[[Path], Path]


def table_with(header: str, cells: list[str]) -> str:
    rows = [f"P{row};{row % 2};{cell}" for row, cell in enumerate(cells, start=1)]
    return "\n".join([f"ID;LABEL;{header}", *rows])


def ids(cells: list[str]) -> str:
    return "\n".join(["ID;LABEL", *(f"{cell};{'ab'[row % 2]}" for row, cell in enumerate(cells))])


def workbook(*titles: str) -> Callable[[Path], Path]:
    rows = [("ID", "LABEL", "DOB"), *((f"P{row}", row % 2, datetime(1950, 1, row)) for row in range(1, 11))]
    return lambda path: write_workbook(path, {title: rows for title in titles})


PLAIN = table_with("N", [*NUMBERS, "12.5"])
PERMUTED = [2, 8, 1, 3, 5, 7, 9, 4, 6, 10]
PAIRS = "\n".join(f"{row};{patient};{'ab'[row % 2]}" for row, patient in enumerate(PERMUTED, start=1))
WHOLE = [str(row) for row in range(1, 11)]

# Description and file name of each table, its content or the function that writes it, and its folders.
TABLES: list[tuple[str, str, Content, list[str]]] = [
    ("semicolons", "t.csv", PLAIN, PATIENTS),
    ("UTF-16 with its mark", "t.csv", PLAIN.encode("utf-16"), PATIENTS),
    ("first line `sep=;`", "t.csv", f"sep=;\n{PLAIN}", PATIENTS),
    ("line break in the header", "t.csv", PLAIN.replace("ID", '"Patient\nID"'), PATIENTS),
    ("separators at the end of rows", "t.csv", PLAIN.replace(".5\n", ".5;\n"), PATIENTS),
    ("title above the header", "t.csv", f"Patients 2023;;\n{PLAIN}", PATIENTS),
    ("Excel workbook", "t.xlsx", workbook("A"), PATIENTS),
    ("Excel workbook of two sheets", "t.xlsx", workbook("A", "B"), PATIENTS),
    ("OpenDocument spreadsheet", "t.ods", b"PK", PATIENTS),
    ("old Excel workbook", "t.xls", b"\xd0\xcf\x11\xe0", PATIENTS),
    ("damaged workbook", "t.xlsx", b"PK\x03\x04 and no more", PATIENTS),
    ("Windows-1252", "t.csv", PLAIN.replace("N", "Größe").encode("cp1252"), PATIENTS),
    ("UTF-16 without a mark", "t.csv", PLAIN.encode("utf-16-le"), PATIENTS),
    ("row numbers that name folders", "t.csv", f"Nr;Patient;L\n{PAIRS}", WHOLE),
    ("ids `1.0` for folders `1`", "t.csv", ids([f"{row}.0" for row in WHOLE]), WHOLE),
    ("ids `1` for folders `0001`", "t.csv", ids(WHOLE), [row.zfill(4) for row in WHOLE]),
    ("ids `p1` for folders `P1`", "t.csv", ids([row.lower() for row in PATIENTS]), PATIENTS),
    ("folders with a space at the end", "t.csv", ids(PATIENTS), [f"{row} " for row in PATIENTS]),
    ("one row per image", "t.csv", ids(10 * PATIENTS), PATIENTS),
    ("three digits behind every point", "t.csv", table_with("N", ["980", "1.234", "15.600"]), PATIENTS[:3]),
    ("apostrophes between thousands", "t.csv", table_with("N", ["980", "1'234", "15'600"]), PATIENTS[:3]),
    ("dash among numbers", "t.csv", table_with("N", [*NUMBERS, "-"]), PATIENTS),
    ("limit among numbers", "t.csv", table_with("N", [*NUMBERS, ">89"]), PATIENTS),
    ("impossible date", "t.csv", table_with("DOB", [*DATES, "31.02.1950"]), PATIENTS),
    ("years with two digits", "t.csv", table_with("DOB", ["05.03.50", "06.04.61"]), PATIENTS[:2]),
    ("serial numbers for dates", "t.csv", table_with("DOB", ["9192", "12003"]), PATIENTS[:2]),
    ("placeholder date", "t.csv", table_with("DOB", [*DATES, "01.01.1900"]), PATIENTS),
    ("placeholder number", "t.csv", table_with("N", [*NUMBERS, "-999"]), PATIENTS),
    ("negative count", "t.csv", table_with("COUNT", [*NUMBERS, "-4.5"]), PATIENTS),
    ("age of 300", "t.csv", table_with("Age", [*NUMBERS, "300"]), PATIENTS),
]
USUAL = re.compile(r"LABEL |L |no column looks|Review|becomes the age|\S+ has only")


def try_out(
    folder: Path, name: str, content: Content, patients: list[str], command: Command
) -> tuple[str, str]:
    """The exit code and the first message of mil-init that is not about the label or the reference."""
    for patient in patients:
        (folder / "images" / patient).mkdir(parents=True)
        (folder / "images" / patient / "a.png").touch()
    path = folder / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = command("init", path, folder / "images", "--output", folder / "cohort.toml")
    assert "Traceback" not in done.err
    if done.code:
        message = done.err.splitlines()[0].removeprefix("mil-init: ")
    else:
        doubts = [line.removeprefix("  - ") for line in done.out.splitlines()[1:]]
        message = next((doubt for doubt in doubts if not USUAL.search(doubt)), "read")
    return str(done.code), message.replace(f"{folder}/", "")


def test_the_section_of_tables_is_up_to_date(tmp_path: Path, command: Command) -> None:
    rows = [
        (description, *try_out(tmp_path / str(number), name, content, patients, command))
        for number, (description, name, content, patients) in enumerate(TABLES)
    ]
    text = (
        "What `mil-init` says of a table. With exit code 0 it writes a draft, in which the message follows\n"
        "`CHECK`. In a declared cohort, a cell that cannot be read is an error with its row, and an\n"
        "implausible value is a warning with its row."
    )
    check_section("Tables", text, ("table", "exit code", "first message"), rows)
