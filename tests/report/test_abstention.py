"""What the report says about abstention."""

import numpy as np
from support.studies import Tiny

from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.layout import lay_out
from mil_toolkit.report.sections.abstention import LEVELS, abstention_notes


def test_each_error_rate_has_its_bound_its_coverage_and_the_share_undecided(tiny: Tiny) -> None:
    contents = read_contents(tiny.study)
    first, *others = abstention_notes(contents)
    assert "1 - 2 alpha" in first and "guarantee" not in first and "smallest class" in first
    assert "Vovk 2015" in first and len(others) == len(LEVELS)
    fewest = int(np.bincount(tiny.cohort.labels[tiny.cohort.labels >= 0]).min())
    for alpha, line in zip(LEVELS, others, strict=True):
        assert line.startswith(f"Error rate {alpha:g}: nominal coverage {1 - alpha:g}")
        bound = 1 - 2 * alpha - min(2 * (1 - 1 / 2) / (fewest / 2 + 1), (1 - 2 / fewest) / 3)
        assert f", bound of CV+ {bound:.3g}, " in line and "left undecided" in line
        assert "guarantee" not in line
        assert "negative" in line and "positive" in line
    assert lay_out(contents, False).use.notes[-len(LEVELS) - 1 :] == [first, *others]
