"""Reading cohort.toml: what comes out of good data, and what is said of bad data."""

import logging
import os
import shutil
import unicodedata
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.kinds import KINDS, MetadataColumn, Unreadable
from mil_toolkit.cohort.table import MISSING, guess_separator, read_table
from mil_toolkit.core.errors import DataError

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared" / "lymphocytosis"

TABLE = """\
,ID,LABEL,GENDER,DOB,LYMPH_COUNT,HOSPITAL
0,P1,1,M,5/15/1942,12.8,Lyon
1,P2,0, f ,15-05-1952,4,Lyon
2,P3,-1,?,1/2/1960,n/a,Nice
"""
TOML = """\
[cohort]
name = "tiny"
table = "table.csv"
images = ["images"]
id = "ID"
label = "LABEL"
positive = 1
negative = 0
unlabelled = -1
group = "HOSPITAL"

[metadata.age]
column = "DOB"
kind = "birth-date"
formats = ["%m/%d/%Y", "%d-%m-%Y"]
reference = 2020-12-31

[metadata.sex]
column = "GENDER"
kind = "category"

[metadata.count]
column = "LYMPH_COUNT"
kind = "number"
transform = "log"
unit = "10^9/L"

[splits]
stratify = ["label", "age"]
"""


def write(folder: Path, table: str = TABLE, toml: str = TOML, patients: str = "P1 P2 P3") -> Path:
    """A cohort with two (empty) images per patient; reading never opens an image."""
    (folder / "table.csv").write_text(table, encoding="utf-8")
    (folder / "cohort.toml").write_text(toml, encoding="utf-8")
    for patient in patients.split():
        for name in ("b.JPG", "a.png"):
            touch(folder / "images" / patient / name)
    return folder / "cohort.toml"


