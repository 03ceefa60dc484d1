"""Text tables: encodings, separators, and what stands around the table itself."""

from pathlib import Path

import pytest

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TextTable, read_table

PLAIN = "ID;LABEL;N\nP1;1;2,5\nP2;0;3,5\nP3;1;4,5\n"
HEADER = ("ID", "LABEL", "N")
ROWS = (("P1", "1", "2,5"), ("P2", "0", "3,5"), ("P3", "1", "4,5"))


def table_of(folder: Path, content: bytes) -> TextTable:
    (folder / "t.csv").write_bytes(content)
    problems = Problems()
    table = read_table(folder / "t.csv", "t.csv", problems)
    assert table is not None and not problems.lines, problems.lines
    return table


@pytest.mark.parametrize(
    ("text", "first_row"),
    [
        (PLAIN, 2),
        ("sep=;\n" + PLAIN, 2),
        ("SEP=;\r\n" + PLAIN.replace("\n", "\r\n"), 2),
        ('"sep=;"\n' + PLAIN, 2),
        (";;\n\n" + PLAIN, 4),
        ("ID;LABEL;N;;\n" + PLAIN.split("\n", 1)[1], 2),
        (PLAIN.replace(",5\n", ",5;\n"), 2),
        (PLAIN.replace("3,5\n", "3,5;;;\n"), 2),
    ],
)
def test_the_table_is_read_without_what_stands_around_it(tmp_path: Path, text: str, first_row: int) -> None:
    table = table_of(tmp_path, text.encode())
    assert (table.header, table.rows, table.notes) == (HEADER, ROWS, ())
    assert table.numbers == tuple(range(first_row, first_row + 3))


@pytest.mark.parametrize(
    ("above", "named"),
    [
        ("Patientenliste 2023;;\n", "'Patientenliste 2023'"),
        ("Liste, vom 1.2.2023, alle\n\n", "'Liste, vom 1.2.2023, alle'"),
        ("Liste;;\nStand: Mai;;\n", "'Liste', 'Stand: Mai'"),
        ("sep=;\nListe\n", "'Liste'"),
        (";Labor;\n", "'Labor'"),
    ],
)
def test_titles_above_the_header_are_passed_over_and_named(tmp_path: Path, above: str, named: str) -> None:
    table = table_of(tmp_path, (above + PLAIN).encode())
    assert (table.header, table.rows) == (HEADER, ROWS)
    assert len(table.notes) == 1 and table.notes[0].endswith(f"and not what stands above it: {named}.")


def test_merged_cells_above_the_header_are_passed_over(tmp_path: Path) -> None:
    table = table_of(tmp_path, b"Patient;;Labor;\nID;LABEL;N;M\nP1;1;2;x\nP2;0;3;y\n")
    assert table.header == ("ID", "LABEL", "N", "M") and table.numbers == (3, 4)


@pytest.mark.parametrize("header", [",ID,LABEL", "ID,,", ",ID"])
def test_a_header_with_unnamed_columns_stays_the_header(tmp_path: Path, header: str) -> None:
    width = header.count(",") + 1
    rows = "".join(f"{','.join(f'{row}{column}' for column in range(width))}\n" for row in range(4))
    assert table_of(tmp_path, f"{header}\n{rows}".encode()).header == tuple(header.split(","))


@pytest.mark.parametrize(
    "header", ['"N, in G/L, by hand, x"', "N, in G/L, by hand, x", '"N,\n1,2,3,4"', '"N;x;y;z"']
)
def test_the_separator_is_that_of_the_rows(tmp_path: Path, header: str) -> None:
    table = table_of(tmp_path, PLAIN.replace("N\n", f"{header}\n").encode())
    assert table.header == ("ID", "LABEL", header.strip('"')) and table.rows == ROWS


def test_a_line_break_in_the_first_header_cell_is_read(tmp_path: Path) -> None:
    table = table_of(tmp_path, PLAIN.replace("ID", '"Patient\nID"').encode())
    assert table.header == ("Patient\nID", "LABEL", "N") and table.rows == ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_utf_16_with_its_mark_is_read(tmp_path: Path, encoding: str, separator: str) -> None:
    text = PLAIN.replace(";", separator).replace("P1", "Pé1")
    mark = "" if encoding == "utf-16" else "\ufeff"
    assert table_of(tmp_path, (mark + text).encode(encoding)).rows[0] == ("Pé1", "1", "2,5")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PLAIN.encode("utf-16-le"), "t.csv is not text: it contains NUL characters."),
        (PLAIN.encode("utf-32"), "t.csv is not text: it contains NUL characters."),
        (PLAIN.encode("utf-16")[:-1], "is not UTF-16 text."),
        ("ID;Größe\n".encode("cp1252"), "t.csv, line 1 is not UTF-8 text."),
    ],
)
def test_other_encodings_are_refused_with_advice(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    problems = Problems()
    assert read_table(tmp_path / "t.csv", "t.csv", problems) is None
    assert expected in problems.lines[0] and problems.lines[0].endswith("Save the table as CSV in UTF-8.")
