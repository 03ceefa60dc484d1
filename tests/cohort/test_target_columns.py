"""Classes and numbers from cells: values, and a line for every cell that cannot be used."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.target_columns import (
    check_class_sizes,
    check_class_words,
    check_numbers,
    read_classes,
    read_numbers,
)

CLASSES = {"AML": ["AML", "APL"], "ALL": ["ALL"], "other": ["CML", 3]}


def cells(*texts: str) -> list[tuple[str, str]]:
    return [(f"table.csv, row {number} (patient P{number})", text) for number, text in enumerate(texts, 2)]


def read(*texts: str, unlabelled: tuple[str, ...] = ()) -> tuple[list[int], list[str]]:
    problems = Problems()
    labels = read_classes(cells(*texts), "TYPE", CLASSES, problems, unlabelled)
    return labels.tolist(), problems.lines


def numbers(
    *texts: str, decimal: str = ".", transform: str | None = None, unlabelled: tuple[str, ...] = ()
) -> tuple[list[float], list[str]]:
    problems = Problems()
    values = read_numbers(cells(*texts), "BLASTS", decimal, problems, unlabelled, transform=transform)
    return values.tolist(), problems.lines


# Classes.


def test_words_become_the_numbers_of_their_classes_and_several_words_one_class() -> None:
    assert read("AML", "APL", "ALL", "CML", "3", "3.0", " ALL ") == ([0, 0, 1, 2, 2, 2, 1], [])


def test_unlabelled_patients_have_the_number_minus_one() -> None:
    assert read("AML", "", "?", unlabelled=("", "?")) == ([0, -1, -1], [])


def test_a_word_of_no_class_is_named_with_its_row() -> None:
    labels, (line,) = read("AML", "CLL", "ALL")
    assert labels == [0, -1, 1]
    assert line == (
        "table.csv, row 3 (patient P3): TYPE 'CLL' is not one of 'AML', 'APL' (AML), 'ALL', 'CML' (other),"
        " 3 (other)."
    )


def test_many_words_of_no_class_are_one_problem() -> None:
    _, lines = read(*["ctrl"] * 8, "AML")
    assert len(lines) == 1
    assert lines[0].startswith("8 of 9 labels are not one of")


def test_a_missing_label_is_a_problem_with_its_remedy() -> None:
    labels, lines = read("AML", "NA", "")
    assert labels == [0, -1, -1]
    assert lines[0] == (
        "table.csv, row 3 (patient P3): no label in 'TYPE'. Fill it in, or declare unlabelled = \"NA\" if the"
        " patient is to be predicted."
    )
    assert len(lines) == 2


@given(st.lists(st.sampled_from(["AML", "APL", "ALL", "CML", "x", ""]), max_size=12))
def test_every_cell_has_a_class_or_a_problem(texts: list[str]) -> None:
    labels, lines = read(*texts)
    wrong = sum(text in ("x", "") for text in texts)
    assert labels.count(-1) == wrong
    assert bool(lines) == bool(wrong)


@pytest.mark.parametrize(
    ("classes", "unlabelled", "expected"),
    [
        (
            {"AML": ["AML"]},
            (),
            "[cohort]: at least two classes are needed, but the declared ones are: 'AML'.",
        ),
        ({}, (), "[cohort]: at least two classes are needed, but the declared ones are: none."),
        ({"a": ["x", 1], "b": ["1.0"]}, (), "[cohort]: the word '1.0' belongs to 'a' and 'b'; keep it in"),
        ({"a": ["x"], "b": ["?"]}, ("?",), "[cohort]: the word '?' belongs to 'b' and 'unlabelled'; keep it"),
    ],
)
def test_wrong_declarations_of_classes_are_named(
    classes: dict[str, list[str | int]], unlabelled: tuple[str, ...], expected: str
) -> None:
    problems = Problems()
    check_class_words(classes, problems, unlabelled)
    assert len(problems) == 1
    assert problems.lines[0].startswith(expected)


def test_a_word_may_stand_twice_in_its_own_class() -> None:
    problems = Problems()
    check_class_words({"a": ["1", 1], "b": ["2"]}, problems)
    assert not problems.lines


def sizes(labels: list[int], folds: int, groups: list[str] | None = None) -> list[str]:
    problems = Problems()
    given_groups = None if groups is None else np.array(groups)
    check_class_sizes(np.array(labels), list(CLASSES), folds, problems, given_groups)
    return problems.lines


def test_a_class_with_fewer_patients_than_folds_is_named_with_advice() -> None:
    (line,) = sizes([0] * 5 + [1] * 5 + [2] * 3 + [-1] * 9, 5)
    assert line.startswith("the class 'other' has 3 patients, fewer than the 5 folds. Merge it with another")
    assert "exclude its patients" in line
    assert sizes([0] * 5 + [1] * 5 + [2] * 5, 5) == []


def test_a_declared_class_without_patients_is_named() -> None:
    (line,) = sizes([0] * 5 + [1] * 5, 5)
    assert line.startswith("the class 'other' has 0 patients")


def test_groups_are_counted_where_they_are_not_split() -> None:
    labels, groups = [0] * 4 + [1] * 4 + [2] * 4, ["a", "a", "b", "c", *"defgadef"]
    assert sizes(labels, 4) == []
    (line,) = sizes(labels, 4, groups)
    assert line.startswith("the class 'AML' has 3 groups, fewer than the 4 folds.")


@pytest.mark.parametrize(
    ("labels", "expected"), [([1, 1, 1, -1], "only the class 'ALL'"), ([-1, -1], "no class")]
)
def test_a_single_class_is_one_problem(labels: list[int], expected: str) -> None:
    (line,) = sizes(labels, 2)
    assert line.startswith(f"the labelled patients have {expected}; at least two classes are needed")


# Numbers.


def test_numbers_are_read_with_the_decimal_sign() -> None:
    assert numbers("1.5", "-2", "1e3") == ([1.5, -2, 1000], [])
    assert numbers("1,5", "1.234,5", decimal=",") == ([1.5, 1234.5], [])


def test_unlabelled_numbers_are_nan() -> None:
    values, lines = numbers("1", "", "?", unlabelled=("", "?"))
    assert lines == []
    np.testing.assert_array_equal(values, [1, np.nan, np.nan])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("many", "row 3 (patient P3): BLASTS 'many' is not a finite number."),
        ("inf", "BLASTS 'inf' is not a finite number."),
        ("<5", "BLASTS '<5' is a limit, not a number."),
        ("1,5", "BLASTS '1,5' contains a comma."),
        ("", "row 3 (patient P3): no target in 'BLASTS'. Fill it in, or declare unlabelled = \"\""),
        ("NaN", "no target in 'BLASTS'."),
    ],
)
def test_a_cell_without_a_number_is_named_with_its_row(text: str, expected: str) -> None:
    values, lines = numbers("1", text, "2")
    assert np.isnan(values[1])
    assert expected in "\n".join(lines)


def test_words_as_a_target_are_one_problem_with_advice() -> None:
    _, lines = numbers(*["AML", "ALL"] * 4)
    assert lines[0].startswith("8 of 8 cells cannot be read: each is not a finite number.")
    assert lines[1] == (
        "Is 'BLASTS' a number? If it holds the names of classes, declare it as label, with classes."
    )
    assert len(lines) == 2


def test_a_number_without_a_logarithm_is_named_with_its_row_and_the_section_of_the_target() -> None:
    values, lines = numbers("1", "0", "-2", transform="log")
    assert np.isnan(values).tolist() == [False, True, True]
    assert lines[0].endswith("BLASTS '0' is not above 0, so it has no logarithm.")
    assert lines[2] == 'Correct the cell, empty it, or remove transform = "log" from [cohort].'


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([2.5, 2.5, np.nan], "the target 'BLASTS' is 2.5 for every labelled patient; a model needs"),
        ([np.nan], "the target 'BLASTS' has no number; a model needs targets that differ."),
    ],
)
def test_a_constant_target_is_a_problem(targets: list[float], expected: str) -> None:
    problems = Problems()
    check_numbers(np.array(targets), "BLASTS", problems)
    (line,) = problems.lines
    assert line.startswith(expected)
    check_numbers(np.array([1.0, 2.0, np.nan]), "BLASTS", problems)
    assert len(problems) == 1
