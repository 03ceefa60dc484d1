"""Studies whose outer folds are the official ones of the cohort."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import Command
from support.planted import make_cohort
from support.studies import Tiny

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.cohort.official_folds import OfficialFolds
from mil_toolkit.config.study import OFFICIAL, StudyConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.study.canary import small
from mil_toolkit.study.folder import Study
from mil_toolkit.study.learning import run_learning_curve
from mil_toolkit.study.methods import methods_paragraph
from mil_toolkit.study.plan import plan_searches, stored_searches
from mil_toolkit.study.tables import read_predictions
from mil_toolkit.study.tripod import tripod_items
from mil_toolkit.study.tune import tune
from mil_toolkit.study.verification import verify

LABELS = np.arange(24) % 2
PATIENTS = [f"P{number:03d}" for number in range(len(LABELS))]
SETTINGS: dict[str, tuple[int, ...]] = {"epochs": (2,)}
CONFIG = StudyConfig(trials=1, folds=2, repeats=2, outer_folds=OFFICIAL, members=1, settings=SETTINGS)


def official(seed: int, folds: int = 2) -> tuple[frozenset[str], ...]:
    """Random folds with both classes."""
    pairs = np.random.default_rng(seed).permutation(len(LABELS) // 2)
    return tuple(
        frozenset(patient for pair in part for patient in PATIENTS[2 * pair : 2 * pair + 2])
        for part in np.array_split(pairs, folds)
    )


def cohort_of(*repeats: Sequence[frozenset[str]]) -> Cohort:
    ages = np.random.default_rng(0).normal(60, 10, len(LABELS))
    folds = OfficialFolds(tuple(map(tuple, repeats)))
    return replace(make_cohort(LABELS, {"age": ages}), folds=folds)


COHORT = cohort_of(official(0), official(1))


@pytest.fixture(scope="module", name="study")
def _study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of official folds in two repeats; tests only read it."""
    folder = tmp_path_factory.mktemp("official") / "study"
    tune(COHORT, None, folder, CONFIG, "cpu")
    return folder


def test_the_outer_folds_are_the_official_ones(study: Path) -> None:
    predictions = read_predictions(study / "predictions.csv")
    assert COHORT.folds is not None
    for (repeat, fold), rows in predictions.groupby(["repeat", "fold"]):
        assert set(rows["patient_id"]) == COHORT.folds.repeats[repeat - 1][fold - 1]
    assert predictions.groupby(["repeat", "fold"]).ngroups == 4
    stored = json.loads((study / "config.json").read_text())["study"]
    assert stored["outer_folds"] == "official" and stored["repeats"] == 2


def test_drawn_folds_that_are_declared_give_the_same_study(tmp_path: Path) -> None:
    """The seeds of a search depend on its repeat and fold only, and not on where the folds come from."""
    drawn = replace(CONFIG, outer_folds=2, repeats=1)
    tune(replace(COHORT, folds=None), None, tmp_path / "drawn", drawn, "cpu")
    searches = Study.open(tmp_path / "drawn").read_splits().searches
    declared = cohort_of([frozenset(held.test) for name, held in searches.items() if name != "final"])
    tune(declared, None, tmp_path / "declared", replace(CONFIG, repeats=1), "cpu")
    for name in ("splits.json", "predictions.csv", "out_of_fold.csv", "scores.json"):
        assert (tmp_path / "declared" / name).read_bytes() == (tmp_path / "drawn" / name).read_bytes()


def test_training_patients_of_a_fold_choose_and_its_tested_patients_do_not(study: Path) -> None:
    searches = stored_searches(Study.open(study).read_splits(), PATIENTS)
    for search in searches[:-1]:
        held_out = {PATIENTS[place] for place in search.test}
        inner = read_predictions(study / "outer" / search.name / "out_of_fold.csv")
        assert set(inner["patient_id"]) == set(PATIENTS) - held_out
        assert sorted([*search.test, *search.patients]) == list(range(len(PATIENTS)))


def test_the_study_is_verified_against_the_folds_of_its_cohort(study: Path) -> None:
    verify(Study.open(study), COHORT)
    verify(Study.open(study), replace(COHORT, folds=None))
    for other in (cohort_of(official(0), official(2)), cohort_of(official(0, 3), official(1, 3))):
        with pytest.raises(DataError, match=r"splits\.json: it") as error:
            verify(Study.open(study), other)
        assert "Restore them, or run mil-tune with another --study." in str(error.value)
        assert "The study was changed" not in str(error.value)


