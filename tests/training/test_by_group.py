"""Embeddings standardised within groups of patients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support.sites import PATIENTS, WIDTH, sites_cache, sites_cohort
from support.stored_bags import RECORDED, augmented_bag, augmented_spec

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.bags import Bags, StreamedBags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.training import by_group
from mil_toolkit.training.by_group import GroupBags
from mil_toolkit.training.group_checks import LEAST_PATIENTS, check_groups
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit
from mil_toolkit.training.projection import LEAST_DEVIATION, fit_projection, fold_moments

GROUPS = np.array(["b", "a", "b", "a", "a"])
SIZES = [3, 1, 2, 4, 2]
BY_GROUP = HeadConfig(
    standardise="group",
    pooling="mean",
    metadata_branch="none",
    learning_rate=0.02,
    embedding_dropout=0.0,
    instance_dropout=0.0,
    components=0,
)


def bags_of(width: int = 4) -> Bags:
    random = np.random.default_rng(0)
    parts = [torch.from_numpy(random.normal(3 * b, 1 + b, (n, width))).float() for b, n in enumerate(SIZES)]
    return Bags.pack(parts, [f"P{b}" for b in range(len(SIZES))], [str(row) for row in range(sum(SIZES))])


def straightforward(bags: Bags, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of a group's embeddings, each bag with the same weight."""
    own = [b for b in range(len(bags)) if GROUPS[b] == group]
    rows = [bags.instances[bags.offsets[b] : bags.offsets[b + 1]].double().numpy() for b in own]
    mean = np.mean([part.mean(0) for part in rows], 0)
    return mean, np.sqrt(np.mean([np.square(part - mean).mean(0) for part in rows], 0))


@pytest.mark.parametrize("part", [1, 2, 100])
def test_each_group_has_mean_zero_and_variance_one(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_group, "PART", part)
    bags = bags_of()
    scaled = GroupBags(bags, GROUPS)
    assert scaled.instances.dtype == torch.float32 and scaled.width == 4
    for b, group in enumerate(GROUPS):
        mean, deviation = straightforward(bags, group)
        rows = torch.arange(int(bags.offsets[b]), int(bags.offsets[b + 1]))
        expected = (bags.instances[rows].numpy() - mean) / deviation
        np.testing.assert_allclose(scaled.embeddings(rows.flip(0)).numpy(), expected[::-1], atol=1e-5)
    for group in ("a", "b"):
        mean, deviation = straightforward(replace(bags, instances=scaled.instances), group)
        np.testing.assert_allclose(mean, 0, atol=1e-5)
        np.testing.assert_allclose(deviation, 1, rtol=1e-5)


def test_the_bags_keep_patients_images_and_order() -> None:
    bags = bags_of()
    scaled = GroupBags(bags, GROUPS)
    assert scaled.patient_ids == bags.patient_ids and scaled.image_names == bags.image_names
    assert torch.equal(scaled.offsets, bags.offsets) and scaled.orientations is None
    chosen = scaled.select(["P3", "P0"])  # scaled as before, not by the moments of those that were chosen
    rows = scaled.rows(torch.tensor([3, 0]))
    assert torch.equal(chosen.instances, scaled.instances[rows]) and chosen.patient_ids == ("P3", "P0")


def test_an_equal_shift_and_stretch_of_a_group_make_no_difference() -> None:
    bags = bags_of()
    rows = torch.from_numpy(GROUPS == "b")[bags.bag_of_instance]
    moved = bags.instances.clone()
    moved[rows] = moved[rows] * torch.tensor([0.1, 1.0, 5.0, 20.0]) + torch.tensor([-3.0, 0.0, 2.0, 50.0])
    torch.testing.assert_close(
        GroupBags(replace(bags, instances=moved), GROUPS).instances,
        GroupBags(bags, GROUPS).instances,
        rtol=1e-3,
        atol=1e-4,
    )


def test_constant_columns_become_zero_and_stay_finite() -> None:
    bags = bags_of()
    bags.instances[:, 1] = 7.0
    scaled = GroupBags(bags, GROUPS).instances
    assert bool((scaled[:, 1] == 0).all()) and bool(scaled.isfinite().all())
    bags.instances[:, 1] += torch.linspace(0, 1e-4, sum(SIZES))  # hardly varies: raised to a lower bound
    deviation = straightforward(bags, "a")[1]
    scale = GroupBags(bags, GROUPS).scaler.scale[0]
    assert float(scale[1]) == pytest.approx(1 / (LEAST_DEVIATION * deviation.mean()), rel=1e-4)
    bags.instances[:] = 7.0  # such as the images of a broken camera
    assert bool((GroupBags(bags, GROUPS).instances == 0).all())


def test_streamed_embeddings_and_orientations_are_scaled_by_the_moments_of_the_images_as_they_are(
    tmp_path: Path,
) -> None:
    cache = FeatureCache.create(tmp_path, "cohort", augmented_spec(2))
    cache.publish([augmented_bag(f"P{b}", n, seed=b, factor=4.0) for b, n in enumerate(SIZES)], RECORDED)
    cache.refresh()
    bags = cache.bags([f"P{b}" for b in range(len(SIZES))])
    streamed = StreamedBags(cache.winners(list(bags.patient_ids)), 3)
    assert bags.orientations is not None
    both = GroupBags(bags, GROUPS), GroupBags(streamed, GROUPS)
    assert [one.streamed for one in both] == [False, True]
    torch.testing.assert_close(both[0].instances, both[1].instances)
    rows = torch.tensor([9, 0, 4])
    for scaled in both:
        assert scaled.orientations is not None
        turned = scaled.orientations.read(rows)  # (3, 1 + 2, D)
        scaler, group = scaled.scaler, scaled.group[bags.bag_of_instance[rows]]
        expected = (bags.orientations.read(rows).float() - scaler.shift[group, None]) * scaler.scale[
            group, None
        ]
        torch.testing.assert_close(turned, expected)
        torch.testing.assert_close(turned[:, 0], scaled.embeddings(rows))
        assert torch.equal(scaled.orientations.take(rows).read(torch.tensor([2, 1])), turned[[2, 1]])


