"""A bundle knows the scale of its training images, and refuses those of another scale unless told."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.predict import predict
from mil_toolkit.bundle.records import Scales
from mil_toolkit.bundle.scale import scale_problems, training_scales
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.spec import scale_of
from mil_toolkit.study.tune import tune


def scaled(cohort: Cohort, *scales: float) -> Cohort:
    """Give the patients these micrometres per pixel in turn."""
    ids = enumerate(cohort.patient_ids)
    return replace(cohort, scales={patient: scales[n % len(scales)] for n, patient in ids})


@pytest.fixture(scope="module", name="folder")
def _folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a cohort of 0.25 micrometres per pixel."""
    folder = tmp_path_factory.mktemp("scale") / "model"
    fit(scaled(tiny.cohort, 0.25), tiny.cache, tiny.study, folder, "cpu")
    return folder


@pytest.fixture(name="bundle")
def _bundle(folder: Path) -> ModelBundle:
    return ModelBundle.load(folder)


def test_a_bundle_records_the_scale_of_its_training_images(tiny: Tiny, bundle: ModelBundle) -> None:
    assert bundle.about.microns_per_pixel == Scales(0.25, 0.25)
    features = bundle.about.features
    assert features is not None
    labelled = tiny.cohort.labelled()
    assert training_scales(scaled(labelled, 0.25, 0.5), [features]) == Scales(0.25, 0.5)
    assert training_scales(labelled, [features]) is None
    assert training_scales(scaled(labelled, 0.25), []) is None
    some = scaled(labelled, 0.25)
    some = replace(some, scales={patient: 0.25 for patient in labelled.patient_ids[1:]})
    assert training_scales(some, [features]) is None
    windows = replace(features, spec={**features.spec, "crop": 80, "crop_um": 20.0})
    assert training_scales(scaled(labelled, 0.25), [windows]) is None
    imported = replace(features, spec={**features.spec, "weight_digest": None})
    assert training_scales(scaled(labelled, 0.25), [imported]) is None


@pytest.mark.parametrize("scale", [0.25, 0.25 * 1.0199, 0.25 / 1.0199])
def test_images_of_the_same_scale_are_predicted(
    tiny: Tiny, bundle: ModelBundle, scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    predict(bundle, scaled(tiny.cohort, scale), tiny.cache)
    assert "micrometres" not in caplog.text


@pytest.mark.parametrize("scale", [0.26, 0.24, 0.5, 0.125])
def test_images_of_another_scale_are_refused_unless_told(
    tiny: Tiny, bundle: ModelBundle, scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = scaled(tiny.cohort, scale)
    with pytest.raises(DataError) as caught:
        predict(bundle, cohort, tiny.cache)
    assert "27 of 27 patients have images of other micrometres per pixel" in caught.value.problems[0]
    assert (
        "0.25 micrometres per pixel" in caught.value.problems[0] and "--any-scale" in caught.value.problems[1]
    )
    caplog.clear()
    table = predict(bundle, cohort, tiny.cache, any_scale=True).table
    assert "27 of 27 patients have images of other" in caplog.text and "--any-scale" not in caplog.text
    expected = predict(bundle, tiny.cohort, tiny.cache).table
    judged = ["in_domain", "reasons"]
    assert table.drop(columns=judged).equals(expected.drop(columns=judged))
    reason = f"its images have {scale:g} micrometres per pixel; training had 0.25 micrometres per pixel"
    assert not table["in_domain"].any() and all(text.endswith(reason) for text in table["reasons"])


def test_single_patients_of_another_scale_are_named(tiny: Tiny, bundle: ModelBundle) -> None:
    cohort = scaled(tiny.cohort, 0.25)
    patient = cohort.patient_ids[3]
    first, *_ = scale_problems(bundle.about, replace(cohort, scales={**cohort.scales, patient: 0.5}))
    assert first == (
        f"patient {patient} has images of 0.5 micrometres per pixel; the model was fitted on images of 0.25"
        " micrometres per pixel."
    )


def test_scales_within_the_range_of_the_training_images_are_predicted(
    tiny: Tiny, bundle: ModelBundle
) -> None:
    about = replace(bundle.about, microns_per_pixel=Scales(0.25, 0.5))
    assert scale_problems(about, scaled(tiny.cohort, 0.25, 0.4, 0.5)) == []
    assert "0.25 to 0.5 micrometres" in scale_problems(about, scaled(tiny.cohort, 0.6))[0]


def test_an_unknown_scale_is_a_warning_only_if_the_model_has_one(
    tiny: Tiny, bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    predict(bundle, tiny.cohort, tiny.cache)
    assert "does not state the microns_per_pixel of its images" in caplog.text
    caplog.clear()
    predict(ModelBundle.load(tiny.bundle), scaled(tiny.cohort, 0.7), tiny.cache)
    assert "micro" not in caplog.text


@pytest.mark.parametrize("scales", [(0.5, 0.25), (0.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_scales_that_cannot_be_are_refused(scales: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="are not positive numbers in this order"):
        Scales(*scales)


def test_the_command_refuses_another_scale_before_any_image_is_embedded(
    tiny: Tiny, folder: Path, tmp_path: Path, command: Command
) -> None:
    copy = shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    toml = copy / "cohort.toml"
    toml.write_text(toml.read_text().replace('id = "ID"', 'id = "ID"\nmicrons_per_pixel = 0.5'))
    options = ("--cache", tmp_path / "cache", "--output", tmp_path / "p.csv", "--device", "cpu")
    done = command("predict", folder, toml, *options)
    assert done.code == 3 and "fitted on images of 0.25 micrometres" in done.err
    assert not (tmp_path / "cache").exists() and not (tmp_path / "p.csv").exists()
    assert command("predict", folder, toml, *options, "--any-scale").code == 0


def test_a_resampled_model_takes_images_of_any_known_scale(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    """Images enlarged twofold, of half the micrometres per pixel, give nearly the same predictions."""
    copy = shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    toml = copy / "cohort.toml"
    text = toml.read_text()
    toml.write_text(text.replace('id = "ID"', 'id = "ID"\nmicrons_per_pixel = 0.25'))
    cohort, cache = read_cohort(toml), tmp_path / "cache"
    config = ExtractionConfig("resnet18", "random", image_size=32, scale=0.5)
    features = FeatureCache.open(extract(cohort, config, cache, device="cpu").folder)
    settings: dict[str, tuple[int | str, ...]] = {"epochs": (2,), "hidden": (32,), "pooling": ("mean",)}
    tune(cohort, features, tmp_path / "study", StudyConfig(1, 2, 1, 0, 1, settings=settings), "cpu")
    bundle = fit(cohort, features, tmp_path / "study", tmp_path / "model", "cpu")
    assert bundle.about.microns_per_pixel is None
    expected = predict(bundle, cohort, features).table["probability"]
    for path in (copy / "images").rglob("*.png"):
        image = Image.open(path)
        image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)
    toml.write_text(text.replace('id = "ID"', 'id = "ID"\nmicrons_per_pixel = 0.125'))
    options = ("--cache", tmp_path / "new", "--output", tmp_path / "p.csv", "--device", "cpu")
    assert command("predict", tmp_path / "model", toml, *options).code == 0
    table = np.genfromtxt(tmp_path / "p.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    np.testing.assert_allclose(table["probability"], expected, atol=0.02)
    (folder,) = (tmp_path / "new").glob("*/*")
    assert scale_of(FeatureCache.open(folder).spec) == 0.5
    toml.write_text(text)
    unknown = command("predict", tmp_path / "model", toml, *options)
    assert unknown.code == 2 and "does not state microns_per_pixel" in unknown.err
