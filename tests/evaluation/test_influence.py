"""Influences of patients, compared with derivatives of the metrics, DeLong and the cluster jackknife."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, logit
from support.tables import LABELS, make_table

from mil_toolkit.evaluation import influence as influence_module
from mil_toolkit.evaluation.influence import (
    concordance,
    design_effect,
    mean_loss,
    mean_size,
    spread,
    through_intercept,
)
from mil_toolkit.evaluation.methods import METHODS, Sample, linear
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.table import Table

STEP = 1e-6


def derivative(table: Table, name: str) -> np.ndarray:
    """Return the derivative of a metric by the weight of each patient."""
    weights = 1 + STEP * np.eye(len(table.labels))
    return (table.scores(METRICS[name], weights) - table.score(METRICS[name])) / STEP


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("prevalence", [None, 0.2])
def test_an_influence_is_the_derivative_of_the_score_by_the_patients_weight(
    name: str, prevalence: float | None
) -> None:
    table = replace(make_table(0.8), prevalence=prevalence)
    if name == "balanced_log_loss":  # of a given model: otherwise the calibration has a part in it
        table = as_one_model(table)
    found = linear(Sample(table), name, table.score(METRICS[name]))
    assert found is not None
    np.testing.assert_allclose(found.influence, derivative(table, name), atol=1e-6)


def as_one_model(table: Table) -> Table:
    """Return the first repeat as predictions of a single model."""
    return replace(
        table,
        folds=np.zeros((1, len(table.labels))),
        probabilities=table.probabilities[:1],
        decisions=table.decisions[:1],
    )


def calibrated(table: Table, weights: np.ndarray) -> Table:
    """Return the table with the intercept of its logits fitted to patients with these weights (n,)."""
    logits = logit(table.probabilities)

    def surplus(intercept: float) -> float:
        return float(((expit(logits + intercept).mean(0) - table.labels) * weights).sum())

    return replace(table, probabilities=expit(logits + brentq(surplus, -20, 20, xtol=1e-14)))


def test_the_balanced_log_loss_of_cross_validation_also_varies_through_the_calibration() -> None:
    alike = np.ones(len(LABELS))
    table = calibrated(make_table(0.4, repeats=1), alike)
    step = 1e-4
    changes = []
    for place in range(len(LABELS)):
        weights = alike.copy()
        weights[place] += step
        moved = calibrated(table, weights)
        scores = moved.scores(METRICS["balanced_log_loss"], weights[None])
        changes.append((scores[0] - table.score(METRICS["balanced_log_loss"])) / step)
    expected = mean_loss(table, "balanced_log_loss")
    np.testing.assert_allclose(expected.influence, changes, atol=1e-5)
    alone = mean_loss(as_one_model(table), "balanced_log_loss")
    np.testing.assert_allclose(expected.influence - alone.influence, through_intercept(table))
    assert np.abs(through_intercept(table)).max() > 1e-3


def test_patients_of_a_subgroup_move_the_intercept_by_their_share() -> None:
    table = make_table(0.4)
    some = [patient for place, patient in enumerate(table.patient_ids) if place % 2]
    subgroup = table.select(some)
    alone = replace(subgroup, selected_from=None)
    np.testing.assert_allclose(through_intercept(alone), through_intercept(subgroup) * 65 / len(some))


def test_predictions_without_doubt_do_not_divide_by_zero() -> None:
    table = make_table(0.4)
    certain = replace(table, probabilities=np.broadcast_to(table.labels.astype(float), (2, 65)))
    np.testing.assert_array_equal(through_intercept(certain), np.zeros(65))


def delong(table: Table) -> float:
    """Return the variance of the AUC of a single repeat and fold by DeLong's formula."""
    high, low = (table.probabilities[0][table.labels == label] for label in (1, 0))
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    parts = (wins.mean(axis).var(ddof=1) / wins.shape[1 - axis] for axis in (1, 0))
    return float(sum(parts))


