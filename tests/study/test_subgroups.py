"""Subgroups: every patient in exactly one level of each variable, by category, range, group and bag size."""

from collections import Counter

import pytest

from mil_toolkit.study.records import ColumnRecord, PatientRecord, PatientsRecord
from mil_toolkit.study.subgroups import subgroups

AGES = [30.0, 50.0, 64.9, 65.0, 79.0, 80.0, None, 91.0, 45.0]
SEXES = ["F", "M", "F", None, "M", "F", "M", "F", "M"]
COUNTS = [float(number) for number in range(1, 10)]


def made(images: bool = True, groups: bool = True) -> PatientsRecord:
    columns = [
        ColumnRecord("age", "birth-date", None, None),
        ColumnRecord("sex", "category", None, None),
        ColumnRecord("count", "number", "log", "10^9/L"),
        ColumnRecord("constant", "number", None, None),
    ]
    patients = [
        PatientRecord(
            f"P{place}",
            place % 2,
            10 * (place + 1) if images else None,
            {"age": AGES[place], "sex": SEXES[place], "count": COUNTS[place], "constant": 1.0},
            f"H{place % 2}" if groups else None,
        )
        for place in range(9)
    ]
    return PatientsRecord(("0", "1"), 0, columns, patients)


def by_level(record: PatientsRecord, variable: str) -> dict[str, tuple[str, ...]]:
    return {each.level: each.patient_ids for each in subgroups(record) if each.variable == variable}


def test_ages_are_divided_at_50_65_and_80_years() -> None:
    assert by_level(made(), "age") == {
        "below 50 years": ("P0", "P8"),
        "50 to below 65 years": ("P1", "P2"),
        "65 to below 80 years": ("P3", "P4"),
        "80 or more years": ("P5", "P7"),
        "missing": ("P6",),
    }


def test_categories_are_levels_and_missing_ones_come_last() -> None:
    levels = by_level(made(), "sex")
    assert list(levels) == ["F", "M", "missing"]
    assert levels["missing"] == ("P3",)


def test_other_numbers_are_divided_at_their_terciles() -> None:
    levels = by_level(made(), "count")
    assert [len(patients) for patients in levels.values()] == [3, 3, 3]
    lowest = next(iter(levels))
    assert lowest.startswith("below ") and lowest.endswith(" 10^9/L")


@pytest.mark.parametrize("variable", ["age", "sex", "count", "group", "images"])
def test_every_patient_is_in_one_level_of_each_variable(variable: str) -> None:
    counts = Counter(patient for ids in by_level(made(), variable).values() for patient in ids)
    assert counts == {f"P{place}": 1 for place in range(9)}


def test_a_variable_with_one_level_or_without_values_gives_no_subgroups() -> None:
    variables = {each.variable for each in subgroups(made(images=False, groups=False))}
    assert variables == {"age", "sex", "count"}
