"""`Page`: all that the template shows except pictures."""

from dataclasses import dataclass, replace

from mil_toolkit.core.text import printable
from mil_toolkit.core.version import __version__
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.drawing import style
from mil_toolkit.report.gallery import Naming
from mil_toolkit.report.sections.ablation import AblationSection, ablation_section
from mil_toolkit.report.sections.abstention import abstention_notes
from mil_toolkit.report.sections.attention import AttentionSection, attention_section
from mil_toolkit.report.sections.by_outcome import OUTCOME_SECTIONS
from mil_toolkit.report.sections.data import DataSection
from mil_toolkit.report.sections.overview import Overview, overview
from mil_toolkit.report.sections.reporting import ReportingSection, reporting_section
from mil_toolkit.report.sections.scores import ScoresSection
from mil_toolkit.report.sections.search import SearchSection, search_section
from mil_toolkit.report.sections.use import UseSection


@dataclass(frozen=True)
class Page:
    """The page of a study.

    title: name of the study folder; nested: whether there are outer folds
    fitted, rule: see `OutcomeSections`
    class_names: negative and positive first and second, none if the outcome has no classes
    ablation: None where there was none
    """

    title: str
    cohort: str
    version: str
    anonymise: bool
    nested: bool
    repeats: int
    fitted: str
    rule: str
    class_names: tuple[str, ...]
    overview: Overview
    scores: ScoresSection
    use: UseSection
    search: SearchSection
    data: DataSection
    attention: AttentionSection
    ablation: AblationSection | None
    reporting: ReportingSection


def _with_abstention(use: UseSection, contents: Contents) -> UseSection:
    return replace(use, notes=[*use.notes, *abstention_notes(contents)])


def lay_out(contents: Contents, anonymise: bool) -> Page:
    """Draw all figures of a study, and return its page."""
    own = OUTCOME_SECTIONS[contents.study.outcome.kind]
    with style():
        return Page(
            title=printable(contents.study.folder.resolve().name),
            cohort=printable(contents.study.description.cohort.name),
            version=__version__,
            anonymise=anonymise,
            nested=contents.nested,
            repeats=contents.own_scores[contents.primary_metric].repeats,
            fitted=own.fitted,
            rule=own.rule,
            class_names=contents.class_names,
            overview=overview(contents, anonymise, own.facts(contents)),
            scores=own.scores(contents),
            use=_with_abstention(own.use(contents), contents),
            search=search_section(contents),
            data=own.data(contents, anonymise),
            attention=attention_section(contents, Naming(anonymise)),
            ablation=ablation_section(contents.ablation) if contents.ablation else None,
            reporting=reporting_section(contents),
        )
