"""Where embeddings lie: distances against straightforward versions."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from mil_toolkit.bundle.domain import images
from mil_toolkit.bundle.domain.images import (
    BagMoments,
    Located,
    Locator,
    fit_space,
    image_distances,
    standardised,
    whole_distances,
)
from mil_toolkit.bundle.domain.records import ImageSpace
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection, bag_moments, fit_projection
from mil_toolkit.training.seen import Seen

Make = Callable[..., Patients]


def projection_of(patients: Patients, components: int) -> Projection:
    """Return the projection that is fitted on all these patients."""
    assert patients.bags is not None
    origin = np.zeros(patients.bags.width)
    return fit_projection(bag_moments(patients.bags, np.arange(len(patients)), origin), True, components)


@pytest.mark.parametrize("components", [0, 3, 6])
def test_distances_are_those_of_plain_numpy(make_patients: Make, components: int) -> None:
    patients = make_patients(count=20)
    assert patients.bags is not None
    projection = projection_of(patients, components)
    locator = Locator(HeadConfig(components=components), projection)
    space = fit_space(BagMoments.of(locator.locate(patients, range(15))))
    scaled = (patients.bags.instances.double().numpy() - projection.shift.numpy()) * projection.scale.numpy()
    offsets = patients.bags.offsets.tolist()
    bags = [scaled[first:last] for first, last in pairwise(offsets)]
    axes = np.eye(6) if projection.components is None else projection.components.double().numpy()
    means = np.array([(bag @ axes).mean(0) for bag in bags])
    sizes = np.array([len(bag) for bag in bags])
    within = np.mean([(bag @ axes).var(0, ddof=1) for bag in bags[:15] if len(bag) > 1], 0)
    between = (means[:15].var(0) - within * (1 / sizes[:15]).mean()).clip(0)
    between = np.maximum(np.maximum(between, 0.001 * between.mean()), within / 100)
    variances = between + within / sizes[15:, None]
    z = (means[15:] - means[:15].mean(0)) / np.sqrt(variances)
    located = list(locator.locate(patients, range(15, 20)))
    moments = BagMoments.of(located)
    whole = whole_distances(standardised(space, moments.means, moments.sizes))
    np.testing.assert_allclose(np.exp(whole), np.sqrt((z**2).mean(1)), rtol=1e-4)

    unit = axes / np.linalg.norm(axes, axis=0)
    rests = [((bag - bag @ unit @ unit.T) ** 2).sum(1) for bag in bags]
    residual = np.mean([rest.mean() for rest in rests[:15]])
    assert components != 3 or space.residual == pytest.approx(residual, rel=1e-4)
    squares = np.mean([((bag @ axes) ** 2).mean(0) for bag in bags[:15]], 0)
    variances = squares - means[:15].mean(0) ** 2
    variances = np.maximum(variances, 0.1 * variances.mean())
    for bag, rest, one in zip(bags[15:], rests[15:], located, strict=True):
        within = ((bag @ axes - means[:15].mean(0)) ** 2 / variances).mean(1)
        expected = np.maximum(within, rest / space.residual) if components == 3 else within
        if components != 6:  # with all components, what is left out is rounding error
            np.testing.assert_allclose(image_distances(space, one), expected, rtol=1e-3)


def test_distances_of_few_images_are_as_usual_as_those_of_many() -> None:
    random = np.random.default_rng(0)

    def located(sizes: np.ndarray) -> Iterator[Located]:
        for size in sizes:
            columns = random.normal(0, 1, 8) + random.normal(0, 2, (size, 8))
            yield Located(columns, np.zeros(size), np.zeros(size))

    space = fit_space(BagMoments.of(located(random.integers(1, 40, 400))))
    np.testing.assert_allclose(np.square(space.deviations), 1, rtol=0.4)
    np.testing.assert_allclose(space.within, 4, rtol=0.1)
    for size in (1, 3, 100):
        moments = BagMoments.of(located(np.full(400, size)))
        away = standardised(space, moments.means, moments.sizes)
        assert np.square(away).mean() == pytest.approx(1, rel=0.15)


def test_bundles_of_older_versions_do_not_know_the_variance_within_patients() -> None:
    space = ImageSpace([1.0, 2.0], [0.5, 2.0], [1.0, 1.0], 0.0)
    away = standardised(space, np.array([[2.0, 4.0]]), np.array([3.0]))
    np.testing.assert_allclose(away, [[2.0, 1.0]])


def test_of_a_large_bag_evenly_spaced_images_are_looked_at(
    make_patients: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    patients = make_patients(count=4)
    assert patients.bags is not None
    bags = Bags.pack([torch.arange(60.0).reshape(10, 6)], ["big"], [str(row) for row in range(10)])
    locator = Locator(HeadConfig(components=0), projection_of(patients, 0))
    one = patients.take(np.array([0])).with_views({"": bags})
    monkeypatch.setattr(images, "MOST_IMAGES", 4)
    (few,) = locator.locate(one, [0])
    monkeypatch.setattr(images, "MOST_IMAGES", 10)
    (all_of_them,) = locator.locate(one, [0])
    np.testing.assert_array_equal(few.columns, all_of_them.columns[[0, 3, 6, 9]])


def test_a_large_bag_is_read_in_parts_of_neighbouring_rows(
    make_patients: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    patients = make_patients(count=4)
    assert patients.bags is not None
    bags = Bags.pack([torch.arange(660.0).reshape(110, 6)], ["big"], [str(row) for row in range(110)])
    locator = Locator(HeadConfig(components=0), projection_of(patients, 0))
    one = patients.take(np.array([0])).with_views({"": bags})
    monkeypatch.setattr(images, "MOST_IMAGES", 30)
    (at_once,) = locator.locate(one, [0])
    monkeypatch.setattr(images, "PART", 25)
    reads, read = list[torch.Tensor](), Seen.read_for_prediction

    def recorded(seen: Seen, rows: torch.Tensor) -> torch.Tensor:
        reads.append(rows)
        return read(seen, rows)

    monkeypatch.setattr(Seen, "read_for_prediction", recorded)
    (in_parts,) = locator.locate(one, [0])
    assert [len(rows) for rows in reads] == [25, 25, 25, 25, 10]
    assert torch.cat(reads).tolist() == list(range(110))
    np.testing.assert_array_equal(in_parts.columns, at_once.columns)
    assert len(in_parts.columns) == 30
