"""Reading delimited text."""

import contextlib
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cohort_files import TABLE, TOML, only_problem, problems, write
from support.commands import Command

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.delimited import guess_separator
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TABLE_LIMIT, read_table
from mil_toolkit.core.cells import MISSING
from mil_toolkit.core.errors import DataError


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
    assert found[0].endswith(r"a\x00b cannot be the path of a file.")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_pipe, "is a named pipe, where a regular file is expected"),
        (Path.mkdir, "is a folder, where a regular file is expected"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, where a regular file is expected"),
        (make_loop, "cannot be read: Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("name", ["cohort.toml", "table.csv", "images.csv"])
def test_special_files_are_refused_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], None], words: str
) -> None:
    path = write(tmp_path, toml=TOML.replace('images = ["images"]', 'image_table = "images.csv"'))
    (tmp_path / "images.csv").write_text("patient,path\n")
    (tmp_path / name).unlink()
    make(tmp_path / name)
    assert words in only_problem(path)


def test_a_table_has_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path)
    os.truncate(tmp_path / "table.csv", TABLE_LIMIT + 1)
    assert "table.csv is larger than 64 MiB" in only_problem(path)


def test_a_table_with_a_hundred_thousand_columns_is_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    wide = "".join(f",c{number}" for number in range(10**5))
    lines = TABLE.splitlines()
    (tmp_path / "table.csv").write_text(
        "\n".join([lines[0] + wide, *(line + "," * 10**5 for line in lines[1:])])
    )
    assert len(read_cohort(path)) == 3
    path.write_text(TOML.replace('"LYMPH_COUNT"', '"COUNT_LYMPH"'))
    assert "has no column 'COUNT_LYMPH'" in only_problem(path)
    assert len(only_problem(path)) < 2000


def test_a_row_of_a_million_separators_is_one_problem(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE + "x" + "," * 10**6 + "y\n")
    assert only_problem(path) == "table.csv, row 5: 1000001 cells, but the header has 7."


@pytest.mark.parametrize(
    "cell", ["9" * 131_000, "9" * 131_000 + "x", "1" + " " * 130_000 + "x", "1," * 60_000]
)
def test_long_cells_are_read_or_refused_without_endless_matching(
    tmp_path: Path, cell: str, command: Command
) -> None:
    """As a number, an id, a label, a date and a category, and by mil-init, which guesses what they are."""
    for old, times in (("12.8", 1), ("P1", 1), ("5/15/1942", 1), ("0,P1,1", 1)):
        new = f'0,P1,"{cell}"' if old == "0,P1,1" else f'"{cell}"'
        path = write(tmp_path, TABLE.replace(old, new, times))
        with contextlib.suppress(DataError):
            read_cohort(path, images=False)
        done = command("init", tmp_path / "table.csv", tmp_path / "images", "--output", tmp_path / "new.toml")
        assert done.code in (0, 3) and "Traceback" not in done.err
        (tmp_path / "new.toml").unlink(missing_ok=True)


def test_a_cell_beyond_the_limit_of_csv_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.replace("Nice", "x" * 200_000))
    assert "table.csv, line 4 cannot be read as CSV: field larger than field limit" in only_problem(path)


def test_names_in_messages_are_escaped(tmp_path: Path) -> None:
    toml = TOML.replace('"table.csv"', '"\\u001b[31mtable\\n.csv"').replace('"LABEL"', '"LA\\u001b[1mBEL"')
    path = write(tmp_path, toml=toml)
    (tmp_path / "table.csv").rename(tmp_path / "\x1b[31mtable\n.csv")
    (tmp_path / "\x1b[31mtable\n.csv").write_text(
        TABLE.replace("LABEL", "LA\x1b[1mBEL").replace("P1,1", "P1,\x1b[7m")
    )
    found = problems(path)
    assert found and all(problem.isprintable() for problem in found)


def test_cells_are_trimmed_and_rows_numbered(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(" a ,b\n x , y\n\n1,2\n")
    problems = Problems()
    table = read_table(tmp_path / "t.csv", "t.csv", problems)
    assert table is not None and not problems
    assert (table.header, table.rows, table.numbers) == (("a", "b"), (("x", "y"), ("1", "2")), (2, 4))
    assert table.column("b") == ["y", "2"] and table.column("c") is None
