"""Counts and lists as text."""

import pytest

from mil_toolkit.core.text import count_of, each_or_most, some


def test_a_count_has_a_decimal_only_if_needed_and_one_thing_is_singular() -> None:
    counts = [count_of(value, "patient") for value in (0, 1, 1.5, 7.0, 1234567)]
    assert counts == ["0 patients", "1 patient", "1.5 patients", "7 patients", "1234567 patients"]
    searches = [count_of(value, "search", "searches") for value in (1, 2)]
    assert searches == ["1 search", "2 searches"]


def test_long_lists_are_cut_and_say_so() -> None:
    assert (some([]), some(range(5)), some(range(7))) == ("", "0, 1, 2, 3, 4", "0, 1, 2, 3, 4 and 2 more")


@pytest.mark.parametrize(
    ("failed", "of", "lines"), [(5, 5, 5), (6, 12, 6), (6, 11, 1), (90, 90, 1), (45, 90, 45)]
)
def test_a_common_cause_of_many_failures_is_reported_once(failed: int, of: int, lines: int) -> None:
    patients = [f"P{place}" for place in range(failed)]
    reported = each_or_most(patients, of, map("patient {}.".format, patients), "patients fail:")
    assert len(reported) == lines
    once = f"{failed} of {of} patients fail: P0, P1, P2, P3, P4 and {failed - 5} more."
    assert reported[0] == (once if lines == 1 else "patient P0.")
