"""The page of one patient: plain words for every kind of outcome."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.one_patient import KINDS, NAMES, TODAY, patient_of, with_outcome
from support.reports import text_of
from support.studies import Tiny

from mil_toolkit.bundle.abstention import set_columns
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.contributions import EARLY
from mil_toolkit.bundle.one_patient import predict_one
from mil_toolkit.bundle.patient_words import PatientWords
from mil_toolkit.evaluation.conformal import HeldOutScores
from mil_toolkit.model.head import MILModel
from mil_toolkit.outcomes.kinds import OutcomeRecord
from mil_toolkit.report.patient_page import patient_page, render
from mil_toolkit.study.abstention import Calibration

WORDS = {
    "binary": ("The model answers tumoral from a probability of",),
    "classes": ("compared with how frequent it was", "Probabilities AML: 0."),
    "ordered": ("compared with how frequent it was", "Probabilities AML: "),
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
    assert (page.headline in NAMES) == (kind in ("classes", "ordered"))
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


@pytest.mark.parametrize(
    ("probabilities", "rate", "expected"),
    [
        ([0.01, 0.01, 0.98], 0.1, "The answer of the model {most}: positive."),
        ([0.98, 0.01, 0.01], 0.1, "The answer of the model {most}: negative | either."),
        ([0.4, 0.0, 0.6], 0.1, "The model does not decide {most}: negative | either | positive."),
    ],
)
def test_a_set_of_named_classes_is_written_as_declared(
    probabilities: list[float], rate: float, expected: str, tiny: Tiny, tmp_path: Path
) -> None:
    names = ("negative | either", "either", "positive")
    model = with_outcome(ModelBundle.load(tiny.bundle), "classes", EARLY)
    scores = HeldOutScores.of(np.linspace(0, 1, 101), np.arange(101))
    outcome = OutcomeRecord("classes", {"label": "T", "classes": names})
    calibration = Calibration("outer", [scores] * 3)
    about = replace(model.about, class_names=names, outcome=outcome, calibration=calibration)
    model = replace(model, about=about)
    prediction = predict_one(model, patient_of(tiny, tmp_path), abstain=rate)
    values = np.array([probabilities])
    columns = dict(zip(model.scoring.values, probabilities, strict=True))
    table = prediction.predictions.table.assign(**columns, **set_columns(about, values, rate))
    prediction = replace(prediction, predictions=replace(prediction.predictions, table=table))
    words = PatientWords(model, prediction, TODAY, rate)
    most = "if it may be wrong for at most 10 in 100 patients"
    assert expected.format(most=most) in patient_page(words, TODAY).details
    assert any("does not decide" in line for line in words.answer()) == ("not decide" in expected)


def test_the_page_of_a_model_that_does_not_look_at_its_images_says_so(tiny: Tiny, tmp_path: Path) -> None:
    bundle = ModelBundle.load(tiny.bundle)
    head = bundle.head
    config = replace(head.model.config, image_branch=False)
    model = MILModel(config, 0, len(head.encoder.columns), [torch.Generator()]).eval().requires_grad_(False)
    blind = replace(bundle, head=replace(head, model=model, projection=None))
    page = patient_page(PatientWords(blind, predict_one(blind, patient_of(tiny, tmp_path)), TODAY), TODAY)
    assert page.parts == ["The model looks at the values only."] and not page.equal and not page.images
