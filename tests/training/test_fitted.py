"""A fitted head, applied to patients it was not fitted on."""

import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from torch import Tensor

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.poolings import POOLINGS
from mil_toolkit.training import fitted
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit
from mil_toolkit.training.seen import Seen

MakePatients = Callable[..., Patients]
CONFIG = HeadConfig(hidden=8, metadata_hidden=6, batch_size=4, components=4)


def test_a_head_without_images_has_no_projection_and_no_attention(make_patients: MakePatients) -> None:
    head = refit(make_patients(images=False), CONFIG, epoch=1, member_count=1, seed=(5,))
    assert head.projection is None
    assert head.apply(make_patients(images=False)).attention is None


def test_the_prediction_of_a_patient_does_not_depend_on_the_other_patients(
    make_patients: MakePatients,
) -> None:
    head = refit(make_patients(), CONFIG, epoch=1, member_count=2, seed=(5,))
    new = make_patients(count=40, seed=9)
    together = head.apply(new).logits
    for place in (0, 33):
        alone = head.apply(new.take(np.array([place]))).logits
        np.testing.assert_allclose(alone[:, 0], together[:, place], rtol=1e-4, atol=1e-5)


@pytest.fixture(name="without_collector")
def _without_collector() -> Iterator[None]:
    """Only reference counts release memory: the collector of cycles can be late by any number of batches."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_one_batch_of_projected_embeddings_is_in_memory(
    pooling: str, make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, pooling=pooling)
    head = refit(make_patients(), config, epoch=1, member_count=2, seed=(5,))
    project, projected = FittedHead._instances, list[weakref.ref[Tensor]]()

    def watched(self: FittedHead, patients: Patients, places: Tensor) -> Instances | None:
        assert all(x() is None for x in projected), "embeddings of an earlier batch"
        batch = project(self, patients, places)
        assert batch is not None
        projected.append(weakref.ref(batch.x))
        return batch

    monkeypatch.setattr(FittedHead, "_instances", watched)
    monkeypatch.setattr(fitted, "_BAGS_PER_BATCH", 4)
    head.apply(make_patients())
    assert len(projected) == 3 and all(x() is None for x in projected)


@pytest.mark.parametrize("most", [1, 7, 10])
def test_large_bags_are_applied_a_few_at_a_time_and_projected_in_parts(
    most: int, make_patients: MakePatients, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = refit(make_patients(), CONFIG, epoch=1, member_count=2, seed=(5,))
    patients = make_patients(count=40, seed=9)  # with bags of 1 to 5 embeddings
    expected = head.apply(patients)
    rows, batches = list[int](), list[int]()
    read, pack = Seen.read_for_prediction, Instances.of

    def read_some(self: Seen, chosen: Tensor) -> Tensor:
        rows.append(len(chosen))
        return read(self, chosen)

    def pack_some(x: Tensor, sizes: Tensor, member_count: int) -> Instances:
        batches.append(int(sizes.sum()) if len(sizes) > 1 else 0)
        return pack(x, sizes, member_count)

    monkeypatch.setattr(Seen, "read_for_prediction", read_some)
    monkeypatch.setattr(Instances, "of", pack_some)
    monkeypatch.setattr(fitted, "_INSTANCES_PER_BATCH", most)
    monkeypatch.setattr(fitted, "PART", 3)
    output = head.apply(patients)
    np.testing.assert_allclose(output.logits, expected.logits, rtol=1e-5, atol=1e-6)
    assert expected.attention is not None and output.attention is not None
    np.testing.assert_allclose(output.attention, expected.attention, rtol=1e-5, atol=1e-6)
    assert max(rows) == 3 and max(batches) <= most
