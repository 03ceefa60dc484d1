"""Decision rules in torch are those in numpy, and ONNX files return the columns of mil-predict."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.bundles import ABOUT, SCORES
from support.outcomes import OUTCOMES, with_outcome

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.onnx import export_onnx
from mil_toolkit.bundle.onnx_rules import torch_rule
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.class_calibration import ClassDecision
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.kinds import KINDS, record_of
from mil_toolkit.outcomes.number import Number, NumberRule
from mil_toolkit.outcomes.ordered import Ordered, OrderedDecision
from mil_toolkit.outcomes.outcome import DecisionRule, Outcome
from mil_toolkit.outcomes.survival import Survival, SurvivalRule
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

pytestmark = pytest.mark.usefixtures("operators")

MakePatients = Callable[..., Patients]
GRADES = ("low", "mid", "high")
SHARES = (0.2, 0.5, 0.3)
RULES: list[tuple[DecisionRule, Outcome, tuple[int, ...]]] = [
    (Decision(0.8, -0.1, 0.4), Binary(), ()),
    (ClassDecision(1.7, (0.5, -0.2, -0.3), SHARES, GRADES), Classes(classes=GRADES), (3,)),
    (OrderedDecision(0.6, (0.5, -0.2, -0.3), SHARES, GRADES), Ordered(classes=GRADES), (2,)),
    (NumberRule(3.5, 120.0, 4.0), Number("T"), ()),
    (NumberRule(1e-3, 1e5, 2e-3), Number("T"), ()),
    (NumberRule(3.5, 120.0, None), Number("T"), ()),
    (NumberRule(0.7, 2.0, 0.5, "log"), Number("T", transform="log"), ()),
    (SurvivalRule(3.0, (1.0, 3.0, 4.5), 1.2, -0.4), Survival("t", "e", 3), (8,)),
    (SurvivalRule(0.3, (0.3,), 1.0, 0.2), Survival("t", "e", 0.3), (8,)),
    (SurvivalRule(3.0, tuple(np.arange(1.0, 9.0).tolist())), Survival("t", "e", 3), (8,)),
]


@pytest.mark.parametrize(("rule", "outcome", "shape"), RULES, ids=lambda value: getattr(value, "kind", None))
def test_a_rule_in_torch_predicts_what_the_rule_does(
    rule: DecisionRule, outcome: Outcome, shape: tuple[int, ...]
) -> None:
    outputs = 3 * np.random.default_rng(0).normal(size=(50, *shape)).astype(np.float32)
    expected, scoring = rule.predict(outputs.astype(float)), outcome.scoring
    in_torch = torch_rule(rule, outcome)
    values = in_torch.values(torch.from_numpy(outputs))
    assert values.shape == (50, len(scoring.values))
    np.testing.assert_allclose(values.numpy(), expected.values.reshape(50, -1), rtol=1e-5, atol=2e-6)
    decisions = in_torch.decisions(values)
    assert (decisions is None) == (scoring.decision is None)
    if decisions is not None:
        np.testing.assert_array_equal(decisions.numpy(), expected.decisions.astype(int))
    intervals = rule.intervals(expected.values)
    assert len(in_torch.intervals(values)) == len(intervals) == len(scoring.intervals)
    for found, interval in zip(in_torch.intervals(values), intervals.values(), strict=True):
        np.testing.assert_allclose(found.numpy(), interval, rtol=1e-6)


def test_a_logarithm_beyond_the_largest_exponent_gives_a_finite_number_in_torch_too() -> None:
    rule, outputs = NumberRule(0.7, 2.0, 0.5, "log"), np.array([-900, 0, 990, 1e4], np.float32)
    expected, in_torch = rule.predict(outputs.astype(float)).values, torch_rule(rule, Number(transform="log"))
    values = in_torch.values(torch.from_numpy(outputs))
    np.testing.assert_allclose(values[:, 0].numpy(), expected, rtol=1e-5)
    assert np.isfinite(values.numpy()).all()
    for column, ends in zip(in_torch.intervals(values), rule.intervals(expected).values(), strict=True):
        np.testing.assert_allclose(column.numpy(), ends, rtol=1e-5)


def test_of_equal_multiples_of_the_priors_the_last_class_is_predicted() -> None:
    rule = ClassDecision(1.0, (0.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3), GRADES)
    values = torch.tensor([[0.4, 0.4, 0.2], [0.5, 0.25, 0.25]])
    decisions = torch_rule(rule, Classes(classes=GRADES)).decisions(values)
    assert decisions is not None and decisions.tolist() == [1, 0]


def bundle_of(outcome: Outcome, patients: Patients, heads: str) -> ModelBundle:
    """Return a model that was fitted to an outcome of these patients."""
    patients = with_outcome(patients, outcome)
    config = HeadConfig(hidden=8, components=4, zero_start=False, attention_heads=heads)
    targets = patients.labels
    head = refit(patients, config, epoch=2, member_count=3, seed=(3,))
    outputs = head.apply(patients).logits.mean(0)
    rule = outcome.fitted(targets).decide(outputs, targets, ThresholdRule("share"), None)
    names = outcome.class_names
    described = {"class_names": names, "class_counts": (4,) * len(names), "outcome": record_of(outcome)}
    return ModelBundle(head, replace(ABOUT, decision=rule, **described), SCORES)


DESCRIBED: dict[str, dict[str, object]] = {
    "classes": {"priors": [1 / 3] * 3},
    "ordered": {"priors": [1 / 3] * 3},
    "number": {"unit": "10^9/L"},
    "logarithm": {"unit": None},
    "survival": {"horizon": 3.0},
}


CASES = [*((name, "shared") for name in OUTCOMES), ("classes", "classes")]


@pytest.mark.parametrize(("name", "heads"), CASES)
def test_an_exported_model_returns_the_columns_of_predictions(
    name: str, heads: str, make_patients: MakePatients, tmp_path: Path
) -> None:
    """Every patient's row, whatever the size of the bag; and none where an input is not finite."""
    outcome, described = OUTCOMES[name], DESCRIBED[name]
    patients = make_patients()
    bundle = bundle_of(outcome, patients, heads)
    predicted, spread, attention = bundle.apply(patients)
    expected = bundle.scoring.prediction_columns(predicted) | bundle.decision.intervals(predicted.values)
    expected |= bundle.scoring.spread_columns(spread)
    assert patients.bags is not None and attention is not None
    assert attention.shape[1:] == (() if heads == "shared" else (3,))

    export_onnx(bundle, tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == [*bundle.scoring.prediction_names, "attention"] and set(names[:-1]) == set(expected)
    encoded = bundle.head.encoder.encode(patients.metadata).to_numpy(np.float32)
    ends = patients.bags.offsets.numpy()
    for place in range(12):
        bag = patients.bags.instances[ends[place] : ends[place + 1]].numpy()
        row = session.run(None, {"embeddings": bag, "metadata": encoded[place]})
        for column, output in zip(names[:-1], row, strict=False):
            np.testing.assert_allclose(output, [expected[column][place]], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(row[-1], attention[ends[place] : ends[place + 1]], atol=2e-6)
    for output in session.run(None, {"embeddings": bag, "metadata": np.full_like(encoded[0], np.nan)}):
        assert (output == -1).all() if output.dtype == np.int64 else np.isnan(output).all()

    model = onnx.load(tmp_path / "head.onnx")
    onnx.checker.check_model(model, full_check=True)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["outcome"] == outcome.kind
    assert properties["class_names"] == list(outcome.class_names)
    for key, value in described.items():
        assert properties[key] == (pytest.approx(value) if isinstance(value, list) else value)
    assert "threshold" not in properties


def test_every_kind_has_a_rule_in_torch() -> None:
    assert {outcome.kind for _, outcome, _ in RULES} == set(KINDS)
    assert {outcome.kind for outcome in OUTCOMES.values()} == set(KINDS) - {"binary"}
