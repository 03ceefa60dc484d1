"""Numbers as laboratories write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.core.cells import NumberCell
from mil_toolkit.core.numbers import ambiguous_thousands, is_limit, looks_numeric, number_text


@pytest.mark.parametrize(
    ("cell", "decimal", "expected"),
    [
        ("1 234", ".", 1234),
        ("1\u00a0234,5", ",", 1234.5),
        ("12\u202f345\u202f678", ".", 12345678),
        ("1'234.5", ".", 1234.5),
        ("1\u2019234", ",", 1234),
        ("1.234,5", ",", 1234.5),
        ("1.234.567", ",", 1234567),
        ("1,234.5", ".", 1234.5),
        ("1,234,567", ".", 1234567),
        ("\u22125", ".", -5),
        ("-1 234", ".", -1234),
        ("1.234", ".", 1.234),
        ("1,234", ",", 1.234),
        ("1.234", ",", None),
        ("1,234", ".", None),
        ("12 34", ".", None),
        ("1 2345", ".", None),
        ("1 234'567", ".", None),
        ("1.23,5", ",", None),
        ("1,234.567.890", ".", None),
        ("1_000", ".", None),
        (">89", ".", None),
        ("5 G/L", ".", None),
    ],
)
def test_a_number_is_read_only_if_it_has_one_reading(cell: str, decimal: str, expected: float | None) -> None:
    text = number_text(cell, decimal)
    assert (None if text is None else float(text)) == expected


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(".,"))
def test_a_number_cell_is_read_with_any_decimal_sign(value: float, decimal: str) -> None:
    assert number_text(NumberCell(repr(value)), decimal) == repr(value)


@given(st.integers(0, 10**9), st.sampled_from([" ", "\u00a0", "\u202f", "'", "\u2019"]))
def test_separated_thousands_are_read(value: int, mark: str) -> None:
    assert number_text(f"{value:,}".replace(",", mark), ".") == str(value)


@pytest.mark.parametrize("cell", [">89", "< 0.1", "≥5,5", "<=3", "~12", "ca. 12", "12 %", "12.8 G/L", "3*"])
def test_cells_with_a_number_in_them_look_numeric(cell: str) -> None:
    assert looks_numeric(cell)
    assert is_limit(cell) == (not cell[0].isdigit())


@pytest.mark.parametrize("cell", ["M", "2a", "1+", "P1", "IIIa", "-", "", "n.d."])
def test_words_do_not_look_numeric(cell: str) -> None:
    assert not looks_numeric(cell)


@pytest.mark.parametrize(
    ("cells", "decimal", "expected"),
    [
        (["980", "1.234", "15.600"], ".", ["1.234", "15.600"]),
        (["980", "1,234"], ",", ["1,234"]),
        (["1.234", "15.6"], ".", []),
        (["0.980", "1.234"], ".", []),
        (["1234.567"], ".", []),
        (["980", "5"], ".", []),
        ([NumberCell("1.234")], ".", []),
    ],
)
def test_three_digits_behind_every_sign_have_two_readings(
    cells: list[str], decimal: str, expected: list[str]
) -> None:
    assert ambiguous_thousands(cells, decimal) == expected
