"""A fitted head, applied to patients it was not fitted on."""

from collections.abc import Callable

import numpy as np

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

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
