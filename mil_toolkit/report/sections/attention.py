"""Attention: the gallery of patients."""

from dataclasses import dataclass

from mil_toolkit.report.contents import Contents
from mil_toolkit.report.gallery import Case, Naming, cases
from mil_toolkit.report.shown import MOST_BEST, MOST_WORST, shows_all
from mil_toolkit.study.tables import class_columns


@dataclass(frozen=True)
class AttentionSection:
    """The section on attention."""

    summary: str
    cases: list[Case]


def attention_section(contents: Contents, naming: Naming) -> AttentionSection:
    """Return the section with the predicted patients of a study."""
    return AttentionSection(_summary(contents), cases(contents, naming))


def _summary(contents: Contents) -> str:
    everyone = _patients(contents)
    if not contents.uses_images:
        return f"The study uses metadata only, so there is no attention. {everyone}."
    if contents.attention is None:
        return f"The study has no stored attention. {everyone}."
    models = "outer" if contents.nested else "validation"
    images, sums = "images of highest and lowest attention", "The attention on a patient's images sums to one"
    if class_columns(contents.attention):
        images = "images of highest attention for each class, whose probability depends on what it pools"
        sums += " in each class"
    return (
        f"Attention by {models} models that did not see the patient during training. {everyone}, and the"
        f" {images}. {sums}."
    )


def _patients(contents: Contents) -> str:
    """Return which of the predicted patients are shown."""
    count = len(contents.table.labels)
    worst, best = "worst mistakes", "most confident correct ones"
    if not contents.class_names:
        worst, best = "largest errors", "smallest errors"
    if shows_all(count):
        return f"All patients with their predictions, the {worst} first"
    return (
        f"Of {count:,} patients with their predictions, the {MOST_WORST:,} {worst} and then the"
        f" {MOST_BEST:,} {best} (predictions.csv has all)"
    )
