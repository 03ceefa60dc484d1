"""Studies whose outer folds are the declared groups."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import Command
from support.planted import make_cohort
from support.studies import Tiny

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.evaluation.intervals import Table, scores_with_intervals
from mil_toolkit.study.records import StudyScores
from mil_toolkit.study.tables import read_predictions
from mil_toolkit.study.tune import tune

CONFIG = StudyConfig(trials=1, folds=2, outer_folds="groups", members=1, settings={"epochs": (2,)})


def cohort_in(groups: list[str], labels: list[int]) -> Cohort:
    return make_cohort(labels, {"noise": np.random.default_rng(0).normal(size=len(labels))}, groups)


def test_each_group_is_one_outer_fold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    groups = [f"G{number // 6}" for number in range(24)]
    labels = [0, 1] * 9 + [1] * 6
    tuned = tune(cohort_in(groups, labels), None, tmp_path, CONFIG, "cpu")
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert [set(rows["patient_id"]) for _, rows in table.groupby("fold")] == [
        {f"P{number:03d}" for number in range(start, start + 6)} for start in (0, 6, 12, 18)
    ]
    both = table[table["fold"] < 4]  # the last fold has no pair of classes
    wins = [
        np.mean(rows.loc[rows["label"] == 1, "probability"].to_numpy()[:, None]
                > rows.loc[rows["label"] == 0, "probability"].to_numpy())
        for _, rows in both.groupby("fold")
    ]  # fmt: skip
    assert tuned.scores.outer is not None
    assert tuned.scores.outer["auc"].value == pytest.approx(np.mean(wins))
    assert len(json.loads((tmp_path / "splits.json").read_text())["searches"]) == 5
    assert "repeat1-fold1 3 + 3, repeat1-fold2 3 + 3" in caplog.text and "repeat1-fold4 6 + 0." in caplog.text
    assert_groups_count(tmp_path, tuned.scores, dict(zip(table["patient_id"], table["fold"], strict=True)))


def assert_groups_count(study: Path, scores: StudyScores, group_of: dict[str, int]) -> None:
    """Check that all intervals and comparisons of a study are those over its groups."""
    table = read_predictions(study / "predictions.csv")
    assert table["group"].tolist() == [f"G{group_of[patient] - 1}" for patient in table["patient_id"]]
    outer = Table.of(table)
    assert scores.outer == scores_with_intervals(outer)
    assert scores.outer != scores_with_intervals(replace(outer, groups=None))
    inner = Table.of(read_predictions(study / "out_of_fold.csv"))
    assert inner.groups is not None and scores.inner == scores_with_intervals(inner)
    gain = (scores.gains or {})["metadata_logistic"].differences["accuracy"]
    assert gain.p_value is not None
    assert gain.p_value > 0.1  # all 16 exchanges of the methods in four groups cannot give less


def test_outer_folds_of_groups_need_a_group_column(
    tiny: Tiny, tiny_options: list[object], tmp_path: Path, command: Command
) -> None:
    done = command("tune", *tiny_options, "--outer-folds", "groups", "--study", tmp_path)
    assert done.code == 3 and "needs a group column" in done.err and not (tmp_path / "config.json").exists()
    assert command("tune", *tiny_options, "--outer-folds", "hospitals", "--study", tmp_path).code == 2
    toml = tmp_path / "cohort.toml"
    text = tiny.cohort_toml.read_text().replace('id = "ID"', 'id = "ID"\ngroup = "SITE"')
    folder = tiny.cohort_toml.parent
    toml.write_text(
        text.replace('"patients.csv"', f'"{tmp_path}/sites.csv"').replace('"images"]', f'"{folder}/images"]')
    )
    table = pd.read_csv(folder / "patients.csv", dtype=str, keep_default_na=False)
    table.assign(SITE=[f"S{number % 3}" for number in range(len(table))]).to_csv(
        tmp_path / "sites.csv", index=False
    )
    done = command("tune", toml, *tiny_options[1:], "--outer-folds", "groups", "--study", tmp_path / "study")
    assert done.code == 0 and "outer" in done.out
    folds = pd.read_csv(tmp_path / "study" / "predictions.csv")["fold"]
    assert sorted(set(folds)) == [1, 2, 3]
    assert command("fit", toml, "--features", tiny.features, "--study", tmp_path / "study").code == 0


def test_groups_allow_no_repeats_and_no_other_word() -> None:
    with pytest.raises(UsageError, match="--repeats"):
        StudyConfig(outer_folds="groups", repeats=2)
    with pytest.raises(UsageError, match="groups or official, not hospitals"):
        StudyConfig(outer_folds="hospitals")
