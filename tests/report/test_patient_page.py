"""The page of one patient: plain words for every kind of outcome."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.one_patient import KINDS, NAMES, TODAY, patient_of, with_outcome
from support.reports import text_of
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.contributions import EARLY
from mil_toolkit.bundle.one_patient import predict_one
from mil_toolkit.bundle.patient_words import PatientWords
from mil_toolkit.report.patient_page import patient_page, render

WORDS = {
    "binary": ("The model answers tumoral from a probability of",),
    "classes": ("compared with how frequent it was", "Probabilities AML: 0."),
    "number": ("BLASTS", "In 95 of 100 patients, the true value is expected between"),
    "survival": ("risk of the event up to the time 5 0.",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_each_kind_of_outcome_has_plain_words(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    model = with_outcome(ModelBundle.load(tiny.bundle), kind, EARLY)
    words = PatientWords(model, predict_one(model, patient_of(tiny, tmp_path)), TODAY)
    page = patient_page(words, TODAY)
    text = text_of(render(page).decode())
    for part in WORDS[kind]:
        assert part in text
    assert "With the images of an average patient instead: " in text and f"{TODAY} (of the" in text
    assert not any(word in text for word in ("logit", "fusion", "calibration", "standard deviation"))
    assert (page.headline in NAMES) == (kind == "classes")
    assert page.equal and "All images of this patient counted the same" in text  # it is the only image


def test_values_outside_of_the_training_range_are_a_warning(tiny: Tiny, tmp_path: Path) -> None:
    bundle = ModelBundle.load(tiny.bundle)
    bundle = replace(bundle, about=replace(bundle.about, domain=None))
    old = predict_one(bundle, patient_of(tiny, tmp_path, age="120"))
    (warning,) = (
        line for line in patient_page(PatientWords(bundle, old, TODAY), TODAY).warnings if "range" in line
    )
    assert warning.startswith("age is 120, outside the training range ")
    unknown = replace(bundle, about=replace(bundle.about, ranges=None, domain=None))
    words = PatientWords(unknown, predict_one(unknown, patient_of(tiny, tmp_path)), TODAY)
    assert any("is not known: the bundle stores nothing" in line for line in words.warnings())
