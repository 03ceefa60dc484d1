"""The baselines: with the folds, inner choice and threshold rule of the model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from mil_toolkit.evaluation.calibration import Decision, fit_decision
from mil_toolkit.evaluation.splits import Split
from mil_toolkit.features.bags import Bags
from mil_toolkit.study import rivals
from mil_toolkit.study.by_outcome import OUTCOME_STUDIES
from mil_toolkit.study.rivals import (
    STRENGTHS,
    bag_size,
    bag_statistics,
    mean_embeddings,
    metadata_columns,
    rival_predictions,
)
from mil_toolkit.training.patients import Patients

MakePatients = Callable[..., Patients]
TRAIN, TEST = np.arange(40), np.arange(40, 60)
INNER = [Split(np.setdiff1d(TRAIN, TRAIN[fold::4]), TRAIN[fold::4]) for fold in range(4)]
BINARY = OUTCOME_STUDIES["binary"].rivals
every_baseline = pytest.mark.parametrize("name", BINARY)


def decide(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Decision:
    return fit_decision(logits, labels, "balanced")


def predictions(patients: Patients, name: str) -> tuple[np.ndarray, np.ndarray]:
    predicted = rival_predictions(BINARY[name], patients, TRAIN, TEST, INNER, "balanced_log_loss", decide)
    assert predicted is not None
    return predicted


def mixed(patients: Patients) -> Patients:
    """Flip some labels, so that no column separates the classes."""
    random = np.random.default_rng(1)
    return replace(patients, labels=np.where(random.random(60) < 0.2, 1 - patients.labels, patients.labels))


@every_baseline
def test_labels_of_test_patients_have_no_influence(name: str, make_patients: MakePatients) -> None:
    patients = mixed(make_patients(60))
    flipped = patients.labels.copy()
    flipped[TEST] = 1 - flipped[TEST]
    for one, other in zip(
        predictions(patients, name), predictions(replace(patients, labels=flipped), name), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@every_baseline
def test_a_test_patient_has_no_influence_on_others(name: str, make_patients: MakePatients) -> None:
    patients = mixed(make_patients(60))
    alone = rival_predictions(BINARY[name], patients, TRAIN, TEST[:1], INNER, "balanced_log_loss", decide)
    assert alone is not None
    np.testing.assert_allclose(alone[0], predictions(patients, name)[0][:1])


def test_the_regularisation_is_the_best_on_the_inner_folds(make_patients: MakePatients) -> None:
    patients = mixed(make_patients(60))
    x, y = mean_embeddings(patients, TRAIN), patients.labels
    assert x is not None

    def fitted(strength: float, train: np.ndarray) -> Pipeline:
        regression = LogisticRegression(C=strength, class_weight="balanced")
        return make_pipeline(StandardScaler(), regression).fit(x[train], y[train])

    def inner_loss(strength: float) -> float:
        held = [fitted(strength, split.train).predict_proba(x[split.test])[:, 1] for split in INNER]
        labels = np.concatenate([y[split.test] for split in INNER])
        weights = compute_sample_weight("balanced", labels)
        return float(log_loss(labels, np.concatenate(held), sample_weight=weights))

    best = fitted(min(STRENGTHS, key=inner_loss), TRAIN).decision_function(x[TEST])
    calibrated = logit(predictions(patients, "mean_logistic")[0])
    slope, intercept = np.polyfit(best, calibrated, 1)
    np.testing.assert_allclose(calibrated, slope * best + intercept, atol=1e-3)


def test_one_metadata_baseline_has_a_fixed_strength(make_patients: MakePatients) -> None:
    patients = mixed(make_patients(60))
    x, y = metadata_columns(patients, TRAIN), patients.labels
    assert x is not None
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight="balanced"))
    fixed = regression.fit(x[TRAIN], y[TRAIN]).decision_function(x[TEST])
    calibrated = logit(predictions(patients, "metadata_logistic_c1")[0])
    slope, intercept = np.polyfit(fixed, calibrated, 1)
    np.testing.assert_allclose(calibrated, slope * fixed + intercept, atol=1e-3)
    searched = logit(predictions(patients, "metadata_logistic")[0])
    assert not np.allclose(calibrated, searched, atol=1e-3)


def test_the_strength_is_chosen_by_pairs_within_inner_folds(
    make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best strength over all pairs differs from the best one within folds."""
    patients = mixed(make_patients(60))
    labels = patients.labels[TRAIN][np.concatenate([split.test for split in INNER])]
    within = np.concatenate([2.0 * fold - 4 + part for fold, part in enumerate(np.split(labels, 4))])
    pooled = 2.0 * labels - 1 + 0.1 * np.random.default_rng(0).normal(size=40)
    pooled[0] *= -1  # a patient on the wrong side
    logits = {strength: within if strength == 0.1 else pooled for strength in STRENGTHS}
    seen: list[np.ndarray] = []
    monkeypatch.setattr(rivals, "_out_of_fold", lambda *_: logits)

    def watched(chosen: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Decision:
        seen.append(chosen)
        return decide(chosen, labels, groups)

    rival = BINARY["metadata_logistic"]
    assert rival_predictions(rival, patients, TRAIN, TEST, INNER, "auc", watched) is not None
    assert seen[0] is within


def test_a_mean_embedding_is_the_mean_of_the_bag(make_patients: MakePatients) -> None:
    patients = make_patients()
    means = mean_embeddings(patients, np.arange(12))
    assert patients.bags is not None and means is not None
    for place, patient in enumerate(patients.ids):
        np.testing.assert_allclose(means[place], patients.bags.select([patient]).instances.mean(0), rtol=1e-5)


def test_the_statistics_of_a_bag_are_those_of_its_reduced_embeddings(make_patients: MakePatients) -> None:
    patients, train = make_patients(), np.arange(9)
    assert patients.bags is not None
    statistics = bag_statistics(patients, train)
    assert statistics is not None
    x = patients.bags.instances.double().numpy()
    weights = np.repeat(1 / patients.bags.sizes.numpy(), patients.bags.sizes.numpy())
    weights[int(patients.bags.offsets[9]) :] = 0  # each training bag weighs the same
    weights /= weights.sum()
    centred = x - weights @ x
    scaled = centred / np.sqrt(weights @ centred**2)
    _, axes = np.linalg.eigh((scaled * weights[:, None]).T @ scaled)
    bags = np.split(scaled @ axes[:, ::-1], patients.bags.offsets[1:-1].numpy())
    width = x.shape[1]
    for place, bag in enumerate(bags):
        # Up to the common scale and the sign of each component, which swaps maximum and minimum
        mean, highest, lowest = statistics[place].reshape(3, width)
        scale = np.abs(mean).sum() / np.abs(bag.mean(0)).sum()
        np.testing.assert_allclose(np.abs(mean), scale * np.abs(bag.mean(0)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(highest - lowest, scale * np.ptp(bag, axis=0), rtol=1e-3, atol=1e-4)
        assert (lowest <= mean + 1e-6).all() and (mean <= highest + 1e-6).all()


def test_statistics_of_odd_bags_are_finite(make_patients: MakePatients) -> None:
    """Constant columns, columns of wildly different scale, equal bags, and bags of one instance."""
    patients = make_patients(60)
    assert patients.bags is not None
    x = patients.bags.instances.clone()
    x[:, 0], x[:, 1], x[:, 2] = 3.0, x[:, 1] * 1e4, x[:, 2] * 1e-4
    bags = [*x.split(patients.bags.sizes.tolist())]
    bags[1], bags[2] = bags[0], bags[2][:1]
    names = ["" for bag in bags for _ in bag]
    odd = replace(patients, bags=Bags.pack(bags, patients.ids, names))
    probabilities, _ = predictions(odd, "mean_max_min_logistic")
    assert np.isfinite(probabilities).all()


def test_without_images_the_baselines_of_images_have_no_data(make_patients: MakePatients) -> None:
    patients = make_patients(images=False)
    assert bag_size(patients, np.arange(12)) is None
    assert mean_embeddings(patients, np.arange(12)) is None
    assert bag_statistics(patients, np.arange(12)) is None


def test_without_metadata_one_baseline_has_no_data(make_patients: MakePatients) -> None:
    patients = make_patients()
    bare = replace(patients, metadata=patients.metadata[[]])
    assert BINARY["metadata_logistic"].columns(bare, np.arange(12)) is None
