"""Images in several orientations: what members see in training and in prediction."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support.stored_bags import RECORDED, augmented_spec
from torch import Tensor

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.features.bags import StreamedBags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, StoredImage
from mil_toolkit.features.stored_orientations import StoredOrientations
from mil_toolkit.model.layers import draw
from mil_toolkit.training import inputs as inputs_module
from mil_toolkit.training import projected
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, predict_logits, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial

COUNT, WIDTH, AUGMENTED = 12, 6, 2
TRAINS = [np.arange(8), np.arange(4, 12)]
MEMBERS = [Member(0, 10), Member(0, 20), Member(1, 30), Member(1, 40)]
FOLDS = [member.fold for member in MEMBERS]
CONFIG = HeadConfig(hidden=8, metadata_hidden=6, batch_size=4, epochs=2, components=4)
PROJECTIONS: list[dict[str, int | bool]] = [
    {"components": 4},
    {"components": 4, "standardise": False},
    {"components": 0},
    {"components": 0, "standardise": False},
]


def embedded(patient: int, spread: float = 1.0) -> EmbeddedBag:
    """Return a bag of 1 to 7 images, whose other orientations differ from the image as it is by `spread`."""
    random = np.random.default_rng(patient)
    plain = random.normal(patient % 2, 1.5, (1 + patient * 5 % 7, WIDTH)).astype(np.float16)
    images = tuple(StoredImage(f"{row}.png", random.bytes(32), row, row) for row in range(len(plain)))
    turned = plain[:, None] + spread * random.normal(size=(len(plain), AUGMENTED, WIDTH))
    return EmbeddedBag(f"P{patient}", images, plain, turned.astype(np.float16))


def patients_of(folder: object, spread: float = 1.0) -> Patients:
    cache = FeatureCache.create(folder, "cohort", {**augmented_spec(AUGMENTED), "width": WIDTH})  # type: ignore[arg-type]
    for first in range(0, COUNT, 5):
        cache.publish([embedded(number, spread) for number in range(first, min(first + 5, COUNT))], RECORDED)
    cache.refresh()
    ids = [f"P{number}" for number in range(COUNT)]
    ages = pd.DataFrame({"age": np.random.default_rng(0).normal(60, 10, COUNT)}, index=ids)
    return Patients(cache.bags(ids), np.arange(COUNT) % 2, ages)


@pytest.fixture(scope="module", name="turned")
def _turned(tmp_path_factory: pytest.TempPathFactory) -> Patients:
    return patients_of(tmp_path_factory.mktemp("turned"))


@pytest.fixture(scope="module", name="plain")
def _plain(turned: Patients) -> Patients:
    """The same patients without other orientations."""
    assert turned.bags is not None
    return replace(turned, bags=replace(turned.bags, orientations=None))


@pytest.fixture(scope="module", name="streamed")
def _streamed(turned: Patients) -> Patients:
    assert turned.bags is not None and isinstance(turned.bags.orientations, StoredOrientations)
    return replace(turned, bags=StreamedBags(turned.bags.orientations.stored, WIDTH))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few rows at a time, so that parts begin within bags."""
    monkeypatch.setattr(inputs_module, "PART", 14)
    monkeypatch.setattr(projected, "PART", 14)


def orientations(patients: Patients) -> Tensor:
    """Return all embeddings, (N, 3, WIDTH)."""
    assert patients.bags is not None and patients.bags.orientations is not None
    return patients.bags.orientations.read(torch.arange(int(patients.bags.offsets[-1]))).float()


def projected_by(inputs: Inputs, config: HeadConfig, embeddings: Tensor) -> Tensor:
    """Return embeddings (n, D) as training projects them in each member's fold, (K, n, C)."""
    if not config.components and not config.standardise:
        return embeddings.expand(len(FOLDS), -1, -1)
    projections = inputs.projections(config)
    return torch.stack([projections[fold](embeddings) for fold in FOLDS])


@pytest.mark.parametrize("kind", ["turned", "streamed"])
@pytest.mark.parametrize("settings", PROJECTIONS, ids=str)
def test_members_see_the_orientation_that_they_drew(
    kind: str, settings: dict[str, int | bool], request: pytest.FixtureRequest
) -> None:
    patients: Patients = request.getfixturevalue(kind)
    config, inputs = replace(CONFIG, **settings), Inputs(patients, TRAINS)  # type: ignore[arg-type]
    (batch,) = inputs.batches(torch.tensor([7, 2, 11]), 3)
    drawn = torch.rand((len(MEMBERS), len(batch.rows)), generator=torch.Generator().manual_seed(0))
    instances = inputs.instances(config, batch, FOLDS, drawn=drawn)
    assert instances is not None and len(instances.x) == len(MEMBERS)
    each = orientations(patients)[batch.rows]  # (n, 3, D)
    rows = torch.arange(len(batch.rows))
    expected = [
        projected_by(inputs, config, each[rows, orientation])[k]
        for k, orientation in enumerate((drawn * 3).long())
    ]
    torch.testing.assert_close(instances.standardised(), torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["turned", "streamed"])
@pytest.mark.parametrize("settings", PROJECTIONS, ids=str)
def test_prediction_sees_the_mean_over_the_orientations(
    kind: str, settings: dict[str, int | bool], request: pytest.FixtureRequest
) -> None:
    patients: Patients = request.getfixturevalue(kind)
    config, inputs = replace(CONFIG, **settings), Inputs(patients, TRAINS)  # type: ignore[arg-type]
    (batch,) = inputs.batches(torch.tensor([3, 0]), 2)
    instances = inputs.instances(config, batch, FOLDS)
    assert instances is not None and len(instances.x) in (1, 2)  # shared by the members of a fold
    each = orientations(patients)[batch.rows]
    of_means = projected_by(inputs, config, each.mean(1))
    means_of = torch.stack([projected_by(inputs, config, each[:, place]) for place in range(3)]).mean(0)
    for expected in (of_means, means_of):
        torch.testing.assert_close(instances.standardised(), expected, rtol=1e-4, atol=1e-5)