def touch(path: Path) -> Path:
    """An empty file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def problems(path: Path, images: bool = True) -> list[str]:
    """The problems that reading a cohort ends with."""
    with pytest.raises(DataError) as caught:
        read_cohort(path, images)
    return caught.value.problems


def only_problem(path: Path, images: bool = True) -> str:
    """The one problem that reading a cohort ends with."""
    found = problems(path, images)
    assert len(found) == 1, found
    return found[0]


# What comes out.


def test_a_cohort_is_read(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path))
    assert cohort.name == "tiny"
    assert len(cohort) == 3
    assert cohort.patient_ids == ("P1", "P2", "P3")
    assert cohort.labels.tolist() == [1, 0, -1]
    assert cohort.labels.dtype == np.int8
    assert cohort.groups is not None and cohort.groups.tolist() == ["Lyon", "Lyon", "Nice"]
    assert cohort.class_names == ("0", "1")
    assert cohort.stratify == ("label", "age")
    assert cohort.metadata.index.tolist() == ["P1", "P2", "P3"]
    assert cohort.metadata.columns.tolist() == ["age", "sex", "count"]
    assert cohort.columns[0].reference == date(2020, 12, 31)
    assert cohort.columns[2] == MetadataColumn(
        "count", "LYMPH_COUNT", "number", transform="log", unit="10^9/L"
    )
    assert cohort.image_names["P2"] == ("a.png", "b.JPG")
    assert cohort.images["P2"] == (tmp_path / "images/P2/a.png", tmp_path / "images/P2/b.JPG")


def test_metadata_are_in_their_units_and_missing_values_stay_missing(tmp_path: Path) -> None:
    metadata = read_cohort(write(tmp_path)).metadata
    assert metadata["age"].dtype == np.float64
    assert metadata["age"]["P1"] == (date(2020, 12, 31) - date(1942, 5, 15)).days / 365.25
    assert metadata["age"]["P2"] == (date(2020, 12, 31) - date(1952, 5, 15)).days / 365.25
    assert metadata["sex"].dtype == object
    assert metadata["sex"].tolist() == ["M", "F", None]
    np.testing.assert_array_equal(metadata["count"], [12.8, 4.0, np.nan])


def test_only_a_missing_marker_is_missing(tmp_path: Path) -> None:
    for marker in (*MISSING, "NA", "NaN", "N/A"):
        metadata = read_cohort(
            write(tmp_path, TABLE.replace("12.8", marker).replace("M,", f"{marker},"))
        ).metadata
        assert np.isnan(metadata["count"]["P1"])
        assert metadata["sex"]["P1"] is None


def test_labels_may_be_words_and_numbers_compare_as_numbers(tmp_path: Path) -> None:
    words = TOML.replace("positive = 1", 'positive = "tumoral"').replace(
        "negative = 0", 'negative = "reactive"'
    )
    table = TABLE.replace("P1,1", "P1,tumoral").replace("P2,0", "P2,reactive").replace("P3,-1", "P3,-1.0")
    cohort = read_cohort(write(tmp_path, table, words))
    assert cohort.labels.tolist() == [1, 0, -1]
    assert cohort.class_names == ("reactive", "tumoral")


def test_empty_label_cells_are_unlabelled_only_where_declared(tmp_path: Path) -> None:
    table = TABLE.replace("P3,-1", "P3,")
    assert only_problem(write(tmp_path, table)).startswith(
        "table.csv, row 4 (patient P3): no label in 'LABEL'"
    )
    declared = write(tmp_path, table, TOML.replace("unlabelled = -1", 'unlabelled = ""'))
    assert read_cohort(declared).labels.tolist() == [1, 0, -1]


def test_without_a_label_every_patient_is_to_be_predicted(tmp_path: Path) -> None:
    keys = ("label =", "positive", "negative", "unlabelled", "group")
    toml = "\n".join(line for line in TOML.splitlines() if not line.startswith(keys))
    cohort = read_cohort(write(tmp_path, TABLE.replace("LABEL", "OTHER"), toml))
    assert cohort.labels.tolist() == [-1, -1, -1]
    assert cohort.groups is None
    assert cohort.class_names == ("0", "1")
    assert len(cohort.labelled()) == 0 and len(cohort.unlabelled()) == 3


def test_metadata_and_splits_may_be_left_out(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, toml=TOML.split("[metadata.age]")[0]))
    assert cohort.metadata.shape == (3, 0)
    assert cohort.stratify == ("label",)


def test_without_images_no_folder_is_looked_at(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, patients=""), images=False)
    assert cohort.images == {} and cohort.image_names == {}
    assert len(cohort.select(["P2"])) == 1


def test_selecting_keeps_rows_together(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path))
    two = cohort.select(["P3", "P1"])
    assert two.patient_ids == ("P3", "P1")
    assert two.labels.tolist() == [-1, 1]
    assert two.groups is not None and two.groups.tolist() == ["Nice", "Lyon"]
    assert two.metadata.equals(cohort.metadata.loc[["P3", "P1"]])
    assert list(two.images) == ["P3", "P1"] and two.images["P1"] == cohort.images["P1"]
    assert cohort.labelled().patient_ids == ("P1", "P2")
    assert cohort.unlabelled().patient_ids == ("P3",)
    assert cohort.select(cohort.patient_ids).digest() == cohort.digest()
    with pytest.raises(DataError, match=r"P9 is not in cohort tiny") as caught:
        cohort.select(["P1", "P9", "P8"])
    assert len(caught.value.problems) == 2


def test_the_digest_is_of_the_values_alone(tmp_path: Path) -> None:
    digest = read_cohort(write(tmp_path)).digest()
    for same in (
        TABLE.replace("12.8", "12.80"),
        TABLE.replace(" f ", "F"),
        TABLE.replace("5/15/1942", "15-05-1942"),
        TABLE.replace("n/a", ""),
    ):
        assert read_cohort(write(tmp_path, same)).digest() == digest
    (tmp_path / "elsewhere").mkdir()
    assert read_cohort(write(tmp_path / "elsewhere")).digest() == digest
    assert read_cohort(tmp_path / "cohort.toml", images=False).digest() == digest
    for old, new in (("P1,1", "P1,0"), ("12.8", "12.9"), ("M,", "F,"), ("5/15", "5/16"), ("Nice", "Nîmes")):
        assert read_cohort(write(tmp_path, TABLE.replace(old, new))).digest() != digest
    renamed = write(tmp_path, TABLE.replace("P3", "P4"), patients="P4")
    shutil.rmtree(tmp_path / "images" / "P3")
    assert read_cohort(renamed).digest() != digest


# The table.


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
def test_whatever_is_written_is_read(ids: list[str], separator: str, data: st.DataObject) -> None:
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
        "table.csv, row 6 (patient P3): LABEL '2' is none of 0 (negative), 1 (positive), -1 (unlabelled)."
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("P2,0", "P1,0", "row 3: patient P1 already stands in row 2."),
        ("P2,0", "NA,0", "row 3: no id in column 'ID'."),
        (
            "P2,0",
            "P2,2",
            "row 3 (patient P2): LABEL '2' is none of 0 (negative), 1 (positive), -1 (unlabelled).",
        ),
        (
            "P2,0",
            "P2,NaN",
            "row 3 (patient P2): no label in 'LABEL'. Fill it in, or declare unlabelled = \"NaN\"",
        ),
        ("4,Lyon", "4,", "row 3 (patient P2): no group in 'HOSPITAL'."),
        ("4,Lyon", "4,Lyon,more", "row 3: 8 cells where the header has 7."),
        ("4,Lyon", "4", "row 3: 6 cells where the header has 7."),
        ("12.8", "many", "row 2 (patient P1): LYMPH_COUNT 'many' is not a finite number."),
        ("12.8", "inf", "LYMPH_COUNT 'inf' is not a finite number."),
        ("12.8", "1e999", "LYMPH_COUNT '1e999' is not a finite number."),
        ("12.8", "1_000", "LYMPH_COUNT '1_000' is not a finite number."),
        ("12.8", "0", "LYMPH_COUNT '0' is not above 0, so that it has no logarithm."),
        ("12.8", '"12,8"', "LYMPH_COUNT '12,8' has a comma."),
        ("5/15/1942", "31/12/1950", "DOB '31/12/1950' matches none of %m/%d/%Y, %d-%m-%Y."),
        ("5/15/1942", "2/30/1950", "DOB '2/30/1950' matches none of"),
        (
            "5/15/1942",
            "1/1/2021",
            "DOB '1/1/2021' is 2021-01-01, after the reference 2020-12-31 of [metadata.age].",
        ),
        (
            "5/15/1942",
            "1/1/1890",
            "DOB '1/1/1890' is 1890-01-01, which makes 131 years at the reference 2020-12-31",
        ),
        ("GENDER", "SEX", "table.csv has no column 'GENDER' ([metadata.sex] column). Known: '', 'ID'"),
        (
            "GENDER",
            "GENDRE",
            "table.csv has no column 'GENDER' ([metadata.sex] column). Did you mean 'GENDRE'?",
        ),
        (
            "HOSPITAL",
            "GENDER",
            "table.csv has 2 columns 'GENDER' ([metadata.sex] column); rename all but one.",
        ),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = problems(write(tmp_path, TABLE.replace(old, new)))
    assert any(expected in problem for problem in found), found


def test_advice_follows_its_rows_once(tmp_path: Path) -> None:
    table = TABLE.replace("5/15/1942", "31/12/1950").replace("1/2/1960", "30/12/1950")
    path = write(tmp_path, table)
    assert problems(path) == [
        "table.csv, row 2 (patient P1): DOB '31/12/1950' matches none of %m/%d/%Y, %d-%m-%Y.",
        "table.csv, row 4 (patient P3): DOB '30/12/1950' matches none of %m/%d/%Y, %d-%m-%Y.",
        f"Add its format to [metadata.age] formats in {path}.",
    ]


def test_what_is_wrong_with_most_is_told_once_with_some_of_them(tmp_path: Path) -> None:
    rows = [f"P{number},tumoral,{number}.1.1950" for number in range(1, 10)]
    toml = TOML[: TOML.index("[metadata")] + (
        '[metadata.age]\ncolumn = "DOB"\nkind = "birth-date"\nformats = ["%d/%m/%Y"]\nreference = 2020-12-31\n'
    )
    toml = toml.replace('group = "HOSPITAL"\n', "")
    path = write(tmp_path, "\n".join(["ID,LABEL,DOB", *rows]), toml, patients="Q1 Q2 Q3 Q4 Q5 Q6")
    labels, ages, advice, folders, images = problems(path)
    assert labels.startswith("9 of 9 labels are none of ")
    assert "table.csv, row 2 (patient P1): LABEL 'tumoral'" in labels and labels.endswith(" and 4 more.")
    assert ages.startswith("9 of 9 cells: each matches none of %d/%m/%Y. They are table.csv, row 2 ")
    assert advice == f"Add its format to [metadata.age] formats in {path}."
    named = "images/Q1, images/Q2, images/Q3, images/Q4, images/Q5 and 1 more."
    assert folders == f"6 of 6 folders have no row in table.csv; is it the table of these images? {named}"
    assert images == "9 of 9 patients of table.csv have no images in images: P1, P2, P3, P4, P5 and 4 more."


def test_every_problem_is_told_in_one_run(tmp_path: Path) -> None:
    toml = TOML.replace("unit =", "units =").replace('kind = "category"', 'kind = "word"')
    table = (
        TABLE.replace("P2,0", "P2,7").replace("5/15/1942", "soon").replace("12.8", "-1").replace("P3", "P4")
    )
    path = write(tmp_path, table + "9,P5,1\n", toml, patients="P1 P2 P3 P6")
    touch(tmp_path / "images" / "loose.png")
    text = "\n".join(problems(path))
    for expected in (
        "[metadata.count]: unknown key 'units'. Did you mean 'unit'?",
        "[metadata.sex]: unknown kind 'word'. Known: 'number', 'category', 'birth-date'.",
        "row 5: 3 cells where the header has 7.",
        "row 3 (patient P2): LABEL '7' is none of",
        "row 2 (patient P1): DOB 'soon' matches none of",
        "images/P3 has no row in table.csv.",
        "images/P6 has no row in table.csv.",
        "images/loose.png lies in no patient's folder.",
        "table.csv: patient P4 has no images in images.",
    ):
        assert expected in text
    assert "LYMPH_COUNT" not in text, "a section with a mistake of its own is not read further"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "table.csv has no rows below its header."),
        (b"ID,LABEL\n", "table.csv has no rows below its header."),
        (b"ID\nP\xe91\n", "table.csv, line 2 is not UTF-8 text. Save the table as CSV in UTF-8."),
        (b'ID\n"P1\n', "table.csv, line 2 cannot be read as CSV: unexpected end of data."),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, content: bytes, expected: str) -> None:
    path = write(tmp_path, patients="")
    (tmp_path / "table.csv").write_bytes(content)
    found = problems(path)
    assert expected in found
    if b"\n" in content[:-1]:  # the table cannot be read at all; the folders are looked at nevertheless
        assert any(problem.startswith("images is not a folder") for problem in found)


def test_a_missing_table_and_a_missing_folder_are_both_told(tmp_path: Path) -> None:
    path = write(tmp_path, patients="")
    (tmp_path / "table.csv").unlink()
    found = problems(path)
    assert "table.csv cannot be read" in found[0] and "No such file" in found[0]
    assert found[1].startswith("images is not a folder")


def test_the_table_of_a_nul_path_is_told(tmp_path: Path) -> None:
    found = problems(write(tmp_path, toml=TOML.replace('"table.csv"', '"a\\u0000b"')))
    assert found[0].startswith(r"a\x00b cannot be read")


def test_read_table_gives_trimmed_cells(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(" a ,b\n x , y\n\n1,2\n")
    table = read_table(tmp_path / "t.csv", "t.csv")
    assert (table.header, table.rows, table.numbers) == (("a", "b"), (("x", "y"), ("1", "2")), (2, 4))
    assert table.column("b") == ["y", "2"] and table.column("c") is None


# The kinds.

NUMBER = MetadataColumn("n", "N", "number")
AGE = MetadataColumn(
    "age", "DOB", "birth-date", formats=("%d/%m/%Y", "%m/%d/%Y"), reference=date(2020, 12, 31)
)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_its_text(value: float) -> None:
    parse = KINDS["number"].parse
    assert parse(repr(value), NUMBER, ".") == value
    assert parse(repr(value).replace(".", ","), NUMBER, ",") == value


@given(st.text(max_size=6))
def test_no_text_crashes_a_parser(cell: str) -> None:
    for kind in KINDS.values():
        for decimal in (".", ","):
            try:
                value = kind.parse(cell.strip(), AGE, decimal)
            except Unreadable as error:
                assert error.wrong
            else:
                assert isinstance(value, float) == kind.numeric


def test_a_decimal_comma_is_read_only_where_declared(tmp_path: Path) -> None:
    table = TABLE.replace("12.8", '"12,8"')
    assert problems(write(tmp_path, table))[1].startswith(
        'A decimal comma is read where decimal = "," stands under [cohort] in '
    )
    declared = TOML.replace("[metadata.age]", 'decimal = ","\n[metadata.age]')
    assert read_cohort(write(tmp_path, table, declared)).metadata["count"]["P1"] == 12.8
    assert "has a point where" in only_problem(write(tmp_path, TABLE, declared))


@given(st.dates(date(1900, 1, 1), date(2020, 12, 31)), st.sampled_from(["%Y-%m-%d", "%d.%m.%Y", "%d %B %Y"]))
def test_an_age_is_the_days_since_birth(birth: date, format: str) -> None:
    column = MetadataColumn(
        "age", "DOB", "birth-date", formats=(format, "%m/%d/%Y"), reference=date(2020, 12, 31)
    )
    age = KINDS["birth-date"].parse(birth.strftime(format), column, ".")
    assert isinstance(age, float)
    assert birth + timedelta(days=round(age * 365.25)) == date(2020, 12, 31)


def test_an_ambiguous_date_names_both_readings() -> None:
    with pytest.raises(Unreadable) as caught:
        KINDS["birth-date"].parse("03/04/1950", AGE, ".")
    assert caught.value.wrong == "is ambiguous: 1950-04-03 by %d/%m/%Y and 1950-03-04 by %m/%d/%Y."


def test_two_readings_of_the_same_day_are_not_ambiguous() -> None:
    age = KINDS["birth-date"].parse("04/04/1950", AGE, ".")
    assert age == (date(2020, 12, 31) - date(1950, 4, 4)).days / 365.25


def test_categories_are_case_folded_and_normalised() -> None:
    parse = KINDS["category"].parse
    column = MetadataColumn("c", "C", "category")
    assert parse("été", column, ".") == parse(unicodedata.normalize("NFD", "ÉTÉ"), column, ".") == "ÉTÉ"
    assert parse("straße", column, ".") == parse("STRASSE", column, ".")


# The TOML.


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[cohort]", "[cohorts]", "unknown key 'cohorts'. Did you mean 'cohort'?"),
        ("[cohort]", "[cohort", "is not valid TOML"),
        ("images =", "image =", "[cohort]: unknown key 'image'. Did you mean 'images'?"),
        ("images =", "image =", "[cohort]: images (folders) or image_table is missing."),
        ('["images"]', '"images"', "[cohort]: images must be a list of texts, not 'images'."),
        ('["images"]', "[]", "[cohort]: images must be a list of texts, not []."),
        (
            '["images"]',
            '["images"]\nimage_table = "i.csv"',
            "images and image_table are both given; keep one.",
        ),
        ('name = "tiny"', "", "[cohort]: name is missing."),
        ('"tiny"', '"../tiny"', "name '../tiny' must be letters, digits, spaces, dots or dashes"),
        ('"tiny"', '""', "name '' must be letters"),
        ('id = "ID"', "", "[cohort]: id is missing."),
        ('table = "table.csv"', "", "[cohort]: table is missing."),
        ("positive = 1", "", "[cohort]: positive is missing."),
        ("positive = 1", "positive = true", "positive must be text in quotes or a whole number, not True."),
        (
            "positive = 1",
            'positive = "0"',
            "positive, negative, unlabelled must differ; they are '0', 0, -1.",
        ),
        ("negative = 0", 'separator = "|"', "separator must be one of ',', ';', '\\t', not '|'."),
        ("negative = 0", 'decimal = "x"', 'decimal must be "." or ",", not \'x\'.'),
        ("[metadata.age]", "[metadata.label]", "a metadata column cannot be called 'label'."),
        ("[metadata.age]", '[metadata.""]', "a metadata column cannot be called ''."),
        (
            "[metadata.age]",
            "[metadata]\nage = 3\n[metadata.years]",
            "must be a section with column and kind, not 3.",
        ),
        ('column = "DOB"', "", "[metadata.age]: column is missing."),
        ('kind = "birth-date"', "", "[metadata.age]: kind is missing."),
        ('"birth-date"', '"birthdate"', "unknown kind 'birthdate'. Did you mean 'birth-date'?"),
        ("reference = 2020-12-31", "", "[metadata.age]: kind 'birth-date' needs reference."),
        (
            "2020-12-31",
            '"2020-12-31"',
            "reference must be a date without quotes, like 2020-12-31, not '2020-12-31'.",
        ),
        ("2020-12-31", "2020-12-31T10:00:00", "reference must be a date without quotes"),
        ('"%m/%d/%Y"', '"%m/%Y"', "formats: '%m/%Y' does not read a whole date"),
        ('"%m/%d/%Y"', '"%Q"', "formats: '%Q' does not read a whole date"),
        ('"%m/%d/%Y"', "1", "formats must be a list of texts, not [1, '%d-%m-%Y']."),
        ('kind = "category"', 'kind = "category"\nunit = "x"', "unit has no meaning for kind 'category'."),
        ('"log"', '"sqrt"', "transform must be \"log\", not 'sqrt'."),
        ('column = "GENDER"', 'column = "LABEL"', "column 'LABEL' is the id or the label"),
        ('"label", "age"', '"label", "aeg"', "stratify names 'aeg', which is neither"),
        ('stratify = ["label", "age"]', "folds = 5", "[splits]: unknown key 'folds'. Known: 'stratify'."),
    ],
)
def test_a_mistake_in_the_toml_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in TOML
    found = problems(write(tmp_path, toml=TOML.replace(old, new)))
    assert any(expected in problem for problem in found), found


def test_a_toml_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in only_problem(tmp_path / "cohort.toml")
    assert "cannot be read: Is a directory" in only_problem(tmp_path)
    (tmp_path / "cohort.toml").write_bytes(b"name = '\xe9'")
    assert "is not valid TOML" in only_problem(tmp_path / "cohort.toml")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert read_cohort(write(tmp_path, toml="\ufeff" + TOML)).name == "tiny"


def test_braces_and_line_breaks_in_names_do_no_harm(tmp_path: Path) -> None:
    toml = TOML.replace("[metadata.age]", '[metadata."{x}\\n{source}"]').replace('"label", "age"', '"label"')
    found = problems(write(tmp_path, TABLE.replace("5/15/1942", "{0}"), toml))
    assert found[0].endswith("DOB '{0}' matches none of %m/%d/%Y, %d-%m-%Y.")
    assert found[1].startswith(r"Add its format to [metadata.{x}\n{source}] formats in ")


# The images.


def test_images_are_found_below_the_patients_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mil_toolkit")
    logger.propagate = True  # a command that ran before has turned it off
    path = write(tmp_path)
    for name in (
        "P1/slide 2/c.tiff",
        "P1/notes.txt",
        "P1/.hidden.png",
        "P1/.cache/d.png",
        "readme.md",
        ".DS_Store",
    ):
        touch(tmp_path / "images" / name)
    touch(tmp_path / "images/.ipynb_checkpoints/x.png")
    cohort = read_cohort(path)
    assert cohort.image_names["P1"] == ("a.png", "b.JPG", "slide 2/c.tiff")
    assert cohort.images["P1"][2] == tmp_path / "images/P1/slide 2/c.tiff"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and messages[0].startswith("4 files without an image ending are left out: ")
    assert "images/readme.md" in messages[0] and "notes.txt" in messages[0]


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp", "JPG", "Png"])
def test_image_endings(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path)
    touch(tmp_path / "images/P1" / f"z.{ending}")
    assert read_cohort(path).image_names["P1"][-1] == f"z.{ending}"


def test_several_roots_are_joined(tmp_path: Path) -> None:
    path = write(tmp_path, toml=TOML.replace('["images"]', '["images", "more/"]'))
    touch(tmp_path / "more/P1/a.png")
    cohort = read_cohort(path)
    assert cohort.image_names["P1"] == ("images/a.png", "images/b.JPG", "more/a.png")
    assert cohort.image_names["P2"] == ("a.png", "b.JPG")


@pytest.mark.parametrize(("table_form", "folder_form"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_ids_and_folders_match_whatever_their_normal_form(
    tmp_path: Path, table_form: str, folder_form: str
) -> None:
    def form(kind: str) -> str:
        return unicodedata.normalize(kind, "Zoé")  # type: ignore[arg-type]

    path = write(tmp_path, TABLE.replace("P1", form(table_form)), patients="P2 P3")
    touch(tmp_path / "images" / form(folder_form) / "a.png")
    cohort = read_cohort(path)
    assert cohort.patient_ids[0] == form("NFC")
    assert cohort.images[form("NFC")] == (tmp_path / "images" / form(folder_form) / "a.png",)
    assert len(cohort.select([form("NFC")])) == 1


def test_two_folders_of_one_patient_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.replace("P1", "é"), patients="P2 P3")
    for kind in ("NFC", "NFD"):
        touch(tmp_path / "images" / unicodedata.normalize(kind, "é") / "a.png")  # type: ignore[arg-type]
    assert only_problem(path) == "images/é is a second folder of patient é in images."


def test_names_that_are_not_unicode_survive(tmp_path: Path) -> None:
    path = write(tmp_path)
    name = os.fsdecode(b"caf\xe9.png")
    touch(tmp_path / "images/P1" / name)
    cohort = read_cohort(path)
    assert name in cohort.image_names["P1"]
    assert all(image.exists() for image in cohort.images["P1"])
    (tmp_path / "images" / os.fsdecode(b"P\xe9")).mkdir()
    problem = only_problem(path)
    assert problem == r"images/P\udce9 has no row in table.csv."
    problem.encode()  # can be printed


def test_links_in_circles_end(tmp_path: Path) -> None:
    path = write(tmp_path)
    folder = tmp_path / "images/P1"
    for name in "abcdefgh":  # each links to all others: walking every way through them would never end
        (folder / name).mkdir()
        touch(folder / name / f"{name}.png")
        for other in "abcdefgh":
            (folder / name / f"to {other}").symlink_to(folder / other)
    (folder / "up").symlink_to(tmp_path / "images/P1")
    assert len(read_cohort(path).images["P1"]) == 2 + 8, "each image counts once"


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    path = write(tmp_path, patients="P2 P3")
    touch(tmp_path / "disk/x.png")
    (tmp_path / "images/P1").symlink_to(tmp_path / "disk")
    assert read_cohort(path).image_names["P1"] == ("x.png",)


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "images/P1/x.png").symlink_to("nowhere.png")
    (tmp_path / "images/P2/y.png").symlink_to("y.png")
    os.mkfifo(tmp_path / "images/P3/pipe.png")
    found = problems(path)
    assert [problem.split()[0].rsplit("/", 2)[1] for problem in found] == ["P1", "P2", "P3"]
    assert all(problem.endswith("is not a file, or a link that leads nowhere.") for problem in found)


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scandir = write(tmp_path), os.scandir

    def forbid(folder: Path) -> Iterator[os.DirEntry[str]]:
        if folder.name == "P1":  # where permissions are real, root has them all
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbid)
    assert problems(path)[0] == f"{tmp_path / 'images/P1'} cannot be read: Permission denied."


def test_a_patient_with_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    path = write(tmp_path, patients="P1 P2")
    touch(tmp_path / "images/P3/notes.txt")
    assert only_problem(path) == "table.csv: patient P3 has no images in images."


def test_roots_are_folders_and_named_once(tmp_path: Path) -> None:
    path = write(tmp_path, toml=TOML.replace('["images"]', '["images", "./images", "none", "a\\u0000"]'))
    found = problems(path)
    assert len(found) == 3
    assert found[0] == "./images is named twice in [cohort] images."
    assert found[1].startswith("none is not a folder")
    assert found[2].startswith(r"a\x00")


def test_the_patients_of_a_missing_root_are_not_told_one_by_one(tmp_path: Path) -> None:
    found = problems(write(tmp_path, patients=""))
    assert len(found) == 1 and found[0].startswith("images is not a folder")


def test_an_id_never_leaves_the_root(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE.replace("P1", ".."), patients="P2 P3")
    assert only_problem(path) == "table.csv: patient .. has no images in images."


# The image table.

IMAGE_TOML = TOML.replace('images = ["images"]', 'image_table = "images.csv"')


def test_an_image_table_names_the_images(tmp_path: Path) -> None:
    path = write(tmp_path, toml=IMAGE_TOML)
    rows = "path,patient\nimages/P1/b.JPG,P1\nimages/P1/a.png,P1\nimages/P2/a.png,P2\nimages/P3/./a.png,P3\n"
    (tmp_path / "images.csv").write_text(rows)
    cohort = read_cohort(path)
    assert cohort.image_names["P1"] == ("images/P1/a.png", "images/P1/b.JPG")
    assert cohort.images["P3"] == (tmp_path / "images/P3/a.png",)


def test_mistakes_in_an_image_table_are_told_together(tmp_path: Path) -> None:
    path = write(tmp_path, toml=IMAGE_TOML)
    (tmp_path / "images.csv").write_text(
        "patient,path\nP1,images/P1/a.png\nP2,images/../images/P1/a.png\nP9,images/P1/b.JPG\n"
        "P2,images/none.png\nP2,table.csv\nP2\n"
    )
    assert problems(path) == [
        "images.csv, row 7: 1 cells where the header has 2.",
        "images.csv, row 3: path 'images/../images/P1/a.png' already stands in row 2.",
        "images.csv, row 4: patient 'P9' has no row in table.csv.",
        "images.csv, row 5: path 'images/none.png' is not a file.",
        "images.csv, row 6: path 'table.csv' has no image ending (.bmp .jpeg .jpg .png .tif .tiff .webp).",
        "table.csv: patient P2 has no images in images.csv.",
        "table.csv: patient P3 has no images in images.csv.",
    ]


def test_an_image_table_without_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path, toml=IMAGE_TOML)
    assert "images.csv cannot be read" in only_problem(path)
    (tmp_path / "images.csv").write_text("patient,file\nP1,a.png\n")
    assert only_problem(path) == "images.csv needs the columns patient and path; it has 'patient', 'file'."


# The real cohort.


def test_the_example_reads_the_real_cohort(tmp_path: Path) -> None:
    if not REAL.exists():
        assert os.environ.get("CI") != "true", f"{REAL} is missing"
        pytest.skip("the real cohort is not here")
    for name in ("clinical_annotation.csv", "trainset", "testset"):
        (tmp_path / name).symlink_to(REAL / name)
    shutil.copy(REPOSITORY / "examples" / "lymphocytosis.toml", tmp_path)
    cohort = read_cohort(tmp_path / "lymphocytosis.toml")
    assert (len(cohort.labelled()), len(cohort.unlabelled())) == (90, 6)
    assert int((cohort.labels == 1).sum()) == 62
    assert sum(map(len, cohort.images.values())) == 7781
    assert set(cohort.metadata["sex"]) == {"F", "M"}
    assert not cohort.metadata.isna().any(axis=None)
    assert cohort.metadata["age"].between(18, 110).all()
