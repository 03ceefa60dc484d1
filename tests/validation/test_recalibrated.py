"""Recalibrated bundles: they predict by the refitted rule, name both cohorts, and know their patients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.bundles import change_config
from support.other_cohorts import Other
from support.reports import text_of

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.membership import ANONYMOUS
from mil_toolkit.bundle.predict import predict
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.validation.page import write_page
from mil_toolkit.validation.recalibrated import recalibrated, save_recalibrated
from mil_toolkit.validation.validate import Validated, validate

NAME = "intercept+threshold"


@pytest.fixture(scope="module", name="folder")
def _folder(validated: Validated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recalibrated") / "model"
    save_recalibrated(validated, NAME, folder)
    return folder


def test_it_predicts_by_the_refitted_rule(validated: Validated, folder: Path, other: Other) -> None:
    loaded, cohort = ModelBundle.load(folder), read_cohort(other.cohort_toml, images=False)
    ids = validated.sample.patients.ids
    table = predict(loaded, cohort.select(ids), FeatureCache.open(other.features)).table
    expected = validated.record.refits[NAME].rule.predict(validated.sample.outputs)
    np.testing.assert_allclose(table["probability"], expected.values, atol=1e-6)
    assert np.array_equal(table["prediction"] == 1, expected.decisions)
    assert loaded.decision == validated.record.refits[NAME].rule != validated.bundle.decision


def test_records_and_card_name_both_cohorts_and_what_was_refitted(validated: Validated, folder: Path) -> None:
    loaded = ModelBundle.load(folder)
    assert loaded.about.recalibrations is not None
    (step,) = loaded.about.recalibrations
    assert (loaded.about.cohort, step.cohort, step.patients) == ("synthetic", "other", 20)
    assert step.refitted == ["intercept", "threshold"] and step.prevalence is None
    assert step.before == validated.bundle.decision and step.scores == validated.record.refits[NAME].scores
    card = (folder / "README.md").read_text()
    assert "fitted on cohort synthetic, on 20 patients of cohort other: intercept, then threshold." in card
    assert loaded.scores == validated.bundle.scores


def test_its_patients_are_known_from_then_on(validated: Validated, folder: Path, other: Other) -> None:
    loaded, cohort = ModelBundle.load(folder), read_cohort(other.cohort_toml, images=False)
    cache = FeatureCache.open(other.features)
    with pytest.raises(DataError, match="fitted or recalibrated on"):
        validate(loaded, cohort, cache)
    predictions = predict(loaded, cohort.select(validated.sample.patients.ids), cache)
    assert predictions.validation is None and predictions.training is not None


def test_an_anonymous_bundle_stays_anonymous(validated: Validated) -> None:
    about = replace(validated.bundle.about, fitted_on=ANONYMOUS)
    anonymous = replace(validated, bundle=replace(validated.bundle, about=about))
    steps = recalibrated(anonymous, NAME).about.recalibrations or ()
    assert [step.fitted_on for step in steps] == [ANONYMOUS]


def test_only_a_threshold_leaves_the_sets_as_they_are(validated: Validated) -> None:
    assert recalibrated(validated, "threshold").about.calibration == validated.bundle.about.calibration
    assert validated.bundle.about.calibration is not None
    assert recalibrated(validated, NAME).about.calibration is None


def test_a_second_recalibration_is_added(validated: Validated) -> None:
    twice = recalibrated(replace(validated, bundle=recalibrated(validated, "intercept")), "threshold")
    steps = twice.about.recalibrations or ()
    assert [step.refitted for step in steps] == [["intercept"], ["threshold"]]
    assert len(twice.about.all_marks) == 3


@pytest.mark.parametrize(("name", "compared"), [("threshold", True), ("intercept", False)])
def test_the_validation_of_a_recalibrated_model_says_so(
    name: str, compared: bool, validated: Validated, other: Other, tmp_path: Path
) -> None:
    bundle = recalibrated(validated, name)
    steps = [replace(step, fitted_on=ANONYMOUS) for step in bundle.about.recalibrations or ()]
    forgetful = replace(bundle, about=replace(bundle.about, recalibrations=steps))
    cohort, cache = read_cohort(other.cohort_toml, images=False), FeatureCache.open(other.features)
    again = validate(forgetful, cohort, cache, ("intercept",))
    record = again.record
    assert f"The model was recalibrated on 20 patients of cohort other: {name}." in record.notes
    said = "The scores of the study were measured before the model was recalibrated"
    assert any(note.startswith(said) and ("not compared" in note) != compared for note in record.notes)
    assert record.outer is not None and bool(record.differences) == compared
    write_page(tmp_path / "validation.html", again, "intercept")
    text = text_of((tmp_path / "validation.html").read_text())
    assert f"Recalibrated on 20 patients of cohort other: {name}" in text
    assert "On held-out patients of its study before it was recalibrated:" in text
    assert ("a difference of" in text) == compared


def test_other_folders_are_not_replaced(validated: Validated, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        save_recalibrated(validated, NAME, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("refitted", [], "one or more different steps"),
        ("refitted", ["slope", "slope"], "one or more different steps"),
        ("refitted", ["tea"], "tea"),
        ("patients", 3, "instead of 3"),
        ("prevalence", 2, "prevalence"),
        ("prevalence", 0.3, "exactly if refitted names prevalence"),
        ("refitted", ["prevalence"], "exactly if refitted names prevalence"),
    ],
)
def test_a_damaged_record_is_refused(
    key: str, value: object, words: str, validated: Validated, tmp_path: Path
) -> None:
    save_recalibrated(validated, NAME, tmp_path / "model")
    change_config(
        tmp_path / "model", lambda config: config["about"]["recalibrations"][0].update({key: value})
    )
    with pytest.raises(DataError, match=words):
        ModelBundle.load(tmp_path / "model")


def test_a_cost_of_its_keys_that_is_not_a_power_of_two_is_refused(
    validated: Validated, tmp_path: Path
) -> None:
    save_recalibrated(validated, NAME, tmp_path / "model")
    change_config(
        tmp_path / "model",
        lambda config: config["about"]["recalibrations"][0]["fitted_on"]["scrypt"].update({"n": 1000}),
    )
    words = r"recalibrations\[0\]\.fitted_on\.scrypt\.n must be a power of two, not 1000"
    with pytest.raises(DataError, match=words):
        ModelBundle.load(tmp_path / "model")
