"""Patients whose embeddings worker processes map."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mil_toolkit.study.sharing import SharedPatients, shared_patients
from mil_toolkit.training.patients import Patients


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_embeddings_are_the_same_and_are_not_pickled(
    dtype: torch.dtype, make_patients: Callable[..., Patients]
) -> None:
    patients = make_patients(400, width=50)
    assert patients.bags is not None
    patients = replace(patients, bags=replace(patients.bags, instances=patients.bags.instances.to(dtype)))
    with shared_patients(patients) as (shared, descriptors):
        content = pickle.dumps(shared)
        assert len(content) < patients.bags.instances.nbytes / 2
        (descriptor,) = descriptors
        again: SharedPatients = pickle.loads(content)
        opened = again.map(os.dup(descriptor))
    assert opened.bags is not None  # the mapping outlives the descriptor
    torch.testing.assert_close(opened.bags.instances, patients.bags.instances, rtol=0, atol=0)
    assert opened.bags.instances.dtype == dtype
    assert opened.bags.patient_ids == patients.bags.patient_ids and opened.ids == patients.ids
    assert opened.bags.image_names == patients.bags.image_names


def test_what_one_process_writes_no_other_one_sees(make_patients: Callable[..., Patients]) -> None:
    with shared_patients(make_patients()) as (shared, descriptors):
        one, other = (shared.map(os.dup(descriptors[0])).bags for _ in range(2))
        assert one is not None and other is not None
        before = other.instances.clone()
        one.instances.zero_()
        assert torch.equal(other.instances, before)


def test_patients_without_images_are_pickled_as_they_are(make_patients: Callable[..., Patients]) -> None:
    patients = make_patients(images=False)
    with shared_patients(patients) as (shared, descriptors):
        assert not descriptors and shared.map() is patients


def test_no_file_is_left_open(make_patients: Callable[..., Patients]) -> None:
    with shared_patients(make_patients()) as (_, descriptors):
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])
