"""One patient: contributions and words for every kind of outcome, and models that cannot predict alone."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.one_patient import KINDS, NAMES, TODAY, patient_of, with_outcome
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.contributions import EARLY, LATE, contributions_of
from mil_toolkit.bundle.membership import TrainingMarks
from mil_toolkit.bundle.one_patient import OnePrediction, predict_one
from mil_toolkit.bundle.patient_words import PatientWords
from mil_toolkit.bundle.records import Recalibration
from mil_toolkit.core.errors import DataError, UsageError


@pytest.fixture(name="bundle", scope="module")
def _bundle(tiny: Tiny) -> ModelBundle:
    return ModelBundle.load(tiny.bundle)


def values(prediction: OnePrediction, bundle: ModelBundle) -> np.ndarray:
    return prediction.predictions.table[list(bundle.scoring.values)].to_numpy(float)[0]


@pytest.mark.parametrize("fusion", [LATE, EARLY])
@pytest.mark.parametrize("kind", KINDS)
def test_contributions_are_parts_of_the_output_or_replacements(
    kind: str, fusion: str, bundle: ModelBundle, tiny: Tiny, tmp_path: Path
) -> None:
    model = with_outcome(bundle, kind, fusion)
    one = patient_of(tiny, tmp_path)
    prediction = predict_one(model, one)
    given, head = prediction.contributions, model.head
    assert given.fusion == fusion and (given.parts is None) == (fusion == EARLY)
    if given.parts is not None:
        total = np.atleast_1d(head.apply(prediction.patients).logits.mean(0)[0])
        np.testing.assert_allclose(np.add(given.parts.images, given.parts.metadata), total, rtol=1e-5)
    # A model whose training means are this patient's values sees an average patient in them
    encoder = replace(head.encoder, means=dict.fromkeys(head.encoder.means, 0.0))
    raw = encoder.encode(prediction.patients.metadata) * np.array([*head.encoder.deviations.values()])
    here = replace(head.encoder, means=dict(zip(head.encoder.means, raw.to_numpy()[0], strict=True)))
    average = replace(model, head=replace(head, encoder=here))
    expected = values(predict_one(average, one), model)
    np.testing.assert_allclose(given.without_metadata, expected, rtol=1e-4, atol=1e-6)
    assert head.projection is not None and prediction.patients.bags is not None
    shift = prediction.patients.bags.instances[0].float()
    centred = replace(model, head=replace(head, projection=replace(head.projection, shift=shift)))
    expected = values(predict_one(centred, one), model)
    np.testing.assert_allclose(given.without_images, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(given.without_images, values(prediction, model), atol=1e-6)


WORDS = {
    "binary": ("Probability of tumoral 0.", "Decision: "),
    "classes": ("Probabilities AML: 0.", "largest multiple of its share"),
    "ordered": ("Probabilities AML: ", "largest multiple of its share"),
    "number": ("BLASTS ", " %", "95 % prediction interval: "),
    "survival": ("Risk of the event up to the time 5 0.", "Probability of no event up to each time: 0.5: "),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_outcome_answers_in_its_own_words(
    kind: str, bundle: ModelBundle, tiny: Tiny, tmp_path: Path
) -> None:
    model = with_outcome(bundle, kind, LATE)
    words = PatientWords(model, predict_one(model, patient_of(tiny, tmp_path)), TODAY)
    text = "\n".join(words.lines())
    for part in WORDS[kind]:
        assert part in text
    data = words.to_json()
    assert data["outcome"] == kind and data["set"] is None
    assert (data["decision"] is None) == (kind in ("number", "survival"))
    if kind == "classes":
        assert data["decision"] in NAMES and text.count("before calibration is") == 3
    assert "With average images of the training patients instead: " in text


def test_a_missing_prediction_interval_is_explained_by_the_patients_who_gave_it(
    bundle: ModelBundle, tiny: Tiny, tmp_path: Path
) -> None:
    model = with_outcome(bundle, "number", LATE)
    about = replace(model.about, decision=replace(model.decision, margin=None))  # type: ignore[type-var]
    model = replace(model, about=about)
    one = patient_of(tiny, tmp_path)
    text = "\n".join(PatientWords(model, predict_one(model, one), TODAY).lines())
    assert "No prediction interval: too few training patients." in text
    step = Recalibration("other", 5, ["intercept"], None, about.decision, {}, "anonymous")
    later = replace(model, about=replace(about, recalibrations=[step]))
    text = "\n".join(PatientWords(later, predict_one(later, one), TODAY).lines())
    assert "the model was recalibrated on too few patients (5 patients of cohort other)." in text


@pytest.mark.parametrize("own_projection", [True, False])
def test_the_average_image_is_the_training_mean_in_the_projection_of_the_head(
    own_projection: bool, bundle: ModelBundle, tiny: Tiny, tmp_path: Path
) -> None:
    head, domain = bundle.head, bundle.about.domain
    assert head.projection is not None and domain is not None and domain.images is not None
    plain = replace(head.projection, shift=torch.zeros(512), scale=torch.ones(512), components=None)
    model = with_outcome(replace(bundle, head=replace(head, projection=plain)), "binary", LATE)
    predicted = predict_one(model, patient_of(tiny, tmp_path))
    assert predicted.patients.bags is not None
    mean = predicted.patients.bags.instances[0].float()  # of the only image: nothing changes
    # Rotated, and of as many columns as the head sees
    own = replace(plain, shift=mean, components=torch.eye(512).flip(0)) if own_projection else None
    ones, means = [1.0] * 512, [0.0] * 512 if own_projection else mean.tolist()
    space = replace(domain.images.space, means=means, deviations=ones, variances=ones, within=ones)
    about = replace(model.about, domain=replace(domain, images=replace(domain.images, space=space)))
    changed = contributions_of(replace(model, about=about, domain_projection=own), predicted.patients)
    np.testing.assert_allclose(changed.without_images, values(predicted, model), rtol=1e-5)


def test_an_unknown_column_and_a_gap_are_reported_together(
    bundle: ModelBundle, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        predict_one(bundle, patient_of(tiny, tmp_path, age="", weight="70"))
    assert [problem.split(":")[0] for problem in error.value.problems[:1]] == ["--set weight"]
    assert "age is missing" in str(error.value)


def test_features_of_another_tool_need_a_cohort(bundle: ModelBundle, tiny: Tiny, tmp_path: Path) -> None:
    view = bundle.about.views[0]
    imported = replace(view, spec={**view.spec, "weight_digest": None})
    model = replace(bundle, about=replace(bundle.about, features=imported))
    with pytest.raises(UsageError, match="computed by another tool"):
        predict_one(model, patient_of(tiny, tmp_path))


def test_a_scale_that_the_model_needs_is_asked_for(bundle: ModelBundle, tiny: Tiny, tmp_path: Path) -> None:
    view = bundle.about.views[0]
    cropped = replace(view, spec={**view.spec, "crop_um": 20.0})
    model = replace(bundle, about=replace(bundle.about, features=cropped))
    with pytest.raises(DataError, match="Give --microns-per-pixel"):
        predict_one(model, patient_of(tiny, tmp_path))


def test_an_embedding_that_is_the_projections_mean_is_not_needed_without_a_projection(
    bundle: ModelBundle, tiny: Tiny, tmp_path: Path
) -> None:
    projection = bundle.head.projection
    assert projection is not None
    plain = replace(projection, shift=torch.zeros(512), scale=torch.ones(512), components=None)
    model = with_outcome(replace(bundle, head=replace(bundle.head, projection=plain)), "binary", LATE)
    model = replace(model, about=replace(model.about, domain=None))
    given = predict_one(model, patient_of(tiny, tmp_path)).contributions
    assert given.without_images is None and given.without_metadata is not None


@pytest.mark.parametrize("by_image", [True, False])
def test_a_patient_of_a_recalibration_is_not_new(
    by_image: bool, bundle: ModelBundle, tiny: Tiny, tmp_path: Path
) -> None:
    patient = patient_of(tiny, tmp_path)
    assert patient.images is not None and isinstance(bundle.about.fitted_on, TrainingMarks)
    marks = bundle.about.fitted_on
    if by_image:
        ids, others = ["Z"], replace(marks, images=[])
        images = [file.read_bytes() for file in patient.images.iterdir()]
        seen = TrainingMarks.of(ids, [{hashlib.sha256(image).digest() for image in images}], marks.salt)
    else:
        others = TrainingMarks.of(["Z"], [set()], marks.salt)
        seen = TrainingMarks.of([patient.patient_id], [set()], marks.salt)
    about = replace(bundle.about, fitted_on=others)
    assert predict_one(replace(bundle, about=about), patient).fitted_on is False
    step = recalibration(bundle, seen)
    about = replace(about, recalibrations=[step])
    model = replace(bundle, about=about)
    prediction = predict_one(model, patient)
    assert prediction.fitted_on is True
    words = PatientWords(model, prediction, TODAY)
    assert words.lines()[-1] == f"  {step.sentence}" and "on 9 patients of cohort other" in step.sentence
    assert words.to_json()["recalibrated"] == [{"cohort": "other", "refitted": ["intercept"]}]


def recalibration(bundle: ModelBundle, marks: TrainingMarks) -> Recalibration:
    return Recalibration("other", 9, ["intercept"], None, bundle.decision, {}, marks)
