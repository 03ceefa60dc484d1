"""Projections against scikit-learn, with instances weighted by one over the size of their bag."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from mil_toolkit.features.bags import Bags
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Moments, Projection, bag_moments, fit_projection, fold_moments

SIZES = [3, 1, 8, 2, 5, 4]


def pack(instances: np.ndarray, sizes: list[int] = SIZES) -> Bags:
    parts = torch.from_numpy(instances).float().split(sizes)
    ids = [f"P{b}" for b in range(len(sizes))]
    return Bags.pack(list(parts), ids, [str(i) for i in range(sum(sizes))])


def correlated(sizes: list[int] = SIZES, width: int = 6) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(sum(sizes), width)) @ random.normal(size=(width, width)) + 3


def moments_of(bags: Bags, chosen: list[int]) -> Moments:
    return bag_moments(bags, np.array(chosen), bags.instances[0].double().numpy())


def weights(chosen: list[int]) -> np.ndarray:
    return np.concatenate([np.full(SIZES[b], 1 / SIZES[b]) for b in chosen])


def test_moments_equal_those_of_weighted_instances() -> None:
    instances, chosen = correlated(), [0, 2, 3, 5]
    rows = np.concatenate([instances[sum(SIZES[:b]) : sum(SIZES[: b + 1])] for b in chosen])
    actual = moments_of(pack(instances), chosen)
    expected = np.cov(rows, rowvar=False, aweights=weights(chosen), ddof=0)
    np.testing.assert_allclose(actual.mean, np.average(rows, axis=0, weights=weights(chosen)), rtol=1e-5)
    np.testing.assert_allclose(actual.covariance, expected, rtol=1e-4, atol=1e-4)


def test_standardisation_equals_that_of_scikit_learn() -> None:
    instances = correlated()
    scaler = StandardScaler().fit(instances, sample_weight=weights(list(range(len(SIZES)))))
    bags = pack(instances)
    projection = fit_projection(moments_of(bags, list(range(len(SIZES)))), standardise=True, components=0)
    expected = torch.from_numpy(scaler.transform(instances)).float()
    torch.testing.assert_close(projection(bags.instances), expected, rtol=1e-4, atol=1e-4)
    assert projection.width == 6


@pytest.mark.parametrize("standardise", [False, True])
def test_components_equal_those_of_scikit_learn(standardise: bool) -> None:
    """scikit-learn's PCA takes no weights, so each instance is repeated in proportion to its weight."""
    instances, bags = correlated(), pack(correlated())
    copies = instances.repeat(np.rint(120 * weights(list(range(len(SIZES))))).astype(int), axis=0)
    scaler = StandardScaler(with_std=standardise).fit(copies)
    pca = PCA(4).fit(scaler.transform(copies))
    leading = np.sqrt(PCA().fit(scaler.transform(copies)).explained_variance_.mean())
    projection = fit_projection(moments_of(bags, list(range(len(SIZES)))), standardise, components=4)
    expected = pca.transform(scaler.transform(instances)) / leading
    actual = projection(bags.instances).numpy()
    np.testing.assert_allclose(np.abs(actual), np.abs(expected), rtol=2e-2, atol=2e-3)
    assert projection.width == 4


def test_fewer_components_are_the_first_of_more() -> None:
    bags = pack(correlated())
    widest, two = (fit_projection(moments_of(bags, [0, 1, 2, 3]), True, count) for count in (6, 2))
    torch.testing.assert_close(widest.narrowed(2)(bags.instances), widest(bags.instances)[:, :2])
    torch.testing.assert_close(two(bags.instances).abs(), widest(bags.instances)[:, :2].abs())


def test_the_first_components_have_mean_variance_one_at_any_scale() -> None:
    sizes = [10] * 40
    for scale in (1e-3, 1.0, 1e3):
        bags = pack(scale * correlated(sizes, width=20), sizes)
        projection = fit_projection(moments_of(bags, list(range(40))), False, 20)
        variance = projection(bags.instances).var(0, correction=0)
        assert variance[:16].mean().item() == pytest.approx(1, rel=1e-2)
        assert (variance.diff() <= 1e-4).all()


def test_a_constant_column_becomes_zero() -> None:
    instances = correlated()
    instances[:, 2] = 7.25
    projected = fit_projection(moments_of(pack(instances), [0, 1, 2]), True, 0)(pack(instances).instances)
    assert projected[:, 2].count_nonzero() == 0
    assert projected.isfinite().all()


def test_the_moments_of_folds_equal_those_computed_directly() -> None:
    bags = pack(correlated())
    trains = [np.array([0, 1, 2]), np.array([1, 3, 4, 5]), np.arange(6)]
    for train, actual in zip(trains, fold_moments(bags, trains), strict=True):
        direct = bag_moments(bags, train, actual.origin)
        np.testing.assert_allclose(actual.mean, direct.mean, rtol=1e-5)
        np.testing.assert_allclose(actual.covariance, direct.covariance, rtol=1e-4, atol=1e-4)


def test_bags_that_no_fold_trains_on_have_no_influence(make_patients: Callable[..., Patients]) -> None:
    bags = make_patients().bags
    assert bags is not None
    trains = [np.array([0, 1, 2]), np.array([2, 3, 4])]
    other = Bags.pack([*bags.instances.split(bags.sizes.tolist())[:5]], bags.patient_ids[:5], [""] * 15)
    for one, two in zip(fold_moments(bags, trains), fold_moments(other, trains), strict=True):
        np.testing.assert_array_equal(one.mean, two.mean)
        np.testing.assert_array_equal(one.covariance, two.covariance)


def test_a_mean_far_from_zero_does_not_cost_precision() -> None:
    instances = correlated() * 0.01 + 100
    actual = fold_moments(pack(instances), [np.arange(6)])[0]
    stored = pack(instances).instances.double().numpy()
    expected = np.cov(stored, rowvar=False, aweights=weights(list(range(6))), ddof=0)
    np.testing.assert_allclose(actual.covariance, expected, rtol=1e-2, atol=1e-7)


def test_half_precision_embeddings_are_projected_in_float32() -> None:
    bags = pack(correlated())
    projection = fit_projection(moments_of(bags, [0, 1, 2]), True, 3)
    out = projection(bags.instances.half())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, projection(bags.instances), rtol=1e-2, atol=1e-2)
    assert isinstance(projection, Projection)
