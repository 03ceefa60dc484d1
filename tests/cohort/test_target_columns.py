"""Numbers and survival from cells: values, and a line for every cell that cannot be used."""

import numpy as np
import pytest

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.target_columns import (
    SurvivalTargets,
    check_numbers,
    check_survival,
    read_numbers,
    read_survival,
)

EVENTS = ("OS", "DEAD")


def cells(*texts: str) -> list[tuple[str, str]]:
    return [(f"table.csv, row {number} (patient P{number})", text) for number, text in enumerate(texts, 2)]


def numbers(
    *texts: str, decimal: str = ".", transform: str | None = None, unlabelled: tuple[str, ...] = ()
) -> tuple[list[float], list[str]]:
    problems = Problems()
    values = read_numbers(cells(*texts), "BLASTS", decimal, problems, unlabelled, transform=transform)
    return values.tolist(), problems.lines


def survival(
    times: list[str], events: list[str], unlabelled: tuple[str, ...] = ()
) -> tuple[SurvivalTargets, list[str]]:
    problems = Problems()
    targets = read_survival(cells(*times), cells(*events), EVENTS, ".", problems, unlabelled)
    return targets, problems.lines


def checked(times: list[float], events: list[int], horizon: float, folds: int = 1) -> list[str]:
    problems = Problems()
    check_survival(SurvivalTargets(np.array(times), np.array(events)), horizon, problems, folds)
    return problems.lines


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


# Survival.


def test_times_and_events_are_read() -> None:
    targets, lines = survival(["1.5", "2", ""], ["1", "0.0", ""], unlabelled=("",))
    assert lines == []
    np.testing.assert_array_equal(targets.times, [1.5, 2, np.nan])
    assert targets.events.tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("time", "event", "expected"),
    [
        ("0", "1", "row 3 (patient P3): OS '0' is not above 0."),
        ("-2", "0", "row 3 (patient P3): OS '-2' is not above 0."),
        ("soon", "0", "OS 'soon' is not a finite number."),
        ("", "0", "no time in 'OS'."),
        ("3", "2", "row 3 (patient P3): DEAD '2' is not 1 (event) or 0 (censored)."),
        ("3", "yes", "DEAD 'yes' is not 1 (event) or 0 (censored)."),
        ("3", "", "no event in 'DEAD'."),
    ],
)
def test_a_wrong_time_or_event_is_named_with_its_row(time: str, event: str, expected: str) -> None:
    targets, lines = survival(["1", time, "2"], ["1", event, "0"])
    assert expected in "\n".join(lines)
    assert len(targets.times) == len(targets.events) == 3


def test_many_times_of_zero_are_one_problem_and_one_advice() -> None:
    _, lines = survival(["0"] * 8, ["1"] * 8)
    assert lines[0].startswith("8 of 8 times are not above 0: table.csv, row 2 (patient P2): OS '0'")
    assert lines[1].startswith("A time counts from the start of the observation")
    assert len(lines) == 2


def test_a_patient_with_only_a_time_or_an_event_is_named() -> None:
    _, lines = survival(["1", "?"], ["?", "0"], unlabelled=("?",))
    assert lines == [
        "table.csv, row 2 (patient P2): OS '1' and DEAD '?': a patient needs both, or is unlabelled in both.",
        "table.csv, row 3 (patient P3): OS '?' and DEAD '0': a patient needs both, or is unlabelled in both.",
    ]


@pytest.mark.parametrize(
    ("times", "events", "horizon", "folds", "expected"),
    [
        ([1, 2, 3], [0, 0, 0], 2, 1, "all 3 labelled patients are censored; survival cannot be learned"),
        ([3, 4, 9], [1, 1, 0], 2, 1, "none of 2 events happened up to the horizon of 2, so that the risk"),
        (
            [1, 2, 9],
            [1, 1, 0],
            3,
            5,
            "2 of 2 events happened up to the horizon of 3, fewer than the 5 folds.",
        ),
        ([1, 2, 9], [1, 1, 0], 10, 1, "the horizon of 10 is after the last time of follow-up, 9."),
        ([1, 2], [1, 0], 0, 1, "[cohort]: horizon must be above 0, not 0."),
        ([1, 2], [1, 0], np.nan, 1, "[cohort]: horizon must be above 0, not nan."),
        ([np.nan], [-1], 2, 1, "all 0 labelled patients are censored"),
    ],
)
def test_survival_that_cannot_be_learned_is_a_problem(
    times: list[float], events: list[int], horizon: float, folds: int, expected: str
) -> None:
    (line,) = checked([float(time) for time in times], events, horizon, folds)
    assert line.startswith(expected)


def test_survival_that_can_be_learned_is_none() -> None:
    assert checked([1, 2, 3, np.nan], [1, 1, 0, -1], 2.5, folds=2) == []
    assert checked([1, 2, 3], [1, 1, 0], 3) == []
