"""Inputs of members: projections, metadata and mini-batches of each fold."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import mil_toolkit.training.inputs as inputs_module
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.features.bags import Bags
from mil_toolkit.model.instances import Instances
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import fit_projection, fold_moments

MakePatients = Callable[..., Patients]
TRAINS = [np.arange(8), np.arange(4, 12)]
FOLDS = [0, 1, 1]


def seen_by(inputs: Inputs, config: HeadConfig, patients: Tensor, folds: Sequence[int] = FOLDS) -> Instances:
    """Return these patients in one mini-batch, as members of these folds see them."""
    (batch,) = inputs.batches(patients, len(patients))
    bags = inputs.instances(config, batch, folds)
    assert bags is not None
    return bags


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("components", [0, 4])
def test_a_member_sees_the_projection_of_its_fold(
    components: int, standardise: bool, make_patients: MakePatients
) -> None:
    patients = make_patients()
    assert patients.bags is not None
    config = HeadConfig(components=components, standardise=standardise)
    chosen = torch.tensor([7, 2])
    bags = seen_by(Inputs(patients, TRAINS), config, chosen)
    embeddings = patients.bags.instances[patients.bags.rows(chosen)]
    for k, fold in enumerate(FOLDS):
        projection = fit_projection(fold_moments(patients.bags, TRAINS)[fold], standardise, components)
        seen = bags.standardised()[k, : len(embeddings)]
        torch.testing.assert_close(seen, projection(embeddings), rtol=1e-3, atol=1e-4)
        assert standardise or components or torch.equal(seen, embeddings.float())
    assert list(bags.sizes[:2]) == patients.bags.sizes[chosen].tolist()


def test_the_projections_for_a_fitted_head_equal_those_of_training(make_patients: MakePatients) -> None:
    patients = make_patients()
    assert patients.bags is not None
    inputs = Inputs(patients, TRAINS)
    configs = [HeadConfig(components=count, standardise=kind) for count in (4, 0) for kind in (True, False)]
    for config in configs:
        bags = seen_by(inputs, config, torch.arange(12), [0, 1])
        for fold, projection in enumerate(inputs.projections(config)):
            seen = projection(patients.bags.instances)
            shown = bags.standardised()[fold, : len(seen)]
            torch.testing.assert_close(shown, seen, rtol=1e-3, atol=1e-4)
            assert projection.width == inputs.embedding_width(config)


@pytest.mark.parametrize("components", [0, 4])
def test_padding_rows_in_a_last_bag_make_the_number_of_rows_a_multiple(
    components: int, make_patients: MakePatients
) -> None:
    patients = make_patients(count=120)
    assert patients.bags is not None
    for count in (1, 50, 120):
        chosen = torch.arange(count)
        bags = seen_by(Inputs(patients, TRAINS), HeadConfig(components=components), chosen)
        assert bags.x.shape[1] % 128 == 0
        assert bags.x.shape[1] - len(patients.bags.rows(chosen)) < 128
        assert sum(bags.sizes) == bags.x.shape[1] and min(bags.sizes) > 0
        assert torch.bincount(bags.bag).tolist() == bags.sizes
        assert len(bags.sizes) - count in (0, 1)


def test_members_of_a_fold_that_are_side_by_side_share_its_embeddings(make_patients: MakePatients) -> None:
    inputs, config = Inputs(make_patients(), TRAINS), HeadConfig(components=4)
    shared = seen_by(inputs, config, torch.arange(12), [0, 0, 1, 1])
    assert len(shared.x) == 2 and shared.member_count == 4
    for folds in ([0, 1, 1, 0], [0, 0, 1], [1, 0, 1, 0]):
        own = seen_by(inputs, config, torch.arange(12), folds)
        assert len(own.x) == len(folds)
        for k, fold in enumerate(folds):
            assert torch.equal(own.x[k], shared.x[fold])


def test_mini_batches_keep_the_order_of_the_patients(make_patients: MakePatients) -> None:
    patients = make_patients()
    assert patients.bags is not None
    order = torch.tensor([7, 2, 9, 0, 4])
    batches = Inputs(patients, TRAINS).batches(order, 2)
    assert [batch.patients.tolist() for batch in batches] == [[7, 2], [9, 0], [4]]
    for batch in batches:
        for place, patient in enumerate(batch.patients):
            assert torch.equal(batch.rows[batch.bag == place], patients.bags.rows(patient[None]))


def test_a_fold_holds_out_the_patients_it_does_not_train_on(make_patients: MakePatients) -> None:
    inputs = Inputs(make_patients(), TRAINS)
    held_out = [inputs.held_out(3, fold) for fold in (0, 1)]
    assert [[batch.patients.tolist() for batch in batches] for batches in held_out] == [
        [[8, 9, 10], [11]],
        [[0, 1, 2], [3]],
    ]


def test_indices_of_a_few_mini_batches_at_a_time_are_the_same(
    make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = torch.tensor([7, 2, 9, 0, 4, 11, 3])
    inputs = Inputs(make_patients(), TRAINS)
    together, kept = [*inputs.batches(order, 2)], [*inputs.held_out(3, 0)]
    assert inputs.held_out(3, 0) is inputs.held_out(3, 0)
    monkeypatch.setattr(inputs_module, "_INDEXED", 1)
    moved: list[int] = []
    move = Inputs._moved
    monkeypatch.setattr(Inputs, "_moved", lambda self, parts: moved.append(len(parts)) or move(self, parts))
    inputs = Inputs(make_patients(), TRAINS)
    for one, other in ((together, inputs.batches(order, 2)), (kept, inputs.held_out(3, 0))):
        for first, second in zip(one, other, strict=True):
            assert torch.equal(first.patients, second.patients) and torch.equal(first.rows, second.rows)
            assert torch.equal(first.bag, second.bag) and first.sizes == second.sizes
    assert moved == [1] * 6
    batches = inputs.batches(order, 2)
    next(iter(batches))
    assert len(moved) == 7, "indices of later mini-batches are computed when they are needed"


def test_projected_embeddings_are_computed_once(
    make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(make_patients(), TRAINS)
    first = seen_by(inputs, HeadConfig(components=4), torch.tensor([0]))
    monkeypatch.setattr("mil_toolkit.training.inputs.fit_projection", None)
    again = seen_by(inputs, HeadConfig(components=2), torch.tensor([0]))
    assert torch.equal(first.x[..., :2], again.x)


def test_metadata_are_encoded_separately_in_each_fold(make_patients: MakePatients) -> None:
    patients = make_patients()
    metadata = Inputs(patients, TRAINS).metadata
    for fold, train in enumerate(TRAINS):
        encoder = MetadataEncoder.fit(patients.metadata.iloc[train])
        expected = encoder.encode(patients.metadata).to_numpy(np.float32)
        torch.testing.assert_close(metadata[fold], torch.tensor(expected))


def test_a_column_that_a_fold_does_not_have_is_zero_in_it(make_patients: MakePatients) -> None:
    patients = make_patients()
    patients.metadata["sex"] = ["U"] * 4 + ["F", "M"] * 4
    metadata = Inputs(patients, TRAINS).metadata
    first, second = (MetadataEncoder.fit(patients.metadata.iloc[train]).columns for train in TRAINS)
    assert first == ["age", "sex F", "sex M", "sex U"] and second == ["age", "sex M"]
    assert metadata.shape == (2, 12, 4)
    assert metadata[1, :, [1, 3]].count_nonzero() == 0
    assert metadata[1, :, 2].count_nonzero() > 0


def test_patients_without_any_metadata_have_no_columns(make_patients: MakePatients) -> None:
    patients = make_patients()
    bare = Patients(patients.bags, patients.labels, patients.metadata[[]])
    assert Inputs(bare, TRAINS).metadata.shape == (2, 12, 0)


def test_without_images_there_are_no_instances(make_patients: MakePatients) -> None:
    without = Inputs(make_patients(images=False), TRAINS)
    (batch,) = without.batches(torch.tensor([5, 2]), 2)
    assert batch.patients.tolist() == [5, 2] and batch.sizes == [] and len(batch.rows) == 0
    assert without.instances(HeadConfig(), batch, FOLDS) is None
    assert without.embedding_width(HeadConfig()) == 0
    switched_off = Inputs(make_patients(), TRAINS)
    (batch,) = switched_off.batches(torch.tensor([0]), 2)
    assert switched_off.instances(HeadConfig(image_branch=False), batch, FOLDS) is None
    assert switched_off.embedding_width(HeadConfig(image_branch=False)) == 0


@pytest.mark.parametrize("class_weights", [False, True])
def test_the_logistic_start_sees_only_the_training_patients_of_the_fold(
    class_weights: bool, make_patients: MakePatients
) -> None:
    patients = make_patients()
    inputs = Inputs(patients, TRAINS)
    weight = "balanced" if class_weights else None
    for fold, train in enumerate(TRAINS):
        columns = inputs.metadata[fold].numpy()
        fitted = LogisticRegression(class_weight=weight).fit(columns[train], patients.labels[train])
        logits = columns @ inputs.linear_start(class_weights)[fold, :-1, 0].numpy()
        logits += float(inputs.linear_start(class_weights)[fold, -1, 0])
        np.testing.assert_allclose(logits, fitted.decision_function(columns), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("most", "device"), [(32, "meta"), (33, "cpu")])
def test_the_moments_of_large_cohorts_are_summed_on_the_device(
    make_patients: Callable[..., Patients], monkeypatch: pytest.MonkeyPatch, most: int, device: str
) -> None:
    """Here, of the 33 images of 12 patients."""
    used: list[str] = []

    def fold_moments(bags: Bags, trains: Sequence[np.ndarray], device: torch.device) -> Sequence[object]:
        used.append(device.type)
        return ()

    monkeypatch.setattr(inputs_module, "fold_moments", fold_moments)
    monkeypatch.setattr(inputs_module, "PART", most)
    patients = make_patients()
    assert patients.bags is not None and int(patients.bags.offsets[-1]) == 33
    assert Inputs(patients, [np.arange(6)], "meta").projections(HeadConfig(components=4)) == []
    assert used == [device]