def test_a_study_is_not_resumed_with_other_folds(study: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "study")
    with pytest.raises(DataError, match="describes another study"):
        tune(cohort_of(official(0), official(2)), None, copy, CONFIG, "cpu")
    with pytest.raises(DataError, match=r"study\.outer_folds: 'official' there, 2 now"):
        tune(replace(COHORT, folds=None), None, copy, replace(CONFIG, outer_folds=2), "cpu")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (replace(CONFIG, outer_folds=5), "--outer-folds 5 would use others"),
        (replace(CONFIG, outer_folds="groups", repeats=1), "--outer-folds groups would use others"),
        (replace(CONFIG, repeats=3), "with 2 repeats, so --repeats 3 cannot be used"),
    ],
)
def test_other_outer_folds_are_refused(tmp_path: Path, config: StudyConfig, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        tune(COHORT, None, tmp_path / "study", config, "cpu")
    assert not (tmp_path / "study").exists()


def test_the_refusal_of_other_folds_fits_every_command_that_has_them(tmp_path: Path) -> None:
    """`mil-ablate --retune` has no option --outer-folds: the folds are those of the study."""
    with pytest.raises(UsageError, match=r"Run mil-tune without --outer-folds .*with another --study"):
        tune(COHORT, None, tmp_path / "study", replace(CONFIG, outer_folds=5), "cpu")


def test_official_folds_must_be_declared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs official folds: folds ="):
        tune(replace(COHORT, folds=None), None, tmp_path, CONFIG, "cpu")


def test_a_study_without_outer_folds_needs_no_official_ones() -> None:
    (search,), _ = plan_searches(COHORT, replace(CONFIG, outer_folds=0))
    assert search.name == "final"


def test_the_canary_runs_on_the_official_folds_of_the_first_repeat() -> None:
    searches, _ = plan_searches(COHORT, small(CONFIG))
    assert [{PATIENTS[place] for place in search.test} for search in searches[:-1]] == [*official(0)]


def test_the_learning_curve_keeps_the_official_folds(study: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "study")
    curve = run_learning_curve(COHORT, None, copy, 0.1, "cpu")
    assert len(curve.points) > 2
    keys = ["repeat", "fold", "patient_id"]
    expected = read_predictions(study / "predictions.csv")[keys]
    for folder in (copy / "learning").iterdir():
        rows = pd.concat(map(read_predictions, folder.glob("outer/*/predictions.csv")))[keys]
        assert sorted(map(tuple, rows.to_numpy())) == sorted(map(tuple, expected.to_numpy()))


def test_methods_and_checklist_name_the_official_folds(study: Path) -> None:
    opened = Study.open(study)
    assert "with the official outer folds of the cohort" in methods_paragraph(CONFIG, None, Binary())
    patients = opened.read_patients()
    assert patients is not None
    items = {
        item.topic: item.text for item in tripod_items(opened.description, patients, opened.read_scores())
    }
    assert "official outer folds, 2 repeats" in items["Training and evaluation"]


def with_folds(toml: Path, folder: Path, repeats: int = 1) -> Path:
    """Copy a cohort and declare official folds of its labelled patients: two folds in each repeat."""
    copy = shutil.copytree(toml.parent, folder)
    table = pd.read_csv(copy / "patients.csv", dtype=str, keep_default_na=False)
    rows = [
        {"patient": patient, "fold": (number // (2 * (repeat + 1))) % 2, "repeat": repeat}
        for repeat in range(repeats)
        for number, patient in enumerate(table.iloc[:, 0])
    ]
    pd.DataFrame(rows).to_csv(copy / "folds.csv", index=False)
    path = copy / "cohort.toml"
    path.write_text(path.read_text().replace("[splits]\n", '[splits]\nfolds = "folds.csv"\n'))
    return path


@pytest.fixture(name="cohort_toml")
def _cohort_toml(tiny: Tiny, tmp_path: Path) -> Path:
    return with_folds(tiny.cohort_toml, tmp_path / "cohort", repeats=2)


def test_commands_follow_the_official_folds(cohort_toml: Path, tmp_path: Path, command: Command) -> None:
    study = tmp_path / "study"
    options = ("--features", "none", "--trials", 1, "--epochs", 2, "--folds", 2, "--members", 1)
    done = command("tune", cohort_toml, *options, "--workers", 1, "--study", study, "--json")
    assert done.code == 0, done.err
    assert done.json["outer"]["balanced_accuracy"]["repeats"] == 2
    declared = pd.read_csv(cohort_toml.parent / "folds.csv").set_index(["repeat", "patient"])["fold"]
    predictions = read_predictions(study / "predictions.csv")
    keys = zip(predictions["repeat"] - 1, predictions["patient_id"], strict=True)
    assert len(predictions) == 2 * 24 and [declared[key] + 1 for key in keys] == [*predictions["fold"]]
    again = command(
        "tune", cohort_toml, *options, "--outer-folds", "official", "--repeats", 2, "--study", study
    )
    assert again.code == 0, again.err
    fitted = command("fit", cohort_toml, "--features", "none", "--study", study)
    assert fitted.code == 0, fitted.err
    assert "the official folds of the cohort" in (study / "model" / "README.md").read_text()
    ablated = command("ablate", cohort_toml, "--features", "none", "--study", study, "--workers", 1)
    assert ablated.code == 0, ablated.err
    assert "official" in (study / "report.html").read_text()
    table = pd.read_csv(cohort_toml.parent / "folds.csv")
    table.assign(fold=1 - table["fold"]).to_csv(cohort_toml.parent / "folds.csv", index=False)
    refused = command("fit", cohort_toml, "--features", "none", "--study", study)
    assert refused.code == 3 and "its outer folds are not the official folds that" in refused.err


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--outer-folds", 2), 2, "--outer-folds 2 would use others"),
        (("--outer-folds", "groups"), 2, "--outer-folds groups would use others"),
        (("--repeats", 3), 2, "with 2 repeats, so --repeats 3 cannot be used"),
        (("--outer-folds", "officials"), 2, "expected a whole number, groups or official"),
        (("--quick",), 0, "no score on held-out patients"),
    ],
)
def test_options_that_contradict_official_folds_are_refused(
    cohort_toml: Path, tmp_path: Path, command: Command, options: tuple[object, ...], code: int, text: str
) -> None:
    usual = ("--features", "none", "--trials", 1, "--epochs", 2, "--folds", 2, "--members", 1, "--workers", 1)
    done = command("tune", cohort_toml, *usual, *options, "--study", tmp_path / "study")
    assert done.code == code and text in done.out + done.err, done.err


def test_official_folds_that_no_cohort_declares_are_refused(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    done = command("tune", *tiny_options, "--outer-folds", "official", "--study", tmp_path / "study")
    assert done.code == 2 and 'folds = "folds.csv" under [splits]' in done.err
