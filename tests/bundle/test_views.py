"""Bundles of several views: predictions from images and from caches, checks, the card and ONNX."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from support.commands import Command
from support.planted import make_cache
from support.studies import Viewed

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.checkpoints import checkpoints_of
from mil_toolkit.bundle.onnx import export_onnx
from mil_toolkit.bundle.predict import predict
from mil_toolkit.bundle.records import BundleFeatures
from mil_toolkit.config.head import VIEW_FUSION_NAMES
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest_json
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.opening import read_image_file
from mil_toolkit.features.pixels import prepare
from mil_toolkit.study.folder import Study
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit


@pytest.fixture(scope="module", name="bundle")
def _bundle(viewed: Viewed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that mil-fit makes of the study of two views."""
    from mil_toolkit.cli.fit import main

    output = tmp_path_factory.mktemp("bundle") / "model"
    words = [viewed.tiny.cohort_toml, "--study", viewed.study, "--output", output]
    assert main([str(word) for word in words]) == 0
    return output


def predicted(
    command: Command, bundle: Path, viewed: Viewed, output: Path, *options: object
) -> dict[str, bytes]:
    tables = ("--output", output / "p.csv", "--attention", output / "a.csv")
    done = command("predict", bundle, viewed.tiny.cohort_toml, *tables, *options)
    assert done.code == 0, done.err
    return {name: (output / name).read_bytes() for name in ("p.csv", "a.csv")}


def test_images_and_caches_give_the_same_predictions(
    bundle: Path, viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    images = predicted(command, bundle, viewed, tmp_path, "--cache", tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache" / "synthetic").iterdir()} == set(viewed.names)
    for folders in (viewed.folders, viewed.folders[::-1]):
        assert predicted(command, bundle, viewed, tmp_path, "--features", *folders) == images
    attention = pd.read_csv(tmp_path / "a.csv").groupby("patient_id")["attention"].sum()
    np.testing.assert_allclose(attention, 1, rtol=1e-5)


def test_a_loaded_bundle_predicts_what_was_fitted(bundle: Path, viewed: Viewed) -> None:
    study, cohort = Study.open(viewed.study), viewed.tiny.cohort.labelled()
    patients, best = Patients.of(cohort, viewed.caches), study.final.read_best()
    loaded = ModelBundle.load(bundle)
    assert [view.name for view in loaded.about.views] == list(viewed.names)
    assert loaded.head.model.view_widths == (64, 64)
    again = refit(patients, best.config, best.epoch, 2, (study.config.seed, 0))
    assert again.projection is not None and loaded.head.projection is not None
    torch.testing.assert_close(loaded.head.projection.components, again.projection.components)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ([0], "Name 2 folders with --features, not 1"),
        ([0, 1, 2], "Name 2 folders with --features, not 3"),
        (["none"], "Name 2 folders with --features, not 0"),
        ([0, 2], "holds other features than the model was trained with"),
    ],
)
def test_other_features_than_the_views_are_refused(
    folders: list[object], words: str, bundle: Path, viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    other = Path(shutil.copytree(viewed.crop, tmp_path / "other"))
    spec = json.loads((other / "spec.json").read_text())
    (other / "spec.json").write_text(json.dumps({**spec, "crop": 20}))
    for shard in other.glob("*.h5"):
        shard.unlink()
    known = {0: viewed.tiny.features, 1: viewed.crop, 2: other}
    named = [known.get(folder, folder) for folder in folders]  # type: ignore[call-overload]
    done = command("predict", bundle, viewed.tiny.cohort_toml, "--features", *named)
    assert done.code == 3 and words in done.err


def edited(bundle: Path, folder: Path, change: Callable[[dict[str, object]], object]) -> Path:
    copy = Path(shutil.copytree(bundle, folder / "edited"))
    config = json.loads((copy / "config.json").read_text())
    change(config)
    del config["digest"]
    (copy / "config.json").write_text(json.dumps({**config, "digest": digest_json(config)}))
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["head"].update(view_widths=[1, 2]), "head.view_widths do not fit"),
        (lambda c: c["head"].update(view_widths=[48]), "head.view_widths do not fit"),
        (lambda c: c["head"].pop("view_widths"), "head.view_widths do not fit"),
        (lambda c: c["about"].update(features=c["about"]["features"][:1]), "head.view_widths do not fit"),
        (lambda c: c["about"]["features"].reverse(), "does not name the views of about.features"),
        (lambda c: c["about"]["features"][1].update(c["about"]["features"][0]), "must have different names"),
        (lambda c: c["about"]["features"][1]["spec"].update(width=9), "expected float32"),
        (
            lambda c: c["about"]["features"][1].update(name="a/b"),
            "about.features[1].name 'a/b' must be the name",
        ),
        (lambda c: c["head"]["config"].update(features="x+y"), "does not name the views"),
        (lambda c: c["head"]["config"].update(view_fusion="late"), "missing"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, object]], object], words: str, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        ModelBundle.load(edited(bundle, tmp_path, change))
    assert words in str(error.value)


