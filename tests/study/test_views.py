"""Studies with several feature folders: views that are used together, and folders to choose among."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.commands import Command
from support.studies import Tiny, Viewed

from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.study.ablation import _divide
from mil_toolkit.study.folder import Study
from mil_toolkit.study.methods import methods_paragraph
from mil_toolkit.study.rivals import mean_embeddings
from mil_toolkit.study.sharing import shared_patients
from mil_toolkit.study.sources import open_study_features
from mil_toolkit.study.variants import variants_of
from mil_toolkit.study.views import audited_view, with_features
from mil_toolkit.training.patients import Patients, caches_of

QUICK = ("--outer-folds", 0, "--trials", 1)


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a study that do not depend on when it ran."""
    names = ("best.json", "predictions.csv", "out_of_fold.csv", "attention.csv", "scores.json", "rivals.csv")
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.name in names
    }


def test_the_description_names_every_view(viewed: Viewed) -> None:
    description = Study.open(viewed.study).description
    assert tuple(each.name for each in description.all_features) == viewed.names
    assert [each.spec["crop"] for each in description.all_features] == [0, 24]
    assert description.study.settings["features"] == ("+".join(viewed.names),)
    assert description.space["view_fusion"] == ["early"]
    stored = json.loads((viewed.study / "sources.json").read_text())["features"]
    assert stored == list(map(str, viewed.folders))
    assert Study.open(viewed.study).final.read_best().config.view_fusion == "early"


def test_a_study_of_one_folder_is_described_as_before(tiny: Tiny) -> None:
    stored = json.loads((tiny.study / "config.json").read_text())
    assert stored["features"]["name"] == tiny.features.name
    assert not {"features", "view_fusion"} & stored["space"].keys()
    assert "features" not in stored["study"]["settings"]


