"""Ordered classes: declaration, the cumulative regression, and the commands on a small cohort."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.core.records import to_json
from mil_toolkit.evaluation.class_calibration import ClassDecision
from mil_toolkit.evaluation.ordered_classes import ordered_log_probabilities, ordered_outputs
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.ordered import Ordered, OrderedDecision, cumulative_regression
from mil_toolkit.study.folder import Study
from mil_toolkit.study.rivals import ordered_multinomial


def test_wrong_declarations_are_named() -> None:
    assert not list(Ordered("DX", (1, 2, 3)).declaration_problems(["label", "classes", "ordered"]))
    (line,) = Ordered("DX", (1, 2, 3), ordered=False).declaration_problems([])
    assert line == "ordered = false: leave the key out for classes without an order."
    (line,) = Ordered("DX", (1, 2)).declaration_problems([])
    assert line == "ordered = true needs 3 classes or more, lowest first."
    assert Ordered("DX").missing_keys(["label", "ordered"]) == ["classes"]


def test_the_regression_recovers_a_cumulative_model() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(20_000, 2))
    latent = x @ [1.0, -0.5] + random.logistic(size=len(x))
    targets = (latent > -1).astype(int) + (latent > 1)
    start = cumulative_regression(x, targets, 3, balanced=False)
    assert_allclose(start[:-1], np.array([[1.0, 0.0], [-0.5, 0.0]]), atol=0.05)
    probabilities = np.exp(ordered_log_probabilities(start[-1]))
    assert_allclose(probabilities, [expit(-1), expit(1) - expit(-1), expit(-1)], atol=0.02)


def test_of_two_classes_the_regression_is_logistic() -> None:
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 3)), np.repeat([0, 1], [15, 25])
    expected = Binary().linear_start(x, labels, True)
    assert_allclose(cumulative_regression(x, labels, 2, balanced=True), expected, atol=1e-3)


def test_any_probabilities_are_those_of_some_outputs() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 20))
    found = np.exp(ordered_log_probabilities(ordered_outputs(probabilities)))
    assert_allclose(found, probabilities, atol=1e-8)
    extreme = ordered_outputs(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5]]))
    assert np.isfinite(extreme).all()
    assert_allclose(
        np.exp(ordered_log_probabilities(extreme)), [[1, 0, 0], [0, 0, 1], [0.5, 0, 0.5]], atol=1e-8
    )


def test_the_baseline_is_the_multinomial_regression_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    x, targets = random.normal(size=(60, 2)), random.integers(0, 4, 60)
    regression = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000).fit(x[:50], targets[:50])
    outcome = Ordered("DX", (0, 1, 2, 3))
    outputs = ordered_multinomial(x[:50], targets[:50], outcome, x[50:], 0.1)
    assert_allclose(np.exp(ordered_log_probabilities(outputs)), regression.predict_proba(x[50:]), atol=1e-6)


def test_all_commands_work_on_ordered_classes(tiny: Tiny, command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    folder.mkdir()
    table = pd.read_csv(tiny.cohort_toml.parent / "patients.csv", dtype=str, keep_default_na=False)
    known = table["DIAGNOSIS"] != ""
    table.loc[known, "DIAGNOSIS"] = np.resize(["1", "2", "3"], known.sum())
    table.to_csv(folder / "patients.csv", index=False)
    lines = tiny.cohort_toml.read_text().split("\n")
    kept = [line for line in lines if not line.startswith(("positive", "negative"))]
    text = "\n".join(kept).replace(
        'label = "DIAGNOSIS"', 'label = "DIAGNOSIS"\nclasses = [1, 2, 3]\nordered = true'
    )
    toml = folder / "cohort.toml"
    toml.write_text(text)
    numbers = ("--trials", 1, "--epochs", 2, "--folds", 2, "--outer-folds", 2, "--members", 2, "--workers", 1)
    common, study = ("--features", tiny.features, "--device", "cpu"), tmp_path / "study"
    done = command("tune", toml, *common, *numbers, "--study", study, "--set", "hidden=32")
    assert done.code == 0, done.err
    scores = Study.open(study).read_scores()
    assert scores.outer is not None
    for name in ("quadratic_kappa", "rank_error"):
        score = scores.outer[name]
        assert score.value is not None and score.low is not None and score.high is not None
        assert score.low <= score.value <= score.high
    assert command("fit", toml, *common, "--study", study).code == 0
    output = tmp_path / "p.csv"
    assert command("predict", study / "model", toml, *common, "--output", output).code == 0
    predicted = pd.read_csv(output)
    assert_allclose(predicted.filter(like="probability").sum(axis=1), 1)
    assert set(predicted["prediction"]) <= {0, 1, 2}
    shutil.rmtree(study)


@pytest.mark.parametrize("outputs", [[[0.3, -1.0]], [[5.0, 2.0], [-4.0, 0.0]]])
def test_probabilities_before_a_decision_add_up_to_one(outputs: list[list[float]]) -> None:
    labels = np.zeros(len(outputs), dtype=int)
    predicted = Ordered("DX", (1, 2, 3)).predicted(np.array(outputs), labels, labels)
    assert_allclose(predicted.probabilities.sum(-1), 1)


def test_a_decision_has_the_kind_of_its_class_in_json() -> None:
    numbers = (0.7, (0.4, -0.1, -0.3), (0.5, 0.3, 0.2), ("a", "b", "c"))
    for made, outcome in ((ClassDecision, Classes), (OrderedDecision, Ordered)):
        value = to_json(made(*numbers))
        assert isinstance(value, dict) and value["kind"] == outcome.kind
        parsed = outcome.parse_decision(value)
        assert type(parsed) is made and parsed == made(*numbers)
        other = "classes" if outcome is Ordered else "ordered"
        with pytest.raises(msgspec.ValidationError, match="kind"):
            outcome.parse_decision({**value, "kind": other})