def test_the_card_names_every_view(bundle: Path, viewed: Viewed) -> None:
    card = (bundle / "README.md").read_text()
    assert "It uses 2 views of each image together, in this order: " in card
    assert card.count("| preprocess |") == 2 and "cell-crop" in card


def test_fine_tuning_several_views_is_refused_with_advice(
    viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    words = (viewed.tiny.cohort_toml, "--study", viewed.study, "--output", tmp_path / "m", "--finetune")
    done = command("fit", *words)
    assert done.code == 2 and not (tmp_path / "m").exists()
    assert "2 feature folders" in done.err and "Run mil-tune with --features and one of them" in done.err


def test_the_bundle_of_a_chosen_folder_holds_only_that_one(
    viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    quick = ("--outer-folds", 0, "--trials", 1, "--study", tmp_path / "s")
    folders = ("--features", viewed.crop, viewed.tiny.features)
    assert command("tune", *viewed.options(*folders), *quick).code == 0
    done = command("fit", viewed.tiny.cohort_toml, "--study", tmp_path / "s")
    assert done.code == 0, done.err
    bundle = tmp_path / "s" / "model"
    assert json.loads((bundle / "config.json").read_text())["about"]["features"]["name"] == viewed.crop.name
    images = predicted(command, bundle, viewed, tmp_path, "--cache", tmp_path / "cache")
    assert predicted(command, bundle, viewed, tmp_path, "--features", viewed.crop) == images


def test_checkpoints_belong_to_views(bundle: Path) -> None:
    views = ModelBundle.load(bundle).about.views
    one, two = Path("one"), Path("two")
    from_file = replace(views[1], spec={**views[1].spec, "weights": "file"})
    assert checkpoints_of(None, views) == checkpoints_of([], views) == [None, None]
    assert checkpoints_of(one, views) == [one, one]
    assert checkpoints_of([one], [views[0], from_file]) == [None, one]
    assert checkpoints_of([one, two], views) == [one, two]
    with pytest.raises(UsageError, match="one for each of the 2 views in this order"):
        checkpoints_of([one, two, one], views)


def test_several_checkpoints_may_be_those_of_the_views_from_files(bundle: Path) -> None:
    view = ModelBundle.load(bundle).about.views[0]
    random, first, second = (
        replace(view, name=name, spec={**view.spec, "weights": weights})
        for name, weights in (("R", "random"), ("F", "file"), ("G", "file"))
    )
    one, two = Path("one"), Path("two")
    assert checkpoints_of([one, two], [first, random, second]) == [one, None, two]
    assert checkpoints_of([one, two, one], [first, random, second]) == [one, two, one]
    with pytest.raises(UsageError, match=r"order: F, R, G, or only for F, G; got 4"):
        checkpoints_of([one] * 4, [first, random, second])


Imported = Callable[[str, str], list[FeatureCache]]
RECORDED = "float32 with none"


@pytest.fixture(name="imported")
def _imported(viewed: Viewed, tmp_path: Path) -> Imported:
    """Return a function that makes two caches of one spec in folders of these names: imported features."""

    def caches(*names: str) -> list[FeatureCache]:
        random, cohort = np.random.default_rng(0), viewed.tiny.cohort
        folders = [tmp_path / "-".join(names) / name for name in names]
        for folder in folders:
            bags = [random.normal(size=(2, 512)) for _ in cohort.patient_ids]
            made = make_cache(folder.with_suffix(".made"), cohort, bags).folder
            made.rename(folder)
        return [FeatureCache.open(folder) for folder in folders]

    return caches


def of_imported(bundle: Path, caches: list[FeatureCache], *recorded: str) -> ModelBundle:
    """Return the bundle as if it had been fitted on these caches, in this order."""
    loaded = ModelBundle.load(bundle)
    features = [
        BundleFeatures(cache.folder.name, cache.spec, [words])
        for cache, words in zip(caches, recorded or (RECORDED, RECORDED), strict=True)
    ]
    model = loaded.head.model
    model.config = replace(model.config, features="+".join(view.name for view in features))
    return replace(loaded, about=replace(loaded.about, features=features))


def test_views_of_equal_specs_are_told_apart_by_their_folders(
    bundle: Path, viewed: Viewed, imported: Imported
) -> None:
    """Where no folder has the name of a view, the order in which they are given counts."""
    caches, others, half = imported("A", "B"), imported("X", "Y"), imported("X", "A")
    loaded, cohort = of_imported(bundle, caches), viewed.tiny.cohort
    expected = predict(loaded, cohort, caches).table
    assert predict(loaded, cohort, caches[::-1]).table.equals(expected)
    assert predict(loaded, cohort, others).table.equals(expected)
    swapped = predict(loaded, cohort, others[::-1]).table
    assert not swapped.equals(expected)
    for order in (half, half[::-1]):
        assert predict(loaded, cohort, order).table.equals(swapped)


def test_other_precisions_are_compared_view_by_view(
    bundle: Path, viewed: Viewed, imported: Imported, caplog: pytest.LogCaptureFixture
) -> None:
    caches = imported("A", "B")
    with caplog.at_level("WARNING", "mil_toolkit"):
        predict(of_imported(bundle, caches), viewed.tiny.cohort, caches)
        assert "were computed in" not in caplog.text
        predict(of_imported(bundle, caches, RECORDED, "bfloat16 with none"), viewed.tiny.cohort, caches[::-1])
    (line,) = [record.getMessage() for record in caplog.records if "were computed in" in record.getMessage()]
    assert line.startswith(f"The embeddings of B were computed in {RECORDED}, those that")


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("fusion", VIEW_FUSION_NAMES)
def test_onnx_takes_an_input_for_each_view(fusion: str, bundle: Path, viewed: Viewed, tmp_path: Path) -> None:
    loaded, cohort = ModelBundle.load(bundle), viewed.tiny.cohort
    if fusion == "late":
        best = Study.open(viewed.study).final.read_best()
        config = replace(best.config, view_fusion="late", zero_start=False)
        patients = Patients.of(cohort.labelled(), viewed.caches)
        loaded = replace(loaded, head=refit(patients, config, 2, 2, (1,)))
    export_onnx(loaded, tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["embeddings_1", "embeddings_2", "metadata"]
    specs = json.loads(session.get_modelmeta().custom_metadata_map["features"])
    assert [spec["crop"] for spec in specs] == [0, 24]
    expected = predict(loaded, cohort, viewed.caches).table
    patients = Patients.of(cohort, viewed.caches)
    rows = loaded.head.encoder.encode(patients.metadata).to_numpy(np.float32)
    for place in (0, 5):
        bags = [
            view.select([patients.ids[place]]).instances.float().numpy() for view in patients.views.values()
        ]
        inputs = {"embeddings_1": bags[0], "embeddings_2": bags[1], "metadata": rows[place]}
        probability = session.run(["probability"], inputs)[0][0]
        assert probability == pytest.approx(expected["probability"][place], abs=1e-5)


@pytest.mark.usefixtures("operators")
def test_onnx_with_backbones_takes_the_pixels_of_each_view(
    bundle: Path, viewed: Viewed, tmp_path: Path
) -> None:
    loaded, cohort = ModelBundle.load(bundle), viewed.tiny.cohort
    export_onnx(loaded, tmp_path / "whole.onnx", images=True)
    session = onnxruntime.InferenceSession(tmp_path / "whole.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["pixels_1", "pixels_2", "metadata"]
    patient = cohort.patient_ids[0]
    images = [decode(read_image_file(path)[0]) for path in cohort.images[patient]]
    shown = [
        np.stack([prepare(image, spec["image_size"], spec["crop"], spec["preprocess"]) for image in images])
        for spec in (view.spec for view in loaded.about.views)
    ]
    row = loaded.head.encoder.encode(cohort.metadata).to_numpy(np.float32)[0]
    inputs = {"pixels_1": shown[0], "pixels_2": shown[1], "metadata": row}
    expected = predict(loaded, cohort, viewed.caches).table["probability"][0]
    assert session.run(["probability"], inputs)[0][0] == pytest.approx(expected, abs=1e-2)