def test_an_interrupted_study_resumes_with_the_same_result(
    viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    study = Path(shutil.copytree(viewed.study, tmp_path / "study"))
    expected = content(study)
    for name in (
        "DONE",
        "scores.json",
        "best.json",
        "out_of_fold.csv",
        "outer/repeat1-fold2/predictions.csv",
    ):
        (study / name).unlink()
    assert command("tune", *viewed.options(), "--study", study).code == 0
    assert content(study) == expected
    other = command("tune", *viewed.options("--features", *viewed.folders), "--study", study)
    assert other.code == 3 and "study.settings.features" in other.err


def test_a_search_chooses_the_features(viewed: Viewed, tmp_path: Path, command: Command) -> None:
    both = ("--features", *viewed.folders, "--views", *viewed.folders)
    done = command("tune", *viewed.options(*both), *QUICK, "--trials", 9, "--study", tmp_path / "s")
    assert done.code == 0, done.err
    trials = pd.read_csv(tmp_path / "s" / "trials.csv")
    assert set(trials["features"]) == {*viewed.names, "+".join(viewed.names)}
    assert trials["features"][0] == viewed.names[0]
    together = trials["features"].str.contains("+", regex=False)
    assert (trials["view_fusion"].notna() == together).all()
    chosen = Study.open(tmp_path / "s").final.read_best().parameters["features"].split("+")
    words = " and ".join(chosen) + (" together" if len(chosen) > 1 else "")
    assert f"Chosen: features {words}, --set " in done.out and "--set features" not in done.out


def test_an_ablation_takes_the_views_of_its_study_in_any_order(viewed: Viewed, tiny: Tiny) -> None:
    study, caches = Study.open(viewed.study), viewed.caches
    for own in (caches, caches[::-1]):
        divided, others = _divide(study, [*own, None])
        assert divided == caches and others == [None]
        study.check(tiny.cohort, divided)
    assert _divide(study, [caches[1], None, caches[0]]) == ([caches[1]], [caches[0]])


def test_the_trial_of_a_chosen_folder_is_that_of_a_study_with_this_folder(
    viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    """Both studies begin with the defaults, and the second folder is the first of the options."""
    values = []
    for features in ((viewed.crop, viewed.tiny.features), (viewed.crop,)):
        study = tmp_path / str(len(features))
        assert command("tune", *viewed.options("--features", *features), *QUICK, "--study", study).code == 0
        values.append((pd.read_csv(study / "trials.csv")["value"][0], (study / "attention.csv").read_bytes()))
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--views", "A"), "--views needs two folders or more"),
        (("--views", "A", "A"), "name each folder once"),
        (("--features", "A", "A"), "name each folder once"),
        (("--features", "none", "A"), "none cannot be combined with folders"),
        (("--features", "A", "B", "--set", "features=A"), "--features and --views"),
    ],
)
def test_folders_that_cannot_be_used_together_are_usage_errors(
    options: tuple[str, ...], words: str, viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    folders = {"A": viewed.tiny.features, "B": viewed.crop}
    features = [folders.get(word, word) for word in options]
    done = command("tune", *viewed.options(*features), "--study", tmp_path / "s")
    assert done.code == 2 and words in done.err and not (tmp_path / "s").exists()


def edited(viewed: Viewed, root: Path, patient: str, count: int | None) -> Path:
    """Copy the second view without a patient, or with only `count` of the patient's images."""
    cache = FeatureCache.open(viewed.crop)
    copy = FeatureCache.create(root, "synthetic", cache.spec)
    bags = []
    for stored in cache.winners(cache.patient_ids):
        images, embeddings = stored.read_images(), np.array(stored.embeddings(0, stored.size))
        size = count if stored.patient_id == patient else len(images)
        if size is not None:
            bags.append(EmbeddedBag(stored.patient_id, images[:size], embeddings[:size]))
    copy.publish(bags, cache.shards[0].recorded)
    return copy.folder


@pytest.mark.parametrize(
    ("count", "words"), [(None, "has no embeddings in"), (1, "hold other images (1 and")]
)
def test_other_images_in_a_view_are_named_with_patient_and_folder(
    count: int | None, words: str, viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    patient = viewed.tiny.cohort.labelled().patient_ids[3]
    folder = edited(viewed, tmp_path / "cache", patient, count)
    views = viewed.options("--views", viewed.tiny.features, folder)
    done = command("tune", *views, "--study", tmp_path / "s")
    assert done.code == 3 and not (tmp_path / "s").exists()
    assert f"patient {patient}" in done.err and str(folder) in done.err and words in done.err


def test_options_that_name_no_folder_of_the_study_are_refused(viewed: Viewed) -> None:
    with pytest.raises(UsageError, match="features=other must name feature folders of the study"):
        with_features(StudyConfig(settings={"features": ("other",)}), viewed.caches)
    with pytest.raises(UsageError, match="must have different names"):
        with_features(StudyConfig(), [viewed.caches[0]] * 2)
    together = with_features(StudyConfig(), viewed.caches)
    assert together.settings == {"features": ("+".join(viewed.names),)}
    assert with_features(StudyConfig(), viewed.caches[0]) == StudyConfig()


def test_the_folders_of_a_study_are_found_in_its_order(viewed: Viewed) -> None:
    for named in (
        None,
        [str(folder) for folder in viewed.folders],
        [str(folder) for folder in viewed.folders[::-1]],
    ):
        caches = caches_of(open_study_features(named, viewed.study, "synthetic"))
        assert tuple(cache.folder for cache in caches) == viewed.folders


def test_whole_images_are_audited(viewed: Viewed) -> None:
    for caches in (viewed.caches, viewed.caches[::-1]):
        audited = audited_view(caches)
        assert audited is not None and audited.folder == viewed.tiny.features
    assert audited_view(None) is None


def test_central_squares_are_not_taken_for_whole_images(viewed: Viewed) -> None:
    whole = next(cache for cache in viewed.caches if not cache.spec["crop"])
    central, squashed = copy.copy(whole), copy.copy(whole)
    central.spec = {**whole.spec, "sampling": {"interpolation": "bicubic", "mode": "centre", "crop_pct": 1.0}}
    squashed.spec = {
        **whole.spec,
        "sampling": {"interpolation": "bicubic", "mode": "squash", "crop_pct": 1.0},
    }
    assert audited_view([central, whole]) is whole and audited_view([central, squashed]) is squashed
    assert audited_view([central]) is central


def test_the_mean_embeddings_of_all_views_are_a_baseline(viewed: Viewed) -> None:
    patients = Patients.of(viewed.tiny.cohort.labelled(), viewed.caches)
    means = mean_embeddings(patients, np.arange(3))
    assert means is not None
    parts = [
        mean_embeddings(Patients.of(viewed.tiny.cohort.labelled(), each), np.arange(3))
        for each in viewed.caches
    ]
    np.testing.assert_array_equal(means, np.concatenate([part for part in parts if part is not None], axis=1))


def test_variants_drop_and_fuse_views() -> None:
    def changes(*options: str) -> dict[str, object]:
        own = sorted({name for option in options for name in option.split("+")})
        variants = variants_of({"features": options}, own, ["other"])
        return {
            each.name: each.change for each in variants if "without" in each.name or "features" in each.change
        }

    three = changes("a+b+c")
    assert three["without-b"] == {"features": "a+c"} and three["other"] == {"features": ""}
    assert changes("a", "b")["features-a"] == {"features": "a"}
    both = changes("a", "b", "a+b")
    assert both["without-a"] == {"features": "b"} and "features-b" not in both


def test_an_ablation_scores_each_view_that_is_dropped(
    viewed: Viewed, tmp_path: Path, command: Command
) -> None:
    study = Path(shutil.copytree(viewed.study, tmp_path / "study"))
    done = command("ablate", viewed.tiny.cohort_toml, "--study", study, "--workers", 1, "--json")
    assert done.code == 0, done.err
    first, second = viewed.names
    variants = done.json["variants"]
    assert {f"without-{first}", f"without-{second}", "views-late", "views-early", "equal-bags"} <= set(
        variants
    )
    assert done.json["features"] == list(viewed.names)
    full, stored = (
        pd.read_csv(path)["probability"]
        for path in (study / "ablation/predictions/full.csv", study / "predictions.csv")
    )
    np.testing.assert_array_equal(full, stored)
    assert variants["views-early"]["difference"]["discordant"] == 0


def test_the_methods_say_how_views_were_used(viewed: Viewed) -> None:
    description = Study.open(viewed.study).description
    text = methods_paragraph(description.study, description.features, Binary())
    assert "Each image was embedded in 2 views: (1) by resnet18" in text and "; (2) by resnet18" in text
    assert "standardised and reduced on its own" in text and "Each search chose" not in text
    chosen = with_features(StudyConfig(settings={"features": viewed.names}), viewed.caches)
    assert "Each search chose one of them" in methods_paragraph(chosen, description.features, Binary())


def test_workers_read_the_views_from_the_shards(viewed: Viewed) -> None:
    patients = Patients.of(viewed.tiny.cohort.labelled(), viewed.caches)
    with shared_patients(patients) as (shared, descriptors):
        content = pickle.dumps(shared)
        copy = pickle.loads(content).map()
    assert descriptors == [] and len(content) < 20_000  # without embeddings
    for name, bags in patients.views.items():
        assert torch.equal(copy.views[name].instances, bags.instances)
