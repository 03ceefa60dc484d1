"""The contract of every kind of outcome: what each stage asks of it, and its entries in the other tables."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from mil_toolkit.cohort.declaration import COHORT_KEYS
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.metrics import METRIC_NAMES, OUTCOME_METRICS
from mil_toolkit.config.study import StudyConfig, ThresholdRule, for_outcome
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.records import to_json
from mil_toolkit.evaluation.intervals import Table, compare, scores_with_intervals
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.layers import generators
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.kinds import (
    DEFAULT,
    KINDS,
    OutcomeRecord,
    decode_decision,
    foreign_key_problems,
    kind_of,
    metric_of,
    outcome_of,
    record_of,
)
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.ordered import Ordered
from mil_toolkit.outcomes.outcome import Outcome, OutcomeRow
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.study.by_outcome import OUTCOME_STUDIES, metadata_rivals
from mil_toolkit.study.rivals import metadata_columns
from mil_toolkit.training.losses import LOSSES, member_losses

every_kind = pytest.mark.parametrize("kind", KINDS)
RULE = ThresholdRule("share")


@dataclass(frozen=True)
class Example:
    """An outcome, the cells of patients whose outcome is known and unknown, and a cell that is not valid."""

    outcome: Outcome
    known: Sequence[tuple[str, ...]]
    unknown: tuple[str, ...]
    invalid: tuple[str, ...]
    keys: Mapping[str, object]


EXAMPLES = {
    "binary": Example(
        Binary("DX", "tumoral", "reactive", "?"),
        [("tumoral",), ("reactive",), ("reactive",), ("tumoral",)] * 6,
        unknown=("?",),
        invalid=("wart",),
        keys={"label": "DX", "positive": "tumoral", "negative": "reactive", "unlabelled": "?"},
    ),
    "ordered": Example(
        Ordered("GRADE", (1, 2, 3), "?"),
        [("1",), ("2",), ("3",), ("3",), ("1",), ("2",)] * 4,
        unknown=("?",),
        invalid=("wart",),
        keys={"label": "GRADE", "classes": (1, 2, 3), "unlabelled": "?", "ordered": True},
    ),
    "classes": Example(
        Classes("DX", {"AML": ("AML", "APL"), "ALL": "ALL", "other": ("CML", 3)}, "?"),
        [("AML",), ("ALL",), ("3",), ("CML",), ("APL",), ("ALL",)] * 4,
        unknown=("?",),
        invalid=("wart",),
        keys={
            "label": "DX",
            "classes": {"AML": ("AML", "APL"), "ALL": "ALL", "other": ("CML", 3)},
            "unlabelled": "?",
        },
    ),
    "number": Example(
        Number("BLASTS", "log", "%", "?"),
        [(f"{number}.5",) for number in (1, 30, 12, 4)] * 6,
        unknown=("?",),
        invalid=("many",),
        keys={"target": "BLASTS", "transform": "log", "unit": "%", "unlabelled": "?"},
    ),
    "survival": Example(
        Survival("OS", "DEAD", 5, "?"),
        [("1.5", "1"), ("4", "1"), ("7.25", "0"), ("9", "1"), ("2", "0"), ("3", "1")] * 4,
        unknown=("?", "?"),
        invalid=("0", "1"),
        keys={"time": "OS", "event": "DEAD", "horizon": 5, "unlabelled": "?"},
    ),
}


def rows(cells: Sequence[tuple[str, ...]]) -> list[OutcomeRow]:
    return [OutcomeRow(f"t.csv, row {number}", each) for number, each in enumerate(cells, 2)]


def targets_of(kind: str) -> np.ndarray:
    return EXAMPLES[kind].outcome.parse(rows(EXAMPLES[kind].known), ".").targets


def outputs_of(outcome: Outcome, *leading: int) -> np.ndarray:
    """Return random outputs of a head, (*leading) or (*leading, C)."""
    shape = (*leading, outcome.outputs) if outcome.outputs > 1 else leading
    return np.random.default_rng(0).normal(size=shape)


def predictions_of(kind: str) -> tuple[Outcome, np.ndarray, Predicted]:
    """Return an outcome fitted to the targets, the targets, and predictions of two folds."""
    targets = targets_of(kind)
    outcome = EXAMPLES[kind].outcome.fitted(targets)
    folds = np.arange(len(targets)) % 2
    return outcome, targets, outcome.predicted(outputs_of(outcome, len(targets)), targets, folds)


def frame(kind: str, repeats: int = 2) -> pd.DataFrame:
    """Return a table of predictions with members."""
    outcome, targets, _ = predictions_of(kind)
    scoring, count = outcome.scoring, len(targets)
    rule = outcome.decide(outputs_of(outcome, count), targets, RULE, None)
    parts = []
    for repeat in range(1, repeats + 1):
        predictions = rule.predict(outputs_of(outcome, count) * repeat)
        columns = {
            "repeat": repeat,
            "fold": np.arange(count) % 2 + 1,
            "patient_id": [f"P{i:02}" for i in range(count)],
        }
        parts.append(
            pd.DataFrame(columns | scoring.target_columns(targets) | scoring.prediction_columns(predictions))
        )
    return pd.concat(parts)


def test_every_kind_has_an_example() -> None:
    assert EXAMPLES.keys() == KINDS.keys()


@every_kind
def test_a_kind_is_recognised_by_keys_that_no_other_has(kind: str) -> None:
    outcome = KINDS[kind]
    assert outcome.kind == kind and outcome.own_keys
    fields = {field.name for field in dataclasses.fields(outcome)}  # type: ignore[arg-type]
    assert outcome.own_keys <= fields <= COHORT_KEYS.keys()
    others = [other.own_keys for name, other in KINDS.items() if name != kind]
    assert not any(keys & outcome.own_keys for keys in others)
    assert kind_of(EXAMPLES[kind].keys) == kind
    assert outcome(**EXAMPLES[kind].keys) == EXAMPLES[kind].outcome
    assert not list(foreign_key_problems(EXAMPLES[kind].keys))
    assert not list(EXAMPLES[kind].outcome.declaration_problems(EXAMPLES[kind].keys))


@every_kind
def test_an_outcome_is_the_same_after_a_round_trip_through_json(kind: str) -> None:
    outcome = EXAMPLES[kind].outcome
    declared = json.loads(json.dumps(to_json(outcome)))
    if kind == DEFAULT:
        assert record_of(outcome) is None
        with pytest.raises(ValueError, match="the kind without a record"):
            OutcomeRecord(kind, declared)
    else:
        assert outcome_of(OutcomeRecord(kind, declared)) == outcome
        with pytest.raises(ValueError, match="'ordeal' is not a key"):
            OutcomeRecord(kind, {**declared, "ordeal": 1})


def test_a_record_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'ordeal' is not one of binary"):
        OutcomeRecord("ordeal", {})
    with pytest.raises(ValueError, match="'ordeal' is not one of binary"):
        decode_decision(object, {"kind": "ordeal"})


@every_kind
def test_targets_are_read_in_order_and_known_where_they_are(kind: str) -> None:
    example = EXAMPLES[kind]
    parsed = example.outcome.parse(rows([example.unknown, *example.known, example.unknown]), ".")
    assert not parsed.problems
    known = example.outcome.known(parsed.targets)
    assert known.tolist() == [False, *[True] * len(example.known), False]
    np.testing.assert_array_equal(parsed.targets[known], targets_of(kind))
    assert set(example.outcome.table_columns) <= example.keys.keys()


@every_kind
def test_every_cell_that_cannot_be_read_is_named_with_its_row(kind: str) -> None:
    example = EXAMPLES[kind]
    cells = [*example.known, example.invalid, *example.known, example.invalid]
    parsed = example.outcome.parse(rows(cells), ".")
    places = [f"t.csv, row {len(example.known) + 2}", f"t.csv, row {2 * len(example.known) + 3}"]
    assert len(parsed.targets) == len(cells)
    for place in places:
        assert len([problem for problem in parsed.problems if problem.startswith(place)]) == 1


@every_kind
def test_strata_are_whole_numbers_of_which_the_named_ones_occur(kind: str) -> None:
    outcome, targets = EXAMPLES[kind].outcome, targets_of(kind)
    strata = outcome.strata(targets)
    assert strata.shape == (len(targets),) and strata.dtype.kind == "i"
    assert outcome.stratum_names.keys() <= set(strata.tolist())
    np.testing.assert_array_equal(np.unique(strata), np.unique(outcome.scoring.strata(targets)))
    assert outcome.lack(targets) is None and outcome.scoring.scorable(targets)


@every_kind
def test_a_single_patient_lacks_something(kind: str) -> None:
    lack = EXAMPLES[kind].outcome.lack(targets_of(kind)[:1])
    assert lack is not None and lack.what and lack.need


@every_kind
def test_heads_of_the_width_of_the_outcome_learn_by_its_loss(kind: str) -> None:
    targets = targets_of(kind)
    outcome = EXAMPLES[kind].outcome.fitted(targets)
    encoded = outcome.training_targets(targets)
    assert encoded.dtype == np.float32 and len(encoded) == len(targets)
    config = HeadConfig(image_branch=False, zero_start=False)
    model = MILModel(config, 0, 3, generators([0, 1]), outputs=outcome.outputs)
    logits = model(None, torch.randn(2, len(targets), 3))
    assert logits.total.shape == outputs_of(outcome, 2, len(targets)).shape
    weights = torch.ones(2, len(targets))
    loss = member_losses(logits, torch.from_numpy(encoded), weights, config, LOSSES[kind])
    assert loss.shape == (2,) and bool(loss.isfinite().all())
    loss.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_kind
@pytest.mark.parametrize("balanced", [True, False])
def test_heads_start_at_a_linear_model(kind: str, balanced: bool) -> None:
    targets = targets_of(kind)
    outcome = EXAMPLES[kind].outcome.fitted(targets)
    x = np.random.default_rng(0).normal(size=(len(targets), 3))
    start = outcome.linear_start(x, targets, balanced)
    assert start.shape == (4, outcome.outputs) and np.isfinite(start).all()


@every_kind
def test_every_metric_scores_resamples_in_one_call(kind: str) -> None:
    outcome, targets, predicted = predictions_of(kind)
    weights = np.random.default_rng(1).integers(1, 3, size=(5, len(targets))).astype(float)
    for metric in outcome.scoring.metrics.values():
        scores = metric.of(predicted, weights)
        assert scores.shape == (5,)
        alone = [float(metric.of(predicted, each)) for each in weights]
        np.testing.assert_allclose(scores, alone, rtol=1e-9)


@every_kind
def test_the_names_of_the_metrics_are_those_of_the_options(kind: str) -> None:
    scoring, names = KINDS[kind]().scoring, OUTCOME_METRICS[kind]
    assert tuple(scoring.metrics) == names.names and set(names.names) <= set(METRIC_NAMES)
    assert {names.objective, names.primary, *names.never_primary} <= set(names.names)
    assert {scoring.discrimination, *scoring.epoch_metrics} <= set(names.names)
    for name, metric in scoring.metrics.items():
        assert metric_of(name).higher_is_better == metric.higher_is_better
    config = for_outcome(StudyConfig(), kind)
    assert (config.objective, config.primary_metric) == (names.objective, names.primary)


def test_metrics_of_other_outcomes_are_refused() -> None:
    unknown = StudyConfig()
    object.__setattr__(unknown, "objective", "integrated_ordeal")
    with pytest.raises(UsageError, match=r"--objective must be one of .* for the outcome binary"):
        for_outcome(unknown, "binary")


@every_kind
def test_predictions_are_the_same_after_a_round_trip_through_a_table(kind: str) -> None:
    outcome, targets, _ = predictions_of(kind)
    predictions = frame(kind)
    table = Table.of(predictions, None, outcome.scoring)
    np.testing.assert_array_equal(table.labels, targets)
    assert len(table.probabilities) == 2 and table.decisions.shape == (2, len(targets))
    again = outcome.scoring.prediction_columns(
        outcome.decide(outputs_of(outcome, len(targets)), targets, RULE, None).predict(
            outputs_of(outcome, len(targets))
        )
    )
    for name, column in again.items():
        np.testing.assert_array_equal(predictions[name][predictions["repeat"] == 1], column)


@every_kind
def test_scores_and_comparisons_have_intervals(kind: str) -> None:
    scoring, predictions = predictions_of(kind)[0].scoring, frame(kind)
    table = Table.of(predictions, None, scoring)
    one, two = (predictions[predictions["repeat"] == repeat].assign(repeat=1) for repeat in (1, 2))
    compared = compare(Table.of(one, None, scoring), Table.of(two, None, scoring))
    assert compared.differences.keys() == scoring.metrics.keys()
    for name, score in scores_with_intervals(table).items():
        assert score.value is not None
        if scoring.metrics[name].resampled:
            assert score.low is not None and score.high is not None and score.low <= score.value <= score.high


@every_kind
def test_a_decision_rule_is_the_same_after_a_round_trip_through_json(kind: str) -> None:
    outcome, targets, _ = predictions_of(kind)
    outputs = outputs_of(outcome, len(targets))
    outcome.check_rule(targets, RULE, None)
    rule = outcome.decide(outputs, targets, RULE, None)
    assert decode_decision(object, to_json(rule)) == rule and not list(rule.problems())
    assert tuple(rule.constants) == outcome.scoring.constants
    predictions = rule.predict(np.stack([outputs, -outputs]))
    assert predictions.decisions.shape == (2, len(targets))
    constants = {name: np.full(len(targets), number) for name, number in rule.constants.items()}
    for values, decisions in zip(*predictions, strict=True):
        np.testing.assert_array_equal(outcome.scoring.decide(values, constants), decisions)
        assert set(np.asarray(decisions, dtype=int).tolist()) <= set(outcome.scoring.decisions)
        assert tuple(rule.intervals(values)) == outcome.scoring.intervals
    low, high = outcome.scoring.bounds
    assert low <= predictions.values.min() and predictions.values.max() <= high


@every_kind
def test_the_first_baseline_sees_only_the_metadata_and_puts_out_what_a_head_does(kind: str) -> None:
    rivals = OUTCOME_STUDIES[kind].rivals
    assert metadata_rivals(kind)[0] == next(iter(rivals))
    targets, x = targets_of(kind), np.random.default_rng(0).normal(size=(24, 2))
    outcome = EXAMPLES[kind].outcome.fitted(targets)
    for rival in rivals.values():
        outputs = rival.regression(x, targets, outcome, x[:5], 1.0)
        assert outputs.shape == outputs_of(outcome, 5).shape and np.isfinite(outputs).all()
    assert rivals[metadata_rivals(kind)[0]].columns is metadata_columns
