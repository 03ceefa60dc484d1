"""Attention: the gallery of patients."""

from dataclasses import dataclass

from mil_toolkit.report.contents import Contents
from mil_toolkit.report.gallery import MOST_OTHERS, Case, Naming, cases
from mil_toolkit.report.sections.by_outcome import OUTCOME_SECTIONS
from mil_toolkit.report.sections.patient_words import Order, PatientWords
from mil_toolkit.report.shown import MOST_BEST, MOST_WORST, shows_all
from mil_toolkit.study.tables import class_columns


@dataclass(frozen=True)
class AttentionSection:
    """The section on attention."""

    summary: str
    words: PatientWords
    cases: list[Case]


def attention_section(contents: Contents, naming: Naming) -> AttentionSection:
    """Return the section with the predicted patients of a study."""
    words = OUTCOME_SECTIONS[contents.study.outcome.kind].patients(contents)
    return AttentionSection(_summary(contents, words.order), words, cases(contents, naming))


def _summary(contents: Contents, order: Order) -> str:
    everyone = _patients(contents, order)
    if not contents.uses_images:
        return f"The study uses metadata only, so there is no attention. {everyone}."
    if contents.attention is None:
        return f"The study has no stored attention. {everyone}."
    models = "outer" if contents.nested else "validation"
    images, sums = "images of highest and lowest attention", "The attention on a patient's images sums to one"
    if class_columns(contents.attention):
        many = len(class_columns(contents.attention)) > 1 + MOST_OTHERS
        of = "the true class and the two most probable others" if many else "each class"
        images = f"images of highest attention for {of}; the probability of a class depends on what it pools"
        sums += " in each class"
    return (
        f"Attention by {models} models that did not see the patient during training. {everyone}, and the"
        f" {images}. {sums}."
    )


def best_words(contents: Contents, order: Order) -> str:
    """Return what the best predictions are called, in the plural."""
    return f"{order.best} ones" if contents.class_names else order.best


def _patients(contents: Contents, order: Order) -> str:
    """Return which of the predicted patients are shown."""
    count = len(contents.table.labels)
    if shows_all(count):
        return f"All patients with their predictions, the {order.worst} first"
    return (
        f"Of {count:,} patients with their predictions, the {MOST_WORST:,} {order.worst} and then the"
        f" {MOST_BEST:,} {best_words(contents, order)} (predictions.csv has all)"
    )
