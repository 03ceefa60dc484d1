"""Studies that standardise embeddings within sites."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.commands import Command
from support.sites import Sites

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import Value
from mil_toolkit.core.errors import DataError
from mil_toolkit.report.sections.ablation import ablation_section
from mil_toolkit.study import ablation, variants
from mil_toolkit.study.ablation import Ablation, Data, ablate
from mil_toolkit.study.folder import Study
from mil_toolkit.study.methods import methods_paragraph
from mil_toolkit.study.tune import tune
from mil_toolkit.study.variants import GROUPED, Variant, variants_of
from mil_toolkit.training import group_checks

CONFIG = StudyConfig(
    trials=1, folds=2, outer_folds=0, members=1, settings={"standardise": (True, "group"), "epochs": (1,)}
)


@pytest.fixture(scope="module", name="compared")
def _compared(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    """The ablation of a copy of the study, with the full model and the variants of standardisation only."""
    study = tmp_path_factory.mktemp("compared") / "study"
    shutil.copytree(sites.study, study)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "VARIANTS", {"full": {}})
        return ablate(sites.cohort, [sites.cache], study, device="cpu")


def test_standardising_within_sites_mends_their_shift(compared: Ablation) -> None:
    scores = {name: variant.scores["auc"].value for name, variant in compared.scores.variants.items()}
    assert set(scores) == {"full", "equal-bags", "standardise-cohort"}
    assert compared.scores.left_out == {"standardise-group": "it is the full model in every outer fold"}
    assert "without labels (a transductive step)" in ablation_section(compared.scores).notes[0]
    mended, shifted = scores["full"], scores["standardise-cohort"]
    assert mended is not None and shifted is not None and mended > 0.85 > shifted + 0.1


def test_the_study_keeps_the_setting(sites: Sites) -> None:
    study = Study.open(sites.study)
    assert study.config.settings["standardise"] == ("group",)
    assert study.final.read_best().config.standardise == "group"
    described = methods_paragraph(study.config, study.description.features, study.outcome)
    assert (
        "within each group of patients" in described and "without labels (a transductive step)" in described
    )
    assert "within each group" not in methods_paragraph(
        StudyConfig(), study.description.features, study.outcome
    )


def test_the_variants_need_images_and_outer_folds_of_groups() -> None:
    names = [variant.name for variant in variants_of({}, ["own"], [], by_group=True)]
    assert set(GROUPED) < set(names)
    for features, by_group in (("own", False), (None, True)):
        assert not {variant.name for variant in variants_of({}, [features], [], by_group=by_group)} & set(
            GROUPED
        )


def test_small_groups_are_refused_before_anything_is_written(sites: Sites, tmp_path: Path) -> None:
    cohort = sites.cohort
    assert cohort.groups is not None
    small = replace(cohort, groups=np.where(np.arange(len(cohort)) < 5, "few", cohort.groups))
    with pytest.raises(DataError) as caught:
        tune(small, sites.cache, tmp_path / "study", CONFIG, "cpu")
    assert [problem[:54] for problem in caught.value.problems] == [
        "group S0 has 7 patients; standardise=group needs at le",
        "group few has 5 patients; standardise=group needs at l",
    ]
    assert not (tmp_path / "study").exists()


def test_only_searches_of_images_need_groups(sites: Sites, tmp_path: Path) -> None:
    ungrouped: Cohort = replace(sites.cohort, groups=None)
    with pytest.raises(DataError, match="These patients have no groups"):
        tune(ungrouped, sites.cache, tmp_path / "images", CONFIG, "cpu")
    tuned = tune(ungrouped, None, tmp_path / "metadata", CONFIG, "cpu")
    assert tuned.best.config.standardise == HeadConfig().standardise


def test_mil_tune_asks_for_groups(tiny_options: list[object], tmp_path: Path, command: Command) -> None:
    done = command("tune", *tiny_options, "--set", "standardise=group", "--study", tmp_path / "study")
    assert done.code == 3 and 'group = "..." under [cohort]' in done.err and "Traceback" not in done.err
    assert done.err.count("standardise=group") == 1 and not (tmp_path / "study").exists()


def test_only_variants_that_differ_from_the_full_model_are_scored(sites: Sites) -> None:
    data = Data.load(Study.open(sites.study), sites.cohort, [sites.cache], "cpu")
    grouped = [Variant(name, change) for name, change in GROUPED.items()]

    def used(standardise: object, allowed: tuple[Value, ...], trials: int | None) -> list[str]:
        best = [replace(fold.best.config, standardise=standardise) for fold in data.folds]  # type: ignore[arg-type]
        folds = [
            replace(fold, best=replace(fold.best, config=config))
            for fold, config in zip(data.folds, best, strict=True)
        ]
        settings = {**data.study.config.settings, "standardise": allowed}
        study = replace(data.study, config=replace(data.study.config, settings=settings))
        sources = [replace(source, study=study) for source in data.sources]
        changed = replace(data, folds=folds, sources=sources)
        return [variant.name for variant in ablation._usable(changed, grouped, trials)[0]]

    assert used(True, (True,), None) == used(True, (True,), 2) == ["standardise-group"]
    assert used("group", ("group",), None) == used("group", ("group",), 2) == ["standardise-cohort"]
    assert used(True, (True, "group"), None) == ["standardise-group"]
    assert used(True, (True, "group"), 2) == used(False, (False,), None) == list(GROUPED)


def test_the_ablation_leaves_out_groups_that_are_too_small(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_checks, "LEAST_PATIENTS", 13)
    data = Data.load(Study.open(sites.study), sites.cohort, [sites.cache], "cpu")
    used, reasons = ablation._usable(data, [Variant(name, change) for name, change in GROUPED.items()])
    assert [variant.name for variant in used] == ["standardise-cohort"]
    assert reasons["standardise-group"].startswith(
        "group S0 has 12 patients; standardise=group needs at least"
    )
