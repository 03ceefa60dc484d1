"""Reading delimited text."""

import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cohort_files import TABLE, TOML, only_problem, problems, write

from mil_toolkit.cohort.cells import MISSING
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.delimited import guess_separator
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import read_table


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_separators_are_guessed(tmp_path: Path, separator: str, mark: str, line_end: str) -> None:
    expected = read_cohort(write(tmp_path)).digest()
    path = write(tmp_path)
    text = mark + TABLE.replace(",", separator).replace("\n", line_end)
    (tmp_path / "table.csv").write_bytes(text.encode())
    assert read_cohort(path).digest() == expected


def test_a_declared_separator_is_used(tmp_path: Path) -> None:
    table = 'ID;"a,b,c,d,e,f"\nP1;x\nP2;y\nP3;x\n'
    toml = '[cohort]\nname = "c"\ntable = "table.csv"\nimages = ["images"]\nid = "ID"\nseparator = ";"\n'
    assert guess_separator("ID;a,b,c,d") == ","
    section = '[metadata.m]\ncolumn = "a,b,c,d,e,f"\nkind = "category"\n'
    assert read_cohort(write(tmp_path, table, toml + section)).metadata["m"].tolist() == ["X", "Y", "X"]


CELLS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8
).filter(lambda text: text == text.strip() and text.lower() not in MISSING)


@given(
    st.lists(CELLS, min_size=1, max_size=6, unique_by=lambda cell: unicodedata.normalize("NFC", cell)),
    st.sampled_from([",", ";", "\t"]),
    st.data(),
)
def test_any_quoted_table_is_read_back(ids: list[str], separator: str, data: st.DataObject) -> None:
    numbers = data.draw(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=len(ids), max_size=len(ids))
    )
    words = data.draw(st.lists(CELLS, min_size=len(ids), max_size=len(ids)))
    rows = [["id", "number", "word"], *([i, repr(n), w] for i, n, w in zip(ids, numbers, words, strict=True))]
    quoted = [separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    with TemporaryDirectory() as name:
        (Path(name) / "t.csv").write_bytes("\n".join(quoted).encode())
        (Path(name) / "c.toml").write_text(
            '[cohort]\nname="c"\ntable="t.csv"\nid="id"\n'
            '[metadata.n]\ncolumn="number"\nkind="number"\n[metadata.w]\ncolumn="word"\nkind="category"\n'
        )
        cohort = read_cohort(Path(name) / "c.toml", images=False)
    assert cohort.patient_ids == tuple(unicodedata.normalize("NFC", cell) for cell in ids)
    assert cohort.metadata["n"].tolist() == numbers
    assert cohort.metadata["w"].tolist() == [
        unicodedata.normalize("NFC", word.casefold().upper()) for word in words
    ]


def test_row_numbers_are_those_of_a_spreadsheet(tmp_path: Path) -> None:
    table = TABLE.replace("1,P2", '\n , , , , , ,\n"multi\nline",P2').replace("P3,-1", "P3,2")
    assert only_problem(write(tmp_path, table)) == (
        "table.csv, row 6 (patient P3): LABEL '2' is not one of 0 (negative), 1 (positive), -1 (unlabelled)."
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "table.csv has no rows below its header."),
        (b"ID,LABEL\n", "table.csv has no rows below its header."),
        (b"ID\nP\xe91\n", "table.csv, line 2 is not UTF-8 text. Save the table as CSV in UTF-8."),
        (b'ID\n"P1\n', "table.csv, line 2 cannot be read as CSV: unexpected end of data."),
    ],
)
def test_a_file_that_is_not_a_table(tmp_path: Path, content: bytes, expected: str) -> None:
    path = write(tmp_path, patients="")
    (tmp_path / "table.csv").write_bytes(content)
    found = problems(path)
    assert expected in found
    if b"\n" in content[:-1]:  # the table cannot be read at all; the folders are looked at nevertheless
        assert any(problem.startswith("images is not a folder") for problem in found)


def test_a_missing_table_and_a_missing_folder_are_both_reported(tmp_path: Path) -> None:
    path = write(tmp_path, patients="")
    (tmp_path / "table.csv").unlink()
    found = problems(path)
    assert "table.csv cannot be read" in found[0] and "No such file" in found[0]
    assert found[1].startswith("images is not a folder")


def test_a_table_path_with_a_nul_is_reported(tmp_path: Path) -> None:
    found = problems(write(tmp_path, toml=TOML.replace('"table.csv"', '"a\\u0000b"')))
    assert found[0].startswith(r"a\x00b cannot be read")


def test_cells_are_trimmed_and_rows_numbered(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(" a ,b\n x , y\n\n1,2\n")
    problems = Problems()
    table = read_table(tmp_path / "t.csv", "t.csv", problems)
    assert table is not None and not problems
    assert (table.header, table.rows, table.numbers) == (("a", "b"), (("x", "y"), ("1", "2")), (2, 4))
    assert table.column("b") == ["y", "2"] and table.column("c") is None
