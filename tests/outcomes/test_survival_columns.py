"""Times and events from cells: values, and a line for every cell that cannot be used."""

import numpy as np
import pytest

from mil_toolkit.outcomes.outcome import OutcomeRow, Parsed
from mil_toolkit.outcomes.survival_columns import read_survival


def read(times: list[str], events: list[str], unlabelled: tuple[str, ...] = (), decimal: str = ".") -> Parsed:
    rows = [
        OutcomeRow(f"table.csv, row {number} (patient P{number})", cells)
        for number, cells in enumerate(zip(times, events, strict=True), 2)
    ]
    return read_survival(rows, ("OS", "DEAD"), decimal, unlabelled)


def test_times_and_events_are_read() -> None:
    parsed = read(["1.5", "2", ""], ["1", "0.0", ""], unlabelled=("",))
    assert parsed.problems == []
    np.testing.assert_array_equal(parsed.targets, [[1.5, 1], [2, 0], [-1, -1]])
    np.testing.assert_array_equal(read(["1,5"], ["1"], decimal=",").targets, [[1.5, 1]])


@pytest.mark.parametrize(
    ("time", "event", "expected"),
    [
        ("0", "1", "row 3 (patient P3): OS '0' is not above 0."),
        ("-2", "0", "row 3 (patient P3): OS '-2' is not above 0."),
        ("soon", "0", "row 3 (patient P3): OS 'soon' is not a finite number."),
        ("1e999", "0", "row 3 (patient P3): OS '1e999' is not a finite number."),
        (">5", "0", "row 3 (patient P3): OS '>5' is a limit, not a number."),
        (">5", "0", "Instead of a limit, write the time that was observed; a patient without the event then"),
        ("1,5", "0", "row 3 (patient P3): OS '1,5' contains a comma."),
        ("1,5", "0", 'If it is a decimal comma, add decimal = "," to [cohort].'),
        ("", "0", "row 3 (patient P3): no time in 'OS'. Fill it in, or declare unlabelled = \"\""),
        ("3", "2", "row 3 (patient P3): DEAD '2' is not 1 (event) or 0 (censored)."),
        ("3", "yes", "row 3 (patient P3): DEAD 'yes' is not 1 (event) or 0 (censored)."),
        ("3", "", "row 3 (patient P3): no event in 'DEAD'."),
    ],
)
def test_a_wrong_time_or_event_is_named_with_its_row(time: str, event: str, expected: str) -> None:
    parsed = read(["1", time, "2"], ["1", event, "0"])
    assert expected in "\n".join(parsed.problems)
    assert parsed.targets.shape == (3, 2)


def test_many_times_of_zero_are_one_problem_and_one_advice() -> None:
    first, second = read(["0"] * 8, ["1"] * 8).problems
    assert first.startswith("8 of 8 times are not above 0: table.csv, row 2 (patient P2): OS '0'")
    assert second.startswith("A time counts from the start of the observation")


def test_a_column_of_words_is_one_problem() -> None:
    (line,) = read(["late"] * 8, ["1"] * 8).problems
    assert line.startswith("8 of 8 cells cannot be read: each is not a finite number. Affected: table.csv")


def test_a_patient_with_only_a_time_or_an_event_is_named() -> None:
    assert read(["1", "?"], ["?", "0"], unlabelled=("?",)).problems == [
        "table.csv, row 2 (patient P2): OS '1' and DEAD '?': a patient needs both, or is unlabelled in both.",
        "table.csv, row 3 (patient P3): OS '?' and DEAD '0': a patient needs both, or is unlabelled in both.",
    ]
