"""What the report says about abstention."""

from support.studies import Tiny

from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.layout import lay_out
from mil_toolkit.report.sections.abstention import LEVELS, abstention_notes


def test_each_error_rate_has_its_guarantee_its_coverage_and_the_share_undecided(tiny: Tiny) -> None:
    contents = read_contents(tiny.study)
    first, *others = abstention_notes(contents)
    assert "1 - 2 alpha" in first and "Vovk 2015" in first and len(others) == len(LEVELS)
    for alpha, line in zip(LEVELS, others, strict=True):
        assert line.startswith(f"Error rate {alpha:g}: nominal coverage {1 - alpha:g}")
        assert f"guaranteed {1 - 2 * alpha:g}" in line and "left undecided" in line
        assert "negative" in line and "positive" in line
    assert lay_out(contents, False).use.notes[-len(LEVELS) - 1 :] == [first, *others]
