"""Figures: scores of folds, importance, axes."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.drawing import style
from mil_toolkit.report.figures.search import (
    importances,
    parallel_figure,
    slice_figures,
)


@pytest.mark.parametrize(("count", "violet"), [(3, False), (5, True)])
def test_few_trials_have_no_best_fifth_and_slices_name_their_axes(
    count: int, violet: bool, study: Path
) -> None:
    names = ["attention", "gated-attention"] * 3
    rows = [(place, f"{place}.5", "COMPLETE", names[place]) for place in range(count)]
    trials = pd.DataFrame(rows, columns=["number", "value", "state", "pooling"])
    contents = replace(read_contents(study), trials=trials)
    with style():
        parallel, (pooling,) = parallel_figure(contents), slice_figures(contents)
    assert parallel is not None and ("Violet" in parallel.caption) == violet
    assert ("var(--accent)" in parallel.svg) == violet
    texts = {each.text: each.get("text-anchor") for each in ElementTree.fromstring(pooling.svg).iter("text")}
    assert texts["gated-attention"] == "end" and texts["attention"] != "end"
    assert "Balanced log loss" in texts


def test_the_score_of_a_fold_uses_only_its_patients(study: Path) -> None:
    contents = read_contents(study)
    predictions = contents.predictions
    expected = [roc_auc_score(each["label"], each["probability"]) for _, each in predictions.groupby("fold")]
    assert contents.table.fold_scores(0, METRICS["auc"]) == pytest.approx(expected)
    one_class = replace(contents.table, folds=contents.table.labels[None].astype(float))
    assert np.isnan(one_class.fold_scores(0, METRICS["auc"])).all()


def test_importance_finds_the_parameter_that_matters(copied: Path) -> None:
    random = np.random.default_rng(0)
    rates, decays = 10 ** random.uniform(-3.3, -1.7, 40), 10 ** random.uniform(-3, 0, 40)
    trials = pd.DataFrame({"number": range(40), "value": np.log(rates) ** 2, "state": "COMPLETE"})
    trials.assign(learning_rate=rates, weight_decay=decays).to_csv(copied / "trials.csv", index=False)
    found = importances(read_contents(copied))
    assert list(found) == ["learning_rate", "weight_decay"] and found["learning_rate"] > 0.8
    trials[:9].to_csv(copied / "trials.csv", index=False)
    assert importances(read_contents(copied)) == {}
