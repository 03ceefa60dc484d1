"""Names, counts and lists as text."""

import pytest

from mil_toolkit.core.text import count_of, each_or_most, printable, some


def test_unprintable_text_is_escaped() -> None:
    assert (printable("ä b"), printable("a\nb"), printable("a\x1b[0m")) == ("ä b", "a\\nb", "a\\x1b[0m")


def test_counts_have_decimals_only_if_needed_and_a_singular() -> None:
    counts = [count_of(value, "patient") for value in (0, 1, 1.5, 7.0, 1234567)]
    assert counts == ["0 patients", "1 patient", "1.5 patients", "7 patients", "1234567 patients"]
    assert (count_of(1, "search", "searches"), count_of(2, "search", "searches")) == (
        "1 search",
        "2 searches",
    )


def test_long_lists_are_shortened_and_say_by_how_much() -> None:
    assert (some([]), some(range(5)), some(range(7))) == ("", "0, 1, 2, 3, 4", "0, 1, 2, 3, 4 and 2 more")


@pytest.mark.parametrize(
    ("failed", "total", "lines"), [(5, 5, 5), (6, 12, 6), (6, 11, 1), (90, 90, 1), (45, 90, 45)]
)
def test_a_summary_replaces_the_lines_if_most_of_many_items_failed(
    failed: int, total: int, lines: int
) -> None:
    patients = [f"P{place}" for place in range(failed)]
    messages = each_or_most(patients, total, map("patient {}.".format, patients), "patients fail:")
    assert len(messages) == lines
    summary = f"{failed} of {total} patients fail: P0, P1, P2, P3, P4 and {failed - 5} more."
    assert messages[0] == (summary if lines == 1 else "patient P0.")
