"""Patients selected by position."""

from collections.abc import Callable

import numpy as np

from mil_toolkit.training.patients import Patients

MakePatients = Callable[..., Patients]


def test_selected_patients_keep_their_bags_labels_and_metadata(make_patients: MakePatients) -> None:
    patients = make_patients()
    taken = patients.take(np.array([5, 1]))
    assert taken.ids == ["P5", "P1"]
    assert taken.labels.tolist() == [1, 1]
    assert taken.bags is not None and taken.bags.patient_ids == ("P5", "P1")
    assert len(taken) == 2
