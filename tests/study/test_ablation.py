"""`ablate`: every variant on the outer folds of the study, one thing changed, scored on held-out patients."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.cli.ablate import _summary
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.head import POOLING_NAMES, HeadConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import Diverged
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.records import read_record, to_json
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.study import ablation, variants
from mil_toolkit.study import tune as tuning
from mil_toolkit.study.ablation import Ablation, ablate
from mil_toolkit.study.ablation_scores import score_table, table_metrics
from mil_toolkit.study.folder import SearchFolder
from mil_toolkit.study.plan import plan_searches
from mil_toolkit.study.records import AblationScores, Best
from mil_toolkit.study.tune import tune
from mil_toolkit.training.procedure import run_trial

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]
ONE = StudyConfig(  # a single trial, of the defaults: the same configuration whatever the data
    trials=1,
    folds=2,
    outer_folds=2,
    members=2,
    settings={"epochs": (2,), "components": (0,), "hidden": (32,), "top_k": (2,)},
)
FOLDS = ("repeat1-fold1", "repeat1-fold2")
FEW = ("full", "images-only", "metadata-only")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def predictions(folder: Path, variant: str) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions" / f"{variant}.csv").set_index("patient_id")


def best_in(study: Path, fold: str) -> Best:
    return SearchFolder(study / "outer" / fold).read_best()


def same(one: Path, other: Path, variant: str) -> bool:
    return predictions(one, variant).equals(predictions(other, variant))


@pytest.fixture(scope="module", name="other_features")
def _other_features(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other embeddings: of the same images at another size."""
    config = ExtractionConfig("resnet18", "random", image_size=40)
    return extract(tiny.cohort, config, tmp_path_factory.mktemp("other"), device="cpu").folder


