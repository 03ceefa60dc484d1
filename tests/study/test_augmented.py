"""A study of images in several orientations, from the search to predictions of new images."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.onnx import export_onnx
from mil_toolkit.bundle.predict import extract_as_trained, predict
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.search.space import Space
from mil_toolkit.study import variants
from mil_toolkit.study.ablation import ablate
from mil_toolkit.study.folder import Study
from mil_toolkit.study.methods import methods_paragraph
from mil_toolkit.study.sharing import shared_patients
from mil_toolkit.study.tune import tune
from mil_toolkit.study.variants import PLAIN
from mil_toolkit.training.finetune import Finetuner, FinetunerOptions
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

TURNED = ExtractionConfig("resnet18", "random", image_size=32, augment=2)
CONFIG = StudyConfig(trials=1, folds=2, outer_folds=2, members=2, settings={"epochs": (3,), "hidden": (32,)})


@dataclass(frozen=True)
class Turned:
    """The tiny cohort with its images in three orientations, and its study."""

    features: Path
    study: Path

    @property
    def cache(self) -> FeatureCache:
        return FeatureCache.open(self.features)


@pytest.fixture(scope="module", name="turned")
def _turned(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Turned:
    folder = tmp_path_factory.mktemp("turned")
    features = extract(tiny.cohort, TURNED, folder / "cache", device="cpu").folder
    cache = FeatureCache.open(features)
    tune(tiny.cohort, cache, folder / "study", CONFIG, "cpu")
    fit(tiny.cohort, cache, folder / "study", folder / "study" / "model", "cpu")
    return Turned(features, folder / "study")


def plain_study(tiny: Tiny, cache: FeatureCache, folder: Path, **settings: tuple[bool, ...]) -> pd.DataFrame:
    config = replace(CONFIG, settings={**CONFIG.settings, **settings})
    tune(tiny.cohort, cache, folder, config, "cpu")
    return pd.read_csv(folder / "predictions.csv")


def test_a_study_that_does_not_use_orientations_is_that_of_features_without(
    tiny: Tiny, turned: Turned, tmp_path: Path
) -> None:
    without = plain_study(tiny, tiny.cache, tmp_path / "without")
    unused = plain_study(tiny, turned.cache, tmp_path / "unused", augment=(False,))
    assert unused.equals(without)
    assert not pd.read_csv(turned.study / "predictions.csv").equals(without)


def test_the_description_names_the_setting_only_where_it_has_an_effect(tiny: Tiny, turned: Turned) -> None:
    """So that studies of older versions are still those of their features."""
    assert Study.open(turned.study).description.space["augment"] == [True]
    assert "augment" not in Study.open(tiny.study).description.space
    assert "augment" not in Space({}).described()
    searched = Space({"augment": (True, False)}, orientations=True)
    assert searched.defaults()["augment"] is True and searched.contains("augment", False)
    assert not searched.config_of({**searched.defaults(), "augment": False}).augment
    ignored = Space({"augment": (False,)})
    assert ignored.config_of(ignored.defaults()).augment  # the default, without effect


def test_the_ablation_leaves_the_orientations_out(
    tiny: Tiny, turned: Turned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "VARIANTS", {"full": {}, "metadata-only": {"image_branch": False}})
    study = Path(shutil.copytree(turned.study, tmp_path / "study"))
    scores = ablate(tiny.cohort, [turned.cache], study, device="cpu").scores
    assert list(scores.variants) == ["full", "metadata-only", PLAIN, "equal-bags"]
    predictions = {path.stem: pd.read_csv(path) for path in (study / "ablation/predictions").iterdir()}
    own = pd.read_csv(study / "predictions.csv")
    assert predictions["full"].equals(own[predictions["full"].columns])
    unused = plain_study(tiny, tiny.cache, tmp_path / "without")
    assert predictions[PLAIN].equals(unused[predictions[PLAIN].columns])
    assert PLAIN not in [variant.name for variant in variants.variants_of({}, [tiny.cache.folder.name], [])]
    assert PLAIN not in [variant.name for variant in variants.variants_of({}, [None], [])]


def test_images_are_predicted_as_their_cache(tiny: Tiny, turned: Turned, tmp_path: Path) -> None:
    bundle = ModelBundle.load(turned.study / "model")
    new = extract_as_trained(bundle, tiny.cohort, tmp_path / "cache", "cpu")
    assert new is not None and new.spec == turned.cache.spec and new.digest() == turned.cache.digest()
    from_images, from_cache = (predict(bundle, tiny.cohort, cache) for cache in (new, turned.cache))
    assert from_images.table.equals(from_cache.table)
    patients = Patients.of(tiny.cohort, turned.cache)
    assert patients.bags is not None and patients.bags.orientations is not None
    each = patients.bags.orientations.read(torch.arange(int(patients.bags.offsets[-1]))).float()
    means = replace(patients, bags=patients.bags.with_embeddings(each.mean(1)))
    assert np.array_equal(bundle.probabilities(means)[0], from_cache.table["probability"])


def test_other_orientations_are_other_features(tiny: Tiny, turned: Turned) -> None:
    for bundle, cache in ((tiny.bundle, turned.cache), (turned.study / "model", tiny.cache)):
        with pytest.raises(
            DataError, match="holds other features than the model was trained with:\naugment: "
        ):
            predict(ModelBundle.load(bundle), tiny.cohort, cache)


def test_worker_processes_get_the_orientations(tiny: Tiny, turned: Turned) -> None:
    import pickle

    patients = Patients.of(tiny.cohort.labelled(), turned.cache)
    with shared_patients(patients) as (shared, descriptors):
        copy = pickle.loads(pickle.dumps(shared)).map(*descriptors)
        rows = torch.arange(5)
        one, other = (item.bags.orientations.read(rows) for item in (patients, copy))  # type: ignore[union-attr]
        assert torch.equal(one, other) and torch.equal(copy.bags.embeddings(rows), one[:, 0])


def test_report_and_card_say_it(turned: Turned, tiny: Tiny, tmp_path: Path, command: Command) -> None:
    page = tmp_path / "report.html"
    assert command("report", turned.study, "--output", page).code == 0
    sentence = "Each image was also embedded in 2 other orientations"
    assert sentence in page.read_text()
    assert (
        "Each image is also embedded in 2 other orientations"
        in (turned.study / "model/README.md").read_text()
    )
    assert "other orientations" not in (tiny.bundle / "README.md").read_text()
    features = Study.open(turned.study).description.features
    for values, words in (((False,), "These were not used."), ((True, False), "The search chose whether")):
        config = replace(CONFIG, settings={"augment": values})
        assert words in methods_paragraph(config, features, Binary())


def test_a_network_alone_cannot_predict_from_pixels(turned: Turned, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    bundle = ModelBundle.load(turned.study / "model")
    with pytest.raises(UsageError, match=r"from the mean of the embeddings of each image in several orienta"):
        export_onnx(bundle, tmp_path / "whole.onnx", images=True)


def test_fine_tuning_predicts_from_the_mean_over_the_orientations(
    tiny: Tiny, turned: Turned, tmp_path: Path
) -> None:
    """Before the first step its predictions are those of the frozen model."""
    from mil_toolkit.backbones.backbones import build_backbone

    cohort = tiny.cohort.labelled().select(tiny.cohort.labelled().patient_ids[:8])
    patients = Patients.of(cohort, turned.cache)
    best = Study.open(turned.study).final.read_best().config
    for augment in (True, False):
        head = refit(patients, replace(best, augment=augment), epoch=2, member_count=2, seed=(1,))
        options = FinetunerOptions(FinetuneConfig(chunk=5), (5,), torch.device("cpu"), tmp_path)
        files, network = ImageFiles(cohort, turned.cache), build_backbone("resnet18", "random")
        logits = Finetuner(network, head, patients, files, options).predict(patients)
        np.testing.assert_allclose(logits, head.apply(patients).logits, rtol=0.02, atol=0.02)
