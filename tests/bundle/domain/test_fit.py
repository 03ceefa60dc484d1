"""The domain of a bundle: how it is calibrated, and who is in it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mil_toolkit.bundle.domain import fit
from mil_toolkit.bundle.domain.fit import FittedDomain, fit_domain
from mil_toolkit.bundle.domain.judge import counts_line, reasons_by_patient
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

Make = Callable[..., Patients]
UNITS = {"age": "years"}


def fitted(patients: Patients, images: bool = True) -> tuple[FittedHead, FittedDomain]:
    """Return a head that was fitted on these patients for an epoch, and its domain."""
    config = HeadConfig(image_branch=images, hidden=32, components=4)
    head = refit(patients, config, 1, 1, (0,))
    domain = fit_domain(patients, head, 0)
    assert domain is not None
    return head, domain


def with_metadata(patients: Patients, **columns: object) -> Patients:
    """Return the patients with other values in some columns."""
    return replace(patients, metadata=patients.metadata.assign(**columns))


@pytest.fixture(name="many", scope="module")
def _many(make_patients: Make) -> Patients:
    return make_patients(count=60)


@pytest.fixture(name="model", scope="module")
def _model(many: Patients) -> tuple[FittedHead, FittedDomain]:
    return fitted(many)


def test_few_new_patients_of_the_same_kind_are_outside(make_patients: Make) -> None:
    outside = []
    for seed in range(4):
        head, domain = fitted(make_patients(count=60, seed=seed))
        new = make_patients(count=200, seed=100 + seed)
        outside += [bool(one) for one in reasons_by_patient(domain, head, UNITS, new)]
    assert 0.005 < np.mean(outside) < 0.10


@pytest.mark.parametrize("factor", [0.01, 100.0, 1000.0])
def test_a_number_in_another_unit_is_outside(
    make_patients: Make, model: tuple[FittedHead, FittedDomain], factor: float
) -> None:
    head, domain = model
    new = make_patients(count=30, seed=5)
    reasons = reasons_by_patient(domain, head, UNITS, with_metadata(new, age=new.metadata["age"] * factor))
    assert all(any(line.startswith("age is ") and "years" in line for line in one) for one in reasons)


def test_a_word_or_a_gap_that_training_never_had_is_outside(
    make_patients: Make, model: tuple[FittedHead, FittedDomain]
) -> None:
    head, domain = model
    new = make_patients(count=3, seed=5)
    sexes = pd.Series(["F", "X", None], new.metadata.index, dtype=object)
    ages = pd.Series([60.0, 60.0, np.nan], new.metadata.index)
    _, second, third = reasons_by_patient(domain, head, UNITS, with_metadata(new, sex=sexes, age=ages))
    assert second == ["sex is 'X', which training never saw"]
    assert third == ["age is missing; it never was in training", "sex is missing; it never was in training"]


def test_gaps_are_usual_where_training_patients_had_them(make_patients: Make, many: Patients) -> None:
    ages = many.metadata["age"].where(np.arange(60) % 4 > 0)
    head, domain = fitted(with_metadata(many, age=ages))
    new = make_patients(count=1, seed=5)
    assert reasons_by_patient(domain, head, UNITS, with_metadata(new, age=np.nan)) == [[]]


def test_free_text_is_not_counted_and_does_not_hide_other_reasons(
    make_patients: Make, many: Patients
) -> None:
    notes = pd.Series([f"note {place}" for place in range(60)], many.metadata.index, dtype=object)
    head, domain = fitted(with_metadata(many, note=notes))
    assert domain.domain.unreliable == ["note"] and np.isfinite(domain.domain.limit)
    new = with_metadata(make_patients(count=1, seed=5), note="another note", sex="X")
    (reasons,) = reasons_by_patient(domain, head, UNITS, new)
    assert len(reasons) == 1 and reasons[0].startswith("sex is ")


def test_other_images_are_outside_whatever_the_metadata(
    make_patients: Make, model: tuple[FittedHead, FittedDomain]
) -> None:
    head, domain = model
    new = make_patients(count=20, seed=5)
    assert new.bags is not None
    moved = new.with_views({"": new.bags.with_embeddings(new.bags.instances + 15)})
    reasons = reasons_by_patient(domain, head, UNITS, moved)
    assert all(any("images as a whole" in line for line in one) for one in reasons)
    assert all(any("100% of the images" in line for line in one) for one in reasons)


def test_bags_of_another_size_are_outside(many: Patients, model: tuple[FittedHead, FittedDomain]) -> None:
    head, domain = model
    assert many.bags is not None
    rows = many.bags.instances.repeat(20, 1)
    names = [str(place) for place in range(len(rows))]
    large = many.take(np.array([0])).with_views({"": Bags.pack([rows], ["P0"], names)})
    (reasons,) = reasons_by_patient(domain, head, UNITS, large)
    assert any(line.startswith(f"number of images is {len(rows)}") for line in reasons)


def of_sizes(patients: Patients, sizes: Sequence[int]) -> Patients:
    """Return the patients with bags of these sizes, of embeddings drawn as those in `make_patients`."""
    random = np.random.default_rng(0)
    bags = [
        torch.from_numpy(random.normal(label, 1.5, (size, 6))).float()
        for label, size in zip(patients.labels, sizes, strict=True)
    ]
    return patients.with_views({"": Bags.pack(bags, patients.ids, [str(row) for row in range(sum(sizes))])})


@pytest.mark.parametrize("others", [[], [18, 23]])
def test_about_the_usual_number_of_images_is_inside_where_it_hardly_varies(
    many: Patients, others: list[int]
) -> None:
    head, domain = fitted(of_sizes(many, [*([20] * (60 - len(others))), *others]))
    sizes = [2, 10, 19, 20, 21, 40, 500]
    new = of_sizes(many.take(np.arange(len(sizes))), sizes)
    reasons = reasons_by_patient(domain, head, UNITS, new)
    counted = [any(line.startswith("number of images") for line in one) for one in reasons]
    assert counted == [True, True, False, False, False, True, True]


def with_gaps(seed: int, count: int, share: float) -> Patients:
    """Return patients with 20 numbers each, of which this share is missing at random."""
    random = np.random.default_rng(seed)
    values = random.normal(50, 10, (count, 20))
    values[random.random(values.shape) < share] = np.nan
    ids = [f"P{place}" for place in range(count)]
    metadata = pd.DataFrame(values, ids, [f"c{column}" for column in range(20)])
    return Patients(None, np.arange(count) % 2, metadata)


def test_new_gaps_hardly_cause_more_alarms_than_are_allowed() -> None:
    outside, kept = [], []
    for seed in range(12):
        patients = with_gaps(seed, 72, 1 / 72)
        head, domain = fitted(patients, images=False)
        reasons = reasons_by_patient(domain, head, {}, with_gaps(100 + seed, 300, 1 / 72))
        outside += [bool(one) for one in reasons]
        kept.append(domain.domain.gaps)
    assert not any(kept) and 0.02 < np.mean(outside) < 0.08


def test_new_gaps_count_where_training_patients_seldom_had_them() -> None:
    patients = with_gaps(0, 72, 0)
    patients.metadata.iloc[5, 3] = np.nan
    head, domain = fitted(patients, images=False)
    assert domain.domain.gaps
    new = with_gaps(1, 2, 0)
    new.metadata.loc[:, ["c3", "c4"]] = np.nan
    for reasons in reasons_by_patient(domain, head, {}, new):
        assert "c4 is missing; it never was in training" in reasons
        assert not any(line.startswith("c3 ") for line in reasons)


def test_a_model_without_images_knows_metadata_only(make_patients: Make) -> None:
    patients = make_patients(count=30, images=False)
    head, domain = fitted(patients, images=False)
    assert domain.domain.bag_size is None and domain.domain.images is None
    reasons = reasons_by_patient(domain, head, UNITS, with_metadata(patients, age=6000.0))
    assert all(reasons)


def test_embeddings_can_be_left_out(many: Patients, model: tuple[FittedHead, FittedDomain]) -> None:
    domain = fit_domain(many, model[0], 0, embeddings=False)
    assert domain is not None and domain.domain.images is None and domain.domain.bag_size is not None


def test_groups_are_held_out_together(many: Patients) -> None:
    grouped = replace(many, groups=np.array([f"G{place // 3}" for place in range(60)]))
    folds = fit._folds(grouped, 0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(60)) and len(folds) == 10
    for fold in folds:
        others = np.setdiff1d(np.arange(60), fold)
        assert not set(grouped.groups[fold]) & set(grouped.groups[others])


def test_a_single_group_cannot_be_calibrated(make_patients: Make) -> None:
    patients = make_patients(count=8)
    head = refit(patients, HeadConfig(hidden=32, components=4), 1, 1, (0,))
    assert fit_domain(replace(patients, groups=np.full(8, "one")), head, 0) is None


def test_the_limit_is_the_conformal_quantile() -> None:
    surprises = np.random.default_rng(0).permutation(np.arange(100.0))
    assert fit._limit(surprises) == 95.0  # the 96th of 100: 0.95 * 101 is 95.95
    assert fit._limit(np.arange(18.0)) == 17.0
    assert fit._limit(np.arange(19.0)) == 18.0
    assert fit._limit(np.arange(39.0)) == 37.0
    assert fit._limit(np.arange(90.0)) == 85.0  # 86 / 91 is nearer to 0.95 than 87 / 91


def test_the_order_of_patients_and_of_images_does_not_matter(
    many: Patients, model: tuple[FittedHead, FittedDomain]
) -> None:
    head, domain = model
    assert many.bags is not None
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).numpy()
    reasons = reasons_by_patient(domain, head, UNITS, many)
    assert reasons_by_patient(domain, head, UNITS, many.take(order)) == [reasons[place] for place in order]


def test_what_is_said_counts_the_patients_outside() -> None:
    assert counts_line(np.array([True, True]), 2) is None
    (one, two) = (counts_line(np.array(flags), 3) for flags in ([True, False, True], [False, False, True]))
    assert one is not None and one.startswith("1 of 3 patients is unlike")
    assert two is not None and two.startswith("2 of 3 patients are unlike")
    unknown = counts_line(None, 3)
    assert unknown is not None and "not known" in unknown and "mil-fit" in unknown
