"""Values that can be read but are implausible."""

from datetime import date, timedelta

import numpy as np
import pytest

from mil_toolkit.cohort.plausibility import numbers_for_dates, odd_ages, odd_numbers

MISSING, NEGATIVE = "perhaps standing for a missing value", "below zero"
TOO_OLD = "above an age of 130 years"
CHILD = "far below the ages of the other patients, who are adults"
REFERENCE = date(2024, 6, 1)


def odd(header: str, *values: float) -> dict[str, list[float]]:
    array = np.array(values, dtype=np.float64)
    return {oddity.reason: array[oddity.where].tolist() for oddity in odd_numbers(header, array)}


@pytest.mark.parametrize(
    ("header", "values", "expected"),
    [
        ("N", (12, 14, -999, 30), {MISSING: [-999]}),
        ("N", (12, 14, -9, -99), {MISSING: [-9, -99]}),
        ("N", (-999, -999, -999, 4), {MISSING: [-999, -999, -999]}),
        ("N", (-3, 4, -2, -999), {MISSING: [-999]}),
        ("N", (12, 14, 999, 9999), {MISSING: [999, 9999]}),
        ("N", (1, 2, 3, 99), {MISSING: [99]}),
        ("N", (80, 99, 101, 120), {}),
        ("N", (600, 999, 700, 650), {}),
        ("N", (-1.5, -9, 2, -6, 0.5), {}),
        ("N", (12, 14, -1, 30), {NEGATIVE: [-1]}),
        ("LYMPH_COUNT", (-12, -14, 5), {NEGATIVE: [-12, -14]}),
        ("Alter", (300, 50, 60), {TOO_OLD: [300]}),
        ("age_years", (2, 50, 60), {CHILD: [2]}),
        ("age", (2, 50, 13, 60), {}),
        ("age", (2, 3, 5, 8, 60), {}),
        ("average", (300, 400), {}),
        ("N", (np.nan, np.nan), {}),
        ("N", (1e308, -1e308, 0), {}),
        ("DOB", (9192, np.nan), {"of a column of birth dates, read as plain numbers": [9192]}),
    ],
)
def test_implausible_numbers_are_noticed(
    header: str, values: tuple[float, ...], expected: dict[str, list[float]]
) -> None:
    assert odd(header, *values) == expected


def ages(*births: date) -> np.ndarray:
    return np.array([(REFERENCE - birth).days / 365.25 for birth in births])


@pytest.mark.parametrize(
    ("birth", "reason"),
    [
        (date(1900, 1, 1), "perhaps standing for an unknown date"),
        (date(1899, 12, 30), "perhaps standing for an unknown date"),
        (date(1970, 1, 1), None),
        (date(1905, 5, 6), "giving an age above 110 years"),
        (date(2022, 5, 6), "giving the age of a child among adults (perhaps the wrong century)"),
        (date(1940, 1, 1), None),
    ],
)
def test_implausible_dates_of_birth_are_noticed(birth: date, reason: str | None) -> None:
    usual = [date(1950, 3, 5) + timedelta(300 * index) for index in range(10)]
    found = list(odd_ages(ages(birth, *usual), REFERENCE))
    assert [oddity.reason for oddity in found] == ([] if reason is None else [reason])
    assert all(oddity.where.tolist() == [True] + 10 * [False] for oddity in found)


def test_the_start_of_unix_time_is_noticed_if_several_patients_have_it() -> None:
    births = [date(1970, 1, 1), date(1950, 3, 5), date(1970, 1, 1)]
    (oddity,) = odd_ages(ages(*births), REFERENCE)
    assert oddity.where.tolist() == [True, False, True]


def test_children_among_children_are_not_noticed() -> None:
    assert not list(odd_ages(ages(date(2022, 5, 6), date(2015, 1, 2), date(1950, 3, 4)), REFERENCE))


def test_numbers_in_place_of_dates_are_explained() -> None:
    assert numbers_for_dates(["9192"]) == (
        "the numbers by which spreadsheets store dates ('9192' may be 1925-03-01). Format it as dates in the"
        " spreadsheet"
    )
    assert (numbers_for_dates(["1950", "1961"]) or "").startswith(
        "years ('1950'), without a day and a month."
    )
    assert numbers_for_dates(["1.5"]) is None
