"""Columns that may be associated with the outcome, and those whose association is significant."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mil_toolkit.evaluation.multiplicity import holm
from mil_toolkit.study.associations import Association
from mil_toolkit.study.records import Finding

# Of all tests of an audit together (Holm 1979): the largest share of audits that report a shortcut where
# there is none. With the search for near-identical patients, at most 5 % of the audits of a clean cohort
# raise an alarm.
LEVEL = 0.04


@dataclass(frozen=True)
class Candidate:
    """A column that may be associated with the outcome.

    association: the test of it, before the correction for other columns
    describe: returns what is reported if the p-value is small; its text ends where the p-value follows
    """

    association: Association
    describe: Callable[[], Finding]


def significant(candidates: Sequence[Candidate]) -> Iterator[Finding]:
    """Yield the findings of the candidates whose p-values are small, adjusted for the number of tests."""
    p_values = {str(place): each.association.p_value for place, each in enumerate(candidates)}
    for candidate, p_value in zip(candidates, holm(p_values).values(), strict=True):
        if p_value is not None and p_value < LEVEL:
            yield _reported(candidate, p_value, len(candidates))


def _reported(candidate: Candidate, p_value: float, tests: int) -> Finding:
    finding, test = candidate.describe(), candidate.association.test
    adjusted = f" adjusted for {tests} tests (Holm)" if tests > 1 else ""
    text = f"{finding.text}; p = {p_value:.2g}, {test}{adjusted})."
    return replace(finding, text=text, figures=finding.figures | {"p_value": p_value})
