"""The parsers of the kinds of metadata."""

import unicodedata
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cohort_files import TABLE, TOML, only_problem, problems, write

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.kinds import KINDS, MetadataColumn
from mil_toolkit.core.numbers import Unreadable

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
                assert error.reason
            else:
                assert isinstance(value, float) == kind.numeric


def test_a_decimal_comma_is_read_only_where_declared(tmp_path: Path) -> None:
    table = TABLE.replace("12.8", '"12,8"')
    assert problems(write(tmp_path, table))[1].startswith(
        'If it is a decimal comma, add decimal = "," to [cohort] in '
    )
    declared = TOML.replace("[metadata.age]", 'decimal = ","\n[metadata.age]')
    assert read_cohort(write(tmp_path, table, declared)).metadata["count"]["P1"] == 12.8
    assert "contains a point, but decimal" in only_problem(write(tmp_path, TABLE, declared))


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
    assert caught.value.reason == "is ambiguous: 1950-04-03 by %d/%m/%Y and 1950-03-04 by %m/%d/%Y."


def test_two_readings_of_the_same_day_are_not_ambiguous() -> None:
    age = KINDS["birth-date"].parse("04/04/1950", AGE, ".")
    assert age == (date(2020, 12, 31) - date(1950, 4, 4)).days / 365.25


def test_categories_are_case_folded_and_normalised() -> None:
    parse = KINDS["category"].parse
    column = MetadataColumn("c", "C", "category")
    assert parse("été", column, ".") == parse(unicodedata.normalize("NFD", "ÉTÉ"), column, ".") == "ÉTÉ"
    assert parse("straße", column, ".") == parse("STRASSE", column, ".")
