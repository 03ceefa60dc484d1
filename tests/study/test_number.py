"""A study of a number from its cohort.toml to predictions, by the commands."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.study.audit import audit

Edit = Callable[[Callable[[pd.DataFrame], object]], Path]


def with_target(toml: Path, table: pd.DataFrame) -> None:
    """Declare the column BLASTS, which follows from the label and the row, as the target."""
    known = table["DIAGNOSIS"] != ""
    values = 10.0 * (table["DIAGNOSIS"] == "tumoral") + np.arange(len(table)) % 5 + 0.25
    table["BLASTS"] = values.astype(str).where(known, "?")
    lines = toml.read_text().splitlines()
    keys = ("label", "positive", "negative", "unlabelled")
    kept = [line for line in lines if not line.startswith(keys)]
    place = kept.index("[cohort]") + 1
    declared = ['target = "BLASTS"', 'unit = "%"', 'unlabelled = "?"']
    toml.write_text("\n".join([*kept[:place], *declared, *kept[place:]]))


@pytest.fixture(name="numbers")
def _numbers(tiny: Tiny, edit_cohort: Edit, tmp_path: Path) -> Path:
    """Return the cohort.toml of the tiny cohort with a number to predict."""
    return edit_cohort(lambda table: with_target(tmp_path / "edited" / "cohort.toml", table))


def options(tiny: Tiny, toml: Path, study: Path) -> tuple[object, ...]:
    numbers = ("--trials", 2, "--epochs", 2, "--folds", 2, "--outer-folds", 2, "--members", 2, "--workers", 1)
    return (toml, "--features", tiny.features, "--study", study, *numbers, "--set", "hidden=32")


def test_a_study_of_a_number_goes_from_tune_to_predict(
    tiny: Tiny, numbers: Path, tmp_path: Path, command: Command
) -> None:
    study, features = tmp_path / "study", ("--features", tiny.features)
    tuned = command("tune", *options(tiny, numbers, study), "--json")
    assert tuned.code == 0, tuned.err
    for part in ("inner", "outer"):
        assert tuned.json[part].keys() == {"mae", "rmse", "r2", "spearman", "concordance"}
        assert all(score["low"] <= score["value"] <= score["high"] for score in tuned.json[part].values())
    scores = json.loads((study / "scores.json").read_text())
    assert {"metadata_ridge", "bag_size", "mean_ridge", "mean_max_min_ridge"} == scores["rivals"].keys()
    again = command("tune", *options(tiny, numbers, study), "--json")  # resumes, and verifies all scores
    assert again.code == 0 and again.json["outer"] == tuned.json["outer"]

    assert command("fit", numbers, "--study", study, *features).code == 0
    bundle = ModelBundle.load(study / "model")
    assert bundle.about.predicted.kind == "number" and bundle.about.class_counts == ()
    card = (study / "model" / "README.md").read_text()
    assert "predicts a number, BLASTS (%)" in card and "positive" not in card and "threshold" not in card

    output, challenge = tmp_path / "p.csv", tmp_path / "s.csv"
    for _ in range(2):  # the second run replaces its own files
        done = command(
            "predict", study / "model", numbers, *features, "--output", output, "--submission", challenge
        )
        assert done.code == 0, done.err
    table = pd.read_csv(output)
    assert list(table) == [
        "patient_id",
        "predicted",
        "low",
        "high",
        "spread",
        "target",
        "in_domain",
        "reasons",
    ]
    assert (table["low"] < table["predicted"]).all() and (table["predicted"] < table["high"]).all()
    assert table["target"].isna().sum() == 3
    unknown = table[table["target"].isna()]
    submitted = pd.read_csv(challenge)
    np.testing.assert_allclose(submitted["LABEL"], unknown["predicted"])

    page = (study / "report.html").read_text()
    assert "Agreement (Bland and Altman)" in page and "Predicted and observed" in page
    for word in ("Confusion matrix", "ROC curve", "True class", "threshold rule"):
        assert word not in page


def test_equal_targets_are_refused_before_any_training(
    tiny: Tiny, edit_cohort: Edit, tmp_path: Path, command: Command
) -> None:
    def change(table: pd.DataFrame) -> None:
        with_target(tmp_path / "edited" / "cohort.toml", table)
        table["BLASTS"] = table["BLASTS"].where(table["BLASTS"] == "?", "7")

    done = command("tune", *options(tiny, edit_cohort(change), tmp_path / "study"))
    assert done.code == 3 and "whose target is always 7" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "study").exists()


def test_the_audit_names_a_column_that_gives_the_target_away(edit_cohort: Edit, tmp_path: Path) -> None:
    def change(table: pd.DataFrame) -> None:
        with_target(tmp_path / "edited" / "cohort.toml", table)
        number = pd.to_numeric(table["BLASTS"], errors="coerce").fillna(3)
        table["LYMPHOCYTES"] = (number**2).astype(str)

    findings = audit(read_cohort(edit_cohort(change)), None)
    (finding,) = [
        each for each in findings if each.kind == "predictive column" and "lymphocyte_count" in each.where
    ]
    assert finding.figures["value"] == pytest.approx(1)
    assert "derived from the target" in finding.advice
