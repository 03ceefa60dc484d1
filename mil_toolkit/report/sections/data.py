"""The data: distributions, the audit's findings and the saturation mask."""

from dataclasses import dataclass, replace

from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.words import DEFAULTS_NOTE
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.data import class_size_figures, data_figures
from mil_toolkit.report.sections.mask import MaskComparison, mask_comparison
from mil_toolkit.study.canary_result import Canary
from mil_toolkit.study.records import Finding

_LEVELS = ("leak", "shortcut", "note", "unchecked")
# The kinds of findings whose text names the column.
_ABOUT_COLUMNS = ("predictive column", "missingness", "way of writing", "constant column")


@dataclass(frozen=True)
class FindingNote:
    """A finding of the audit; where: patients or images; withheld: whether these are left out."""

    level: str
    text: str
    advice: str
    where: list[str]
    withheld: bool


@dataclass(frozen=True)
class DataSection:
    """The section on the data.

    canary: None where it did not run; defaults: on which patients the default configuration was chosen
    mask: None where there are no scores with and without it
    key: the names of class 0 and class 1, if the charts draw them apart
    """

    charts: list[Chart]
    findings: list[FindingNote]
    canary: Canary | None
    defaults: str
    mask: MaskComparison | None
    key: tuple[str, ...] = ()


def data_section(contents: Contents, anonymise: bool) -> DataSection:
    """Return the section on the data of a study."""
    section = findings_section(contents, anonymise)
    return replace(section, charts=data_figures(contents), key=contents.class_names)


def findings_section(contents: Contents, anonymise: bool) -> DataSection:
    """Return the section without charts."""
    findings = [_note(finding, anonymise) for finding in contents.findings]
    mask = mask_comparison(contents)
    return DataSection([], findings, contents.canary, DEFAULTS_NOTE, mask)


def class_data_section(contents: Contents, anonymise: bool) -> DataSection:
    """Return the section on the data of a study of several classes."""
    return replace(findings_section(contents, anonymise), charts=class_size_figures(contents))


def _note(finding: Finding, anonymise: bool) -> FindingNote:
    level = finding.level if finding.level in _LEVELS else "note"
    places = [] if finding.kind in _ABOUT_COLUMNS else list(finding.where)
    withheld = anonymise and bool(places)
    where = [] if withheld else [printable(place) for place in places]
    return FindingNote(level, finding.text, finding.advice, where, withheld)