@pytest.fixture(scope="module", name="one")
def _one(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study ONE of the tiny cohort, for tests to copy."""
    study = tmp_path_factory.mktemp("one") / "study"
    tune(tiny.cohort, tiny.cache, study, ONE, "cpu")
    return study


@pytest.fixture(scope="module", name="one_ablated")
def _one_ablated(tiny: Tiny, one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ablation of that study, with few variants; tests only read it."""
    study = Path(shutil.copytree(one, tmp_path_factory.mktemp("one") / "study"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "VARIANTS", {name: variants.VARIANTS[name] for name in FEW})
        return ablate(tiny.cohort, [tiny.cache], study, device="cpu").folder


@pytest.fixture(scope="module", name="other_ablated")
def _other_ablated(tiny: Tiny, other_features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same ablation on the other embeddings; tests only read it."""
    study, other = tmp_path_factory.mktemp("other") / "study", FeatureCache.open(other_features)
    tune(tiny.cohort, other, study, ONE, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "VARIANTS", {name: variants.VARIANTS[name] for name in FEW})
        return ablate(tiny.cohort, [other], study, device="cpu").folder


@pytest.fixture(name="few")
def _few(monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Keep only the full model and the variants without images or without metadata."""
    monkeypatch.setattr(variants, "VARIANTS", {name: variants.VARIANTS[name] for name in FEW})
    return FEW


# Scores.


def test_the_full_model_is_identical_to_the_study_s_own(ablated: Ablation) -> None:
    own = pd.read_csv(ablated.folder.parent / "predictions.csv")
    full = pd.read_csv(ablated.folder / "predictions" / "full.csv")
    assert full.equals(own[full.columns])
    assert len(full.columns) == 6


def test_every_variant_has_predictions_scores_and_a_row(ablated: Ablation) -> None:
    names = [*variants.VARIANTS, "equal-bags"]
    assert list(ablated.scores.variants) == names and ablated.scores.left_out == {}
    assert read_json(ablated.folder / "scores.json") == to_json(ablated.scores)
    table = pd.read_csv(ablated.folder / "table.csv")
    assert list(table["variant"]) == names
    assert {path.stem for path in (ablated.folder / "predictions").iterdir()} == set(names)
    for name, row in zip(names, table.to_dict("records"), strict=True):
        rows = predictions(ablated.folder, name)
        assert sorted(rows.index) == sorted(predictions(ablated.folder, "full").index)
        right = rows["label"] == rows["prediction"]
        balanced = (right[rows["label"] == 1].mean() + right[rows["label"] == 0].mean()) / 2
        assert row["balanced_accuracy"] == pytest.approx(balanced)
        assert row["balanced_accuracy_low"] <= balanced <= row["balanced_accuracy_high"]


def test_differences_are_relative_to_the_full_model(ablated: Ablation) -> None:
    table = pd.read_csv(ablated.folder / "table.csv").set_index("variant")
    assert table.loc["full"].filter(like="difference").isna().all()
    others = table.drop("full")
    for metric in ("balanced_accuracy", "auc"):
        expected = others[metric] - table.loc["full", metric]
        assert np.allclose(others[f"{metric}_difference"], expected)
        assert (others[f"{metric}_difference_low"] <= expected + 1e-9).all()
        assert (others[f"{metric}_difference_high"] >= expected - 1e-9).all()
        assert others[f"{metric}_difference_p_value"].between(0, 1, inclusive="right").all()
    full = predictions(ablated.folder, "full")["prediction"]
    for name, discordant in others["discordant"].items():
        assert discordant == (predictions(ablated.folder, str(name))["prediction"] != full).sum()


def test_p_values_are_adjusted_over_the_variants_by_holm(ablated: Ablation) -> None:
    table = pd.read_csv(ablated.folder / "table.csv").set_index("variant")
    written = read_json(ablated.folder / "scores.json")["variants"]
    assert (
        written["full"]["p_adjusted"] is None and read_json(ablated.folder / "scores.json")["primary_metric"]
    )
    others = {name: each for name, each in written.items() if name != "full"}
    for metric in METRICS:
        raw = {name: each["difference"]["differences"][metric]["p_value"] for name, each in others.items()}
        adjusted = {name: each["p_adjusted"][metric] for name, each in others.items()}
        known = sorted(value for value in raw.values() if value is not None)
        for name, value in raw.items():
            if value is None:
                assert adjusted[name] is None
                continue
            lower = [other * (len(known) - place) for place, other in enumerate(known) if other <= value]
            assert adjusted[name] == pytest.approx(min(1, max(lower)))
            if metric in ("balanced_accuracy", "auc"):
                assert table.loc[name, f"{metric}_difference_p_adjusted"] == pytest.approx(adjusted[name])


def test_an_ablation_of_an_older_version_has_no_adjusted_p_values(ablated: Ablation, tmp_path: Path) -> None:
    older = read_json(ablated.folder / "scores.json")
    del older["primary_metric"]
    for variant in older["variants"].values():
        del variant["p_adjusted"]
    (tmp_path / "scores.json").write_text(json.dumps(older))
    scores = read_record(tmp_path / "scores.json", AblationScores)
    assert scores.primary_metric == "balanced_accuracy"
    assert all(variant.p_adjusted is None for variant in scores.variants.values())


def test_the_primary_metric_comes_first(ablated: Ablation) -> None:
    assert table_metrics(ablated.scores) == ["balanced_accuracy", "auc"]
    brier = replace(ablated.scores, primary_metric="brier")
    assert table_metrics(brier) == ["brier", "balanced_accuracy", "auc"]
    columns = list(score_table(brier).columns)
    assert columns[1] == "brier" and "brier_difference_p_adjusted" in columns
    shown = _summary(replace(ablated, scores=brier))
    assert "Brier" not in shown and "brier" in shown.splitlines()[0] and "Holm" in shown.splitlines()[0]
    assert "The primary metric of the study is brier" in shown and "in brier (lower is better):" in shown


def test_a_variant_that_was_already_chosen_is_marked_and_has_the_same_predictions(ablated: Ablation) -> None:
    chosen = [best_in(ablated.folder.parent, fold).config for fold in FOLDS]
    table = pd.read_csv(ablated.folder / "table.csv").set_index("variant")
    full = predictions(ablated.folder, "full")
    for name, change in variants.VARIANTS.items():
        alike = [all(getattr(best, key) == change[key] for key in change) for best in chosen]
        folds = ablated.scores.variants[name].folds
        assert [fold.unchanged for fold in folds] == alike
        assert table.loc[name, "unchanged"] == sum(alike) and table.loc[name, "folds"] == 2
        for fold in np.flatnonzero(alike) + 1:
            rows = predictions(ablated.folder, name)
            assert rows[rows["fold"] == fold].equals(full[full["fold"] == fold])
    assert table.loc["pooling-attention", "unchanged"] == 2  # the study had no other
    assert table.loc["pooling-mean", "unchanged"] == 0


def test_one_thing_is_changed_with_the_fields_that_depend_on_it(
    tiny: Tiny, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(one, tmp_path, dirs_exist_ok=True)
    seen: list[HeadConfig] = []

    def watched(inputs: Any, config: HeadConfig, *rest: Any) -> Any:
        seen.append(config)
        return run_trial(inputs, config, *rest)

    monkeypatch.setattr(ablation, "run_trial", watched)
    ablate(tiny.cohort, [tiny.cache], tmp_path, device="cpu")
    best = best_in(tmp_path, FOLDS[0]).config
    assert seen[0] == best and len(seen) == 2 * len(set(seen))  # both folds; the same one is trained once
    pooled = {config.pooling: config for config in seen if config.image_branch}
    assert set(pooled) == set(POOLING_NAMES)
    assert pooled["max"] == replace(
        best, pooling="max", hidden=HeadConfig.hidden
    )  # which has no hidden layer
    assert pooled["top-k"].top_k == 2  # without effect in the full model, and what the study allows
    (images_only,) = {config for config in seen if config.metadata_branch == "none"}
    assert images_only.pooling == best.pooling and images_only.learning_rate == best.learning_rate
    assert len({config.learning_rate for config in seen}) == 1


# Information that must not reach a variant.


def test_labels_of_held_out_patients_reach_no_variant(
    tiny: Tiny, one: Path, edit_cohort: EditCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("full", "images-only", "metadata-only", "metadata-mlp", "pooling-top-k", "fusion-concat")
    monkeypatch.setattr(variants, "VARIANTS", {name: variants.VARIANTS[name] for name in names})
    searches, saved = plan_searches(tiny.cohort.labelled(), ONE)
    held_out = saved.searches[FOLDS[0]].test

    def flip(table: pd.DataFrame) -> None:
        test = table["ID"].isin(held_out)
        other = {"tumoral": "reactive", "reactive": "tumoral"}
        table.loc[test, "DIAGNOSIS"] = table.loc[test, "DIAGNOSIS"].map(other)

    flipped = read_cohort(edit_cohort(flip))
    monkeypatch.setattr(tuning, "plan_searches", lambda cohort, config: (searches, saved))
    shutil.copytree(one, tmp_path / "original")
    tune(flipped, tiny.cache, tmp_path / "flipped", ONE, "cpu")
    for cohort, folder in ((tiny.cohort, tmp_path / "original"), (flipped, tmp_path / "flipped")):
        ablate(cohort, [tiny.cache], folder, device="cpu")
    for name in (*names, "equal-bags"):
        original, other = (
            predictions(tmp_path / study / "ablation", name) for study in ("original", "flipped")
        )
        for column in ("probability", "prediction"):
            assert original.loc[held_out, column].equals(other.loc[held_out, column]), name
        assert (original.loc[held_out, "label"] == 1 - other.loc[held_out, "label"]).all()
        rest = original.index.difference(held_out)  # their models trained on the flipped labels
        assert not original.loc[rest, "probability"].equals(other.loc[rest, "probability"])


def test_metadata_only_does_not_see_images(one_ablated: Path, other_ablated: Path) -> None:
    folders = (one_ablated, other_ablated)
    assert same(*folders, "metadata-only")
    assert not same(*folders, "images-only") and not same(*folders, "full")


def test_images_only_does_not_see_metadata(
    tiny: Tiny, one_ablated: Path, edit_cohort: EditCohort, few: Sequence[str], tmp_path: Path
) -> None:
    def shuffle(table: pd.DataFrame) -> None:
        table["SEX"], table["LYMPHOCYTES"] = table["SEX"].to_numpy()[::-1], "7"

    cohort = read_cohort(edit_cohort(shuffle))
    tune(cohort, tiny.cache, tmp_path / "two", ONE, "cpu")
    folders = (one_ablated, ablate(cohort, [tiny.cache], tmp_path / "two", device="cpu").folder)
    assert same(*folders, "images-only")
    assert not same(*folders, "metadata-only") and not same(*folders, "full")


# Other features, equal bags, separate searches.


def test_other_features_are_a_variant_named_after_their_folder(
    tiny: Tiny, one: Path, other_features: Path, other_ablated: Path, few: Sequence[str], tmp_path: Path
) -> None:
    other = FeatureCache.open(other_features)
    shutil.copytree(one, tmp_path / "one")
    done = ablate(tiny.cohort, [tiny.cache, other], tmp_path / "one", device="cpu")
    assert done.scores.features == [tiny.features.name, other_features.name]
    variant = done.scores.variants[other_features.name]
    assert [fold.unchanged for fold in variant.folds] == [False, False]
    # The same configuration and seeds as a study of those features.
    expected = predictions(other_ablated, "full")
    assert predictions(done.folder, other_features.name).equals(expected)


def test_equal_bags_are_the_full_model_on_fewer_images(
    tiny: Tiny, ablated: Ablation, few: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ablated.scores.images_of_equal_bags == 2  # the smallest bag of the tiny cohort
    full, thinned = (predictions(ablated.folder, name) for name in ("full", "equal-bags"))
    assert not full["probability"].equals(thinned["probability"])
    assert np.corrcoef(full["probability"], thinned["probability"])[0, 1] > 0.5
    assert set(ablated.scores.gains) == {"full", "equal-bags"}
    shutil.copytree(tiny.study, tmp_path / "study")
    monkeypatch.setattr(ablation, "thin", lambda bags, count, random: bags)
    whole = ablate(tiny.cohort, [tiny.cache], tmp_path / "study", device="cpu")
    assert predictions(whole.folder, "equal-bags").equals(full)


def test_each_retuned_variant_has_a_search_of_its_own(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("full", "metadata-only", "pooling-mean")
    monkeypatch.setattr(variants, "VARIANTS", {name: variants.VARIANTS[name] for name in kept})
    shutil.copytree(tiny.study, tmp_path / "study")
    done = ablate(tiny.cohort, [tiny.cache], tmp_path / "study", trials=2, device="cpu")
    assert done.scores.retuned == 2 and set(done.scores.variants) == {*kept, "equal-bags"}
    for fold in FOLDS:
        best = best_in(tmp_path / "study" / "retuned" / "2" / "pooling-mean", fold)
        assert best.config.pooling == "mean"
    own = pd.read_csv(tiny.study / "predictions.csv").set_index("patient_id")
    full = predictions(done.folder, "full")  # the study had two trials as well
    assert full.equals(own[full.columns])


# Variants that are left out, and errors.


def test_a_variant_without_images_and_metadata_is_left_out_with_a_reason(tiny: Tiny, tmp_path: Path) -> None:
    images = replace(ONE, settings={**ONE.settings, "metadata_branch": ("none",)})
    tune(tiny.cohort, tiny.cache, tmp_path, images, "cpu")
    done = ablate(tiny.cohort, [tiny.cache], tmp_path, device="cpu")
    assert done.scores.left_out == {"metadata-only": "it would leave neither images nor metadata"}
    assert "metadata-only" not in done.scores.variants and done.scores.gains == {}
    assert all(fold.unchanged for fold in done.scores.variants["images-only"].folds)


def test_a_study_without_images_has_variants_of_the_metadata_branch(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    tune(tiny.cohort, None, tmp_path, ONE, "cpu")
    done = command("ablate", tiny.cohort_toml, "--features", "none", "--study", tmp_path, "--json")
    assert done.code == 0
    assert done.json["images_of_equal_bags"] is None and set(done.json["left_out"]) == {"images-only"}
    unchanged = {name: each["folds"][0]["unchanged"] for name, each in done.json["variants"].items()}
    assert unchanged.pop("metadata-direct") != unchanged.pop("metadata-mlp")
    assert all(unchanged.values())


def test_a_variant_that_diverges_is_left_out_with_its_fold(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[HeadConfig] = []

    def diverging(inputs: Any, config: HeadConfig, *rest: Any) -> Any:
        calls.append(config)
        if config.pooling == "max":
            raise Diverged("the logits are no longer finite.")
        return run_trial(inputs, config, *rest)

    monkeypatch.setattr(ablation, "run_trial", diverging)
    shutil.copytree(tiny.study, tmp_path / "study")
    done = ablate(tiny.cohort, [tiny.cache], tmp_path / "study", device="cpu")
    assert done.scores.left_out == {"pooling-max": "it diverged in repeat1-fold1"}
    assert not (done.folder / "predictions" / "pooling-max.csv").exists()
    assert sum(config.pooling == "max" for config in calls) == 1


def test_the_folder_is_complete_or_absent(
    tiny: Tiny, few: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    shutil.copytree(tiny.study, study)
    before = {path.name for path in study.iterdir()}
    publish_table = ablation.publish_table

    def stopped(path: Path, table: pd.DataFrame) -> None:
        if path.stem == "metadata-only":
            raise KeyboardInterrupt
        publish_table(path, table)

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "publish_table", stopped)
        with pytest.raises(KeyboardInterrupt):
            ablate(tiny.cohort, [tiny.cache], study, device="cpu")
    assert {path.name for path in study.iterdir()} == before | {".lock"}
    first = ablate(tiny.cohort, [tiny.cache], study, device="cpu")
    content = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    assert len(content) == 2 + 4 + 4 * 2  # the epochs of each variant in two folds
    ablate(tiny.cohort, [tiny.cache], study, device="cpu")
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == content


def test_the_command_prints_the_table(
    tiny: Tiny, few: Sequence[str], tmp_path: Path, command: Command
) -> None:
    shutil.copytree(tiny.study, tmp_path / "study")
    done = command("ablate", tiny.cohort_toml, "--features", tiny.features, "--study", tmp_path / "study")
    assert done.code == 0 and "Traceback" not in done.err
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    scores = read_record(tmp_path / "study" / "ablation" / "scores.json", AblationScores)
    for name in (*few, "equal-bags"):
        assert f"{scores.variants[name].scores['auc'].value:.3f} (" in lines[name]
    assert "24 patients" in done.out and "favours it" in done.out
    assert "over metadata-only, scored on 2 images of each patient" in done.out


def test_mistakes_are_reported_without_a_traceback(
    tiny: Tiny, other_features: Path, tmp_path: Path, command: Command
) -> None:
    tune(tiny.cohort, tiny.cache, tmp_path / "flat", replace(ONE, outer_folds=0), "cpu")
    shutil.copytree(tiny.study, tmp_path / "open")
    (tmp_path / "open" / "DONE").unlink()
    shutil.copytree(tiny.study, tmp_path / "study")
    own = ("--features", tiny.features)
    calls: list[tuple[int, str, tuple[object, ...]]] = [
        (3, "no outer folds", (*own, "--study", tmp_path / "flat")),
        (3, "has not ended", (*own, "--study", tmp_path / "open")),
        (3, "is not a study folder: it does not exist", (*own, "--study", tmp_path / "nowhere")),
        (3, "image_size: 32 there, 40 now", ("--features", other_features, "--study", tmp_path / "study")),
        (2, "each once", (*own, tiny.features, "--study", tmp_path / "study")),
        (2, "none cannot be combined", (*own, "none", "--study", tmp_path / "study")),
        (2, "--retune must be at least 1", (*own, "--study", tmp_path / "study", "--retune", 0)),
    ]
    for code, words, options in calls:
        done = command("ablate", tiny.cohort_toml, *options)
        assert (done.code, done.out) == (code, ""), done.err
        assert words in done.err and "Traceback" not in done.err and done.err.startswith("mil-ablate: ")
    with exclusive(tmp_path / "study"):
        assert command("ablate", tiny.cohort_toml, *own, "--study", tmp_path / "study").code == 75
    assert not any((tmp_path / name / "ablation").exists() for name in ("flat", "open", "study"))
