"""Several views of the same images: heads that see them together, and the memory that they take."""

import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.stored_bags import RECORDED, SPEC
from torch import Tensor

from mil_toolkit.config.head import VIEW_FUSION_NAMES, HeadConfig
from mil_toolkit.features.bags import Bags, StreamedBags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, StoredImage
from mil_toolkit.training.inputs import Inputs, ViewInputs
from mil_toolkit.training.loop import Member, predict_logits, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial
from mil_toolkit.training.projection import Projection, fit_projection, fold_moments

MakePatients = Callable[..., Patients]
CONFIG = HeadConfig(hidden=8, batch_size=4, epochs=3, components=4, zero_start=False, features="whole+crop")
TRAINS = [np.arange(8), np.arange(4, 12)]
WIDTHS = {"whole": 6, "crop": 5, "mask": 4}


@pytest.fixture(name="patients")
def _patients(make_patients: MakePatients) -> Patients:
    """Twelve patients with three views in memory."""
    one = make_patients()
    assert one.bags is not None
    views = {
        name: make_patients(width=width, seed=seed).bags for seed, (name, width) in enumerate(WIDTHS.items())
    }
    return one.with_views({name: bags for name, bags in views.items() if bags is not None})


def stored(patient: int, width: int) -> EmbeddedBag:
    """Return a bag whose images are the same for each width."""
    random, count = np.random.default_rng(patient), 1 + patient * 5 % 7
    images = tuple(StoredImage(f"{row}.png", bytes([patient, row] * 16), row, row) for row in range(count))
    embeddings = random.normal(patient % 2, 1.5, (count, 9))[:, -width:].astype(np.float16)
    return EmbeddedBag(f"P{patient}", images, embeddings)


@pytest.fixture(scope="module", name="caches")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureCache]:
    """Twelve patients in a cache for each view."""
    caches = {}
    for name, width in WIDTHS.items():
        cache = FeatureCache.create(tmp_path_factory.mktemp(name), "c", {**SPEC, "width": width})
        cache.publish([stored(patient, width) for patient in range(12)], RECORDED)
        caches[name] = FeatureCache.open(Path(cache.folder).rename(cache.folder.with_name(name)))
    return caches


def of_caches(bags: dict[str, Bags]) -> Patients:
    ids = [f"P{patient}" for patient in range(12)]
    ages = pd.DataFrame({"age": np.random.default_rng(0).normal(60, 10, 12)}, index=ids)
    return Patients(None, np.arange(12) % 2, ages).with_views(bags)


@pytest.fixture(name="unread")
def _unread(caches: dict[str, FeatureCache]) -> Patients:
    """The same patients with embeddings that stay in the shards."""
    ids = [f"P{patient}" for patient in range(12)]
    return of_caches({name: StreamedBags(cache.winners(ids), WIDTHS[name]) for name, cache in caches.items()})


def weights_after(inputs: Inputs, config: HeadConfig, members: list[Member]) -> dict[str, Tensor]:
    *_, (model, _) = train(inputs, config, members, order_seed=5)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_early_fusion_equals_a_concatenation_by_hand(patients: Patients) -> None:
    train_on = np.arange(8)
    parts = []
    for name in ("whole", "crop"):
        bags = patients.views[name]
        projection = fit_projection(fold_moments(bags, [train_on])[0], True, 4)
        parts.append(projection(bags.instances))
    assert patients.bags is not None
    joined = patients.with_views({"": patients.bags.with_embeddings(torch.cat(parts, 1))})
    early = dataclasses.replace(CONFIG, view_fusion="early")
    plain = dataclasses.replace(CONFIG, features="", components=0, standardise=False)
    members = [Member(0, 1), Member(0, 2)]
    views = weights_after(Inputs(patients, [train_on]), early, members)
    by_hand = weights_after(Inputs(joined, [train_on]), plain, members)
    assert views.keys() == by_hand.keys()
    for name, value in views.items():
        torch.testing.assert_close(value, by_hand[name], rtol=1e-4, atol=1e-5)


