"""`update_report`: draw a report unless it is up to date. Nothing heavy is imported for one that is."""

from collections.abc import Sequence
from pathlib import Path

from mil_toolkit.report.seal import Report, current_report
from mil_toolkit.study.records import StudyScores


def update_report(
    study: Path,
    output: Path | None = None,
    anonymise: bool = False,
    force: bool = False,
    scores: StudyScores | None = None,
    saliency: bool = False,
    weights: Sequence[Path] = (),
) -> Report:
    """Return the report of a finished study, drawn again if anything that it shows may have changed.

    force: draw it in any case
    scores: see `write_report`, also for the other parameters and the errors raised
    """
    current = None if force else current_report(study, output, anonymise, saliency)
    if current is not None:
        return current
    from mil_toolkit.report.page import write_report

    return write_report(study, output, anonymise, scores=scores, saliency=saliency, weights=weights)