@pytest.mark.parametrize("decimals", [1, 9])
def test_the_variance_of_the_auc_is_delongs(decimals: int) -> None:
    table = make_table(1.0, repeats=1)
    table = replace(table, probabilities=table.probabilities.round(decimals))
    found = concordance(table, pooled=True)
    assert spread(found.influence, table.units, table.labels).variance == pytest.approx(delong(table))
    np.testing.assert_array_equal(found.pairs, [[40, 25]])


@pytest.mark.parametrize("pooled", [True, False])
def test_influences_on_the_auc_in_parts_are_the_same_to_the_bit(
    pooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(0.7)
    table = replace(table, probabilities=table.probabilities.round(1))
    whole = concordance(table, pooled).influence
    for pairs in (1, 60, 500):
        monkeypatch.setattr(influence_module, "_MOST_PAIRS", pairs)
        np.testing.assert_array_equal(concordance(table, pooled).influence, whole)


def test_memory_of_the_influences_on_the_auc_does_not_grow_with_the_pairs() -> None:
    random, count = np.random.default_rng(0), 6000
    labels, probabilities = np.arange(count) % 2, random.random((1, count))
    folds, ids = np.ones((1, count)), tuple(map(str, range(count)))
    table = Table(ids, labels, folds, probabilities, probabilities >= 0.5)
    tracemalloc.start()
    concordance(table, pooled=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 3000 * 3000  # bytes of a single matrix of all pairs


def test_pairs_are_counted_within_folds() -> None:
    table = make_table(1.0)
    expected = [
        [int(((table.folds[0] == fold) & (label == LABELS)).sum()) for label in (1, 0)] for fold in range(5)
    ]
    assert concordance(table, pooled=False).pairs.tolist() == expected


def test_the_variance_over_groups_is_about_that_of_the_cluster_jackknife() -> None:
    random = np.random.default_rng(0)
    table = replace(make_table(1.0), groups=random.integers(0, 25, 65).astype(str))
    for name in ("auc", "balanced_accuracy", "log_loss"):
        found = linear(Sample(table), name, table.score(METRICS[name]))
        assert found is not None
        names = np.unique(table.groups)
        left_out = table.scores(METRICS[name], 1.0 - (table.groups == names[:, None]))
        jackknife = (len(names) - 1) / len(names) * ((left_out - left_out.mean()) ** 2).sum()
        variance = spread(found.influence, table.units, found.strata).variance
        assert variance == pytest.approx(jackknife, rel=0.2)


def test_copies_of_patients_have_a_design_effect_of_two() -> None:
    table = make_table(1.0)
    assert design_effect(table) == 1
    assert design_effect(doubled(table)) == pytest.approx(2)
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(13), 5))
    assert 1 <= design_effect(replace(table, groups=shuffled)) < 1.7
    assert mean_size(np.array([0, 0, 0, 1, 2])) == pytest.approx((9 + 1 + 1) / 5)


def doubled(table: Table) -> Table:
    """Return a table with each patient twice, as a group."""
    places = np.repeat(np.arange(len(table.labels)), 2)
    return Table(
        tuple(f"{table.patient_ids[place]}-{number % 2}" for number, place in enumerate(places)),
        table.labels[places],
        table.folds[:, places],
        table.probabilities[:, places],
        table.decisions[:, places],
        table.prevalence,
        places,
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("prevalence", [None, 0.2])
def test_entering_every_patient_twice_as_a_group_does_not_narrow_an_interval(
    name: str, prevalence: float | None
) -> None:
    once = replace(make_table(1.0), prevalence=prevalence)
    value = once.score(METRICS[name])
    one, two = (linear(Sample(table), name, value) for table in (once, doubled(once)))
    assert one is not None and two is not None
    assert two.bounds[:2] == pytest.approx(one.bounds[:2], abs=0.012)