def test_late_fusion_of_mean_poolings_equals_the_mean_of_a_concatenation(patients: Patients) -> None:
    """The mean of columns does not depend on the other columns, so that both fusions are the same model."""
    fitted = [
        refit(patients, dataclasses.replace(CONFIG, pooling="mean", view_fusion=fusion), 2, 2, (3,))
        for fusion in VIEW_FUSION_NAMES
    ]
    early, late = (head.apply(patients) for head in fitted)
    np.testing.assert_allclose(early.logits, late.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(early.attention, late.attention, rtol=1e-5)


@pytest.mark.parametrize("fusion", VIEW_FUSION_NAMES)
@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "attention"},
        {"pooling": "max"},
        {"components": 0},
        {"pooling": "noisy-and"},
        {"pooling": "dsmil", "instance_layers": 1, "instance_width": 6},
        {"pooling": "clam", "components": 0},
    ],
    ids=str,
)
def test_lockstep_training_equals_training_one_member_at_a_time(
    changes: dict[str, object], fusion: str, patients: Patients
) -> None:
    config = dataclasses.replace(CONFIG, view_fusion=fusion, **changes)
    members = [Member(0, 1), Member(1, 2), Member(1, 3)]
    inputs = Inputs(patients, TRAINS)
    together = weights_after(inputs, config, members)
    for place, member in enumerate(members):
        for name, value in weights_after(inputs, config, [member]).items():
            torch.testing.assert_close(value[0], together[name][place], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fusion", VIEW_FUSION_NAMES)
@pytest.mark.parametrize("components", [0, 4])
def test_a_fitted_head_predicts_what_its_members_did_in_training(
    components: int, fusion: str, patients: Patients
) -> None:
    config = dataclasses.replace(CONFIG, components=components, view_fusion=fusion)
    inputs = Inputs(patients, [np.arange(12)])
    *_, (model, _) = train(inputs, config, [Member(0, 1)], 1)
    head = refit(patients, config, 3, 2, (1,))
    assert head.projection is not None
    sizes = [components or WIDTHS[name] for name in ("whole", "crop")]
    assert head.projection.width == inputs.embedding_width(config) == sum(sizes)
    assert inputs.view_widths(config) == sizes
    expected = predict_logits(model, inputs, [0])
    applied = dataclasses.replace(head, model=model, projection=inputs.projections(config)[0])
    np.testing.assert_allclose(applied.apply(patients).logits, expected, rtol=1e-3, atol=1e-4)


def test_views_side_by_side_are_projected_each_on_its_own(patients: Patients) -> None:
    views = [patients.views[name] for name in WIDTHS]
    for components in (0, 3):
        single = [fit_projection(fold_moments(bags, TRAINS)[1], True, components) for bags in views]
        joined = Projection.side_by_side(single)
        rows = torch.cat([bags.instances for bags in views], 1)
        expected = [project(bags.instances) for project, bags in zip(single, views, strict=True)]
        torch.testing.assert_close(joined(rows), torch.cat(expected, 1))
        assert Projection.side_by_side(single[:1]) is single[0]


def test_a_chosen_view_gives_the_bits_of_a_study_with_that_view_only(unread: Patients) -> None:
    config = dataclasses.replace(CONFIG, features="crop")
    bags = unread.views["crop"]
    alone = unread.with_views({"crop": bags.with_embeddings(bags.instances)})
    results = []
    for patients in (unread, alone):
        inputs = Inputs(patients, TRAINS)
        trial, curves = run_trial(inputs, config, "auc", (0,)), cross_fit_members(inputs, config, 2, 2, (1,))
        applied = refit(patients.take(TRAINS[0]), config, 2, 2, (2,)).apply(patients.take(np.arange(8, 12)))
        results.append(
            [trial.curves.logits, curves.logits, curves.attention, applied.logits, applied.attention]
        )
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("components", [0, 4])
def test_views_in_the_shards_give_the_bits_of_views_in_memory(components: int, unread: Patients) -> None:
    config = dataclasses.replace(CONFIG, components=components)
    loaded = of_caches({name: bags.with_embeddings(bags.instances) for name, bags in unread.views.items()})
    one, other = (cross_fit_members(Inputs(each, TRAINS), config, 2, 2, (1,)) for each in (unread, loaded))
    np.testing.assert_array_equal(one.logits, other.logits)
    np.testing.assert_array_equal(one.attention, other.attention)


def test_the_embeddings_of_one_view_at_a_time_are_in_memory(
    unread: Patients, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, features="whole+crop+mask")
    read, loaded = ViewInputs._read, list[weakref.ref[Tensor]]()

    def watched(self: ViewInputs) -> Bags:
        assert not any(each() is not None for each in loaded)  # those of the views before are gone
        bags = read(self)
        loaded.append(weakref.ref(bags.instances))
        return bags

    monkeypatch.setattr(ViewInputs, "_read", watched)
    inputs = Inputs(unread, TRAINS)
    run_trial(inputs, config, "auc", (0,))
    assert len(loaded) == 3 and not any(each() is not None for each in loaded)
    cross_fit_members(inputs, dataclasses.replace(config, view_fusion="early"), 1, 2, (0,))
    assert len(loaded) == 3  # later trials use the projections
    assert all(isinstance(bags, StreamedBags) for bags in inputs.patients.views.values())


def test_taken_patients_keep_all_views(patients: Patients) -> None:
    taken = patients.take(np.array([5, 1]))
    assert list(taken.views) == list(WIDTHS)
    for name, bags in taken.views.items():
        assert bags.patient_ids == ("P5", "P1")
        assert torch.equal(bags.instances, patients.views[name].select(["P5", "P1"]).instances)
    assert list(patients.chosen_views("mask+whole")) == ["mask", "whole"]
    assert list(patients.chosen_views("")) == list(WIDTHS)
    assert dataclasses.replace(patients, bags=None).views == {}