@pytest.fixture(name="patients")
def _patients(tmp_path: Path) -> Patients:
    cohort = sites_cohort([6, 6, 6])
    return Patients.of(cohort, sites_cache(tmp_path, cohort, shift=2.0))


@pytest.mark.parametrize("components", [0, 4])
def test_members_see_the_projection_of_standardised_embeddings(components: int, patients: Patients) -> None:
    config, trains = replace(BY_GROUP, components=components), [np.arange(24), np.arange(12, 36)]
    inputs = Inputs(patients, trains)
    assert patients.bags is not None and patients.groups is not None
    scaled = GroupBags(patients.bags, patients.groups)
    plain = Bags(scaled.instances, scaled.offsets, scaled.patient_ids, scaled.image_names)
    (batch,) = inputs.batches(torch.tensor([30, 2]), 2)
    seen = inputs.instances(config, batch, [0, 1])
    assert seen is not None
    for fold, moments in enumerate(fold_moments(plain, trains)):
        projection = fit_projection(moments, True, components)
        expected = projection(plain.embeddings(plain.rows(torch.tensor([30, 2]))))
        torch.testing.assert_close(seen.standardised()[fold, : len(expected)], expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            inputs.projections(config)[fold].shift, projection.shift, atol=1e-4, rtol=1e-3
        )
    other = inputs.instances(replace(config, standardise=True), batch, [0, 1])
    assert other is not None and not torch.allclose(other.standardised(), seen.standardised(), atol=0.1)


@pytest.mark.parametrize("components", [0, 4])
def test_streamed_patients_and_views_are_seen_as_those_in_memory(
    components: int, tmp_path: Path, patients: Patients
) -> None:
    config, trains = replace(BY_GROUP, components=components), [np.arange(24), np.arange(12, 36)]
    cache = sites_cache(tmp_path / "streamed", sites_cohort([6, 6, 6]), shift=2.0)
    streamed = StreamedBags(cache.winners(patients.ids), WIDTH)
    assert patients.bags is not None
    double = patients.with_views({"one": patients.bags, "two": streamed})
    both = [patients, patients.with_views({"": streamed}), double]
    seen = []
    for one in both:
        inputs = Inputs(one, trains)
        (batch,) = inputs.batches(torch.tensor([30, 2]), 2)
        instances = inputs.instances(config, batch, [0, 1])
        assert instances is not None
        seen.append(instances.standardised())
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen[2], torch.cat([seen[0], seen[0]], -1), rtol=1e-3, atol=1e-3)
    heads = [refit(one, config, 2, 2, [0]) for one in both[:2]]
    logits = [head.apply(one).logits for head, one in zip(heads, both, strict=False)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-3)


def test_a_fitted_head_scales_new_patients_by_their_own_groups(patients: Patients) -> None:
    head = refit(patients.take(np.arange(24)), BY_GROUP, 2, 1, [0])
    new = patients.take(np.arange(24, 36))
    assert new.bags is not None and head.by_group
    moved = new.bags.with_embeddings(3 * new.bags.instances.float() + 8)
    logits = head.apply(new).logits
    assert np.ptp(logits) > 0.01
    np.testing.assert_allclose(head.apply(replace(new, bags=moved)).logits, logits, atol=1e-3)
    labels = replace(new, labels=1 - new.labels)
    assert np.array_equal(head.apply(labels).logits, logits)


def test_missing_and_small_groups_are_refused(patients: Patients) -> None:
    head = refit(patients, BY_GROUP, 1, 1, [0])
    with pytest.raises(DataError, match="have no groups, and one patient alone is not enough"):
        head.apply(replace(patients.take(np.array([0])), groups=None))
    few = patients.take(np.array([0, *range(12, 12 + LEAST_PATIENTS), 24, 25]))
    with pytest.raises(DataError) as caught:
        head.apply(few)
    assert [problem[:24] for problem in caught.value.problems] == [
        "group S0 has 1 patient; ",
        "group S2 has 2 patients;",
    ]
    assert "at least 10 patients" in caught.value.problems[0]
    assert list(check_groups(np.array(["A"] * LEAST_PATIENTS))) == ["A"] * LEAST_PATIENTS


def auc(patients: Patients, site: str, config: HeadConfig) -> float:
    """Return the area under the ROC curve on one site of a head that was fitted on the others."""
    assert patients.groups is not None
    outside, inside = (np.flatnonzero((patients.groups == site) == held_out) for held_out in (False, True))
    head = refit(patients.take(outside), config, 20, 1, [0])
    return float(roc_auc_score(patients.labels[inside], head.apply(patients.take(inside)).logits[0]))


def test_where_site_and_disease_go_together_the_disease_is_removed(tmp_path: Path) -> None:
    cohort = sites_cohort([0, PATIENTS, 0, PATIENTS, 6])
    patients = Patients.of(cohort, sites_cache(tmp_path, cohort, shift=0.0))
    assert auc(patients, "S4", replace(BY_GROUP, standardise=True)) > 0.8
    assert auc(patients, "S4", BY_GROUP) < 0.7
    (trained,) = (bags.means for bags in patients.take(np.arange(4 * PATIENTS)).seen_views(BY_GROUP).values())
    sick = torch.from_numpy(patients.labels[: 4 * PATIENTS] == 1)
    torch.testing.assert_close(trained[sick].mean(0), trained[~sick].mean(0), atol=1e-4, rtol=0)