def weights_after(patients: Patients, config: HeadConfig, members: Sequence[Member]) -> dict[str, Tensor]:
    *_, (model, _) = train(Inputs(patients, TRAINS), config, members, order_seed=5)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize(
    "settings", [*PROJECTIONS[::2], {"pooling": "mean", "instance_dropout": 0.0}], ids=str
)
def test_a_member_trained_alone_draws_as_in_lockstep(
    turned: Patients, settings: dict[str, int | bool | str]
) -> None:
    config = replace(CONFIG, **settings)  # type: ignore[arg-type]
    together = weights_after(turned, config, MEMBERS)
    for k, member in enumerate(MEMBERS):
        alone = weights_after(turned, config, [member])
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][k], rtol=1e-3, atol=1e-4)


def test_an_orientation_is_drawn_for_each_instance_member_and_epoch(
    turned: Patients, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    instances = Inputs.instances

    def spy(self: Inputs, *arguments: object) -> object:
        seen.append(arguments[4])  # type: ignore[arg-type]
        return instances(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Inputs, "instances", spy)
    weights_after(turned, CONFIG, MEMBERS)
    epochs = [torch.cat(seen[:3], 1), torch.cat(seen[3:], 1)]  # three mini-batches each
    assert len(seen) == 6 and not torch.equal(*epochs)
    for drawn in epochs:
        assert all(set((row * 3).long().tolist()) == {0, 1, 2} for row in drawn)
        assert len({tuple(row.tolist()) for row in drawn}) == len(MEMBERS)


@pytest.mark.parametrize("settings", PROJECTIONS, ids=str)
def test_without_augmentation_nothing_is_drawn(
    turned: Patients, plain: Patients, settings: dict[str, int | bool]
) -> None:
    """Equal bits, whether the features have no orientations or these are not used."""
    config = replace(CONFIG, **settings)  # type: ignore[arg-type]
    unused, missing = (
        weights_after(turned, replace(config, augment=False), MEMBERS),
        weights_after(plain, config, MEMBERS),
    )
    assert all(torch.equal(unused[name], missing[name]) for name in missing)
    assert not Inputs(turned, TRAINS).draws_orientations(replace(config, augment=False))
    assert not Inputs(plain, TRAINS).draws_orientations(config)
    assert not Inputs(turned, TRAINS).draws_orientations(replace(config, image_branch=False))
    assert Inputs(turned, TRAINS).draws_orientations(config)


def test_images_that_look_alike_from_all_sides_train_as_if_they_were_not_turned(
    tmp_path_factory: pytest.TempPathFactory, plain: Patients
) -> None:
    alike = patients_of(tmp_path_factory.mktemp("alike"), spread=0.0)
    config = replace(CONFIG, instance_dropout=0.0, embedding_dropout=0.0)
    weights, expected = weights_after(alike, config, MEMBERS), weights_after(plain, config, MEMBERS)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)


def test_a_fitted_head_predicts_from_the_mean(turned: Patients) -> None:
    head = refit(turned, CONFIG, epoch=2, member_count=2, seed=(5,))
    assert turned.bags is not None
    means = replace(turned, bags=turned.bags.with_embeddings(orientations(turned).mean(1)))
    applied, expected = head.apply(turned), head.apply(means)
    assert np.array_equal(applied.logits, expected.logits)
    assert applied.attention is not None and np.array_equal(applied.attention, expected.attention)  # type: ignore[arg-type]
    inputs = Inputs(turned, [np.arange(COUNT)])
    np.testing.assert_allclose(predict_logits(head.model, inputs, [0, 0]).numpy(), applied.logits, atol=1e-4)
    without = replace(head.model.config, augment=False)
    head.model.config = without
    as_they_are = replace(turned, bags=replace(turned.bags, orientations=None))
    assert np.array_equal(head.apply(turned).logits, head.apply(as_they_are).logits)
    assert not np.allclose(head.apply(turned).logits, applied.logits)


@pytest.mark.parametrize("settings", PROJECTIONS[:3], ids=str)
def test_streamed_orientations_train_the_same_heads(
    turned: Patients, streamed: Patients, settings: dict[str, int | bool]
) -> None:
    config = replace(CONFIG, **settings)  # type: ignore[arg-type]
    values, results = [], []
    for patients in (turned, streamed):
        inputs = Inputs(patients, TRAINS)
        trial = run_trial(inputs, config, "balanced_log_loss", (0,))
        curves = cross_fit_members(inputs, config, 2, 2, (1,))
        applied = refit(patients.take(TRAINS[0]), config, 2, 2, (2,)).apply(patients.take(np.arange(8, 12)))
        assert curves.attention is not None and applied.attention is not None
        values.append(trial.value)
        results.append([curves.logits, curves.attention, applied.logits, applied.attention])
    np.testing.assert_allclose(*values, rtol=1e-3)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", range(2, 9))
def test_the_largest_random_number_is_the_last_orientation(count: int) -> None:
    largest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    assert int((largest * count).long()) == count - 1
    generators = [torch.Generator().manual_seed(0)]
    assert set((draw(generators, 500) * count).long().flatten().tolist()) == set(range(count))
