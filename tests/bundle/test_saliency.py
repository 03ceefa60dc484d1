"""Saliency of a bundle: the gradient of the bag's output passes through pooling and attention."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.one_patient import with_outcome
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.saliency import (
    GRADIENT,
    OCCLUSION,
    BagOutput,
    Saliency,
    decision_scores,
    decision_weights,
)
from mil_toolkit.core.errors import UsageError
from mil_toolkit.evaluation.ordered_classes import ordered_log_probabilities
from mil_toolkit.features.bags import Bags
from mil_toolkit.model.head import MILModel
from mil_toolkit.training.patients import Patients


@pytest.fixture(name="bundle", scope="module")
def _bundle(tiny: Tiny) -> ModelBundle:
    """The tiny bundle with weights large enough to differ from mean pooling."""
    bundle, generator = ModelBundle.load(tiny.bundle), torch.Generator().manual_seed(1)
    for weight in bundle.head.model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) / 3
    return bundle


@pytest.fixture(name="patients")
def _patients(tiny: Tiny, bundle: ModelBundle) -> Patients:
    cohort = tiny.cohort.select([tiny.cohort.patient_ids[0]])
    return Patients.of(cohort, tiny.cache, [bundle.about.views[0].name])


def with_bag(patients: Patients, embeddings: torch.Tensor) -> Patients:
    assert isinstance(patients.bags, Bags)
    return replace(patients, bags=patients.bags.with_embeddings(embeddings))


def test_the_output_and_its_gradient_are_those_of_the_head(bundle: ModelBundle, patients: Patients) -> None:
    output = BagOutput.of(bundle.head, patients, [1.0])
    logit = bundle.head.apply(patients).logits.mean(0)[0]
    assert float(output(output.embeddings).detach()) == pytest.approx(float(logit), rel=1e-5)
    gradient = output.gradient()
    assert gradient.shape == output.embeddings.shape
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(gradient.shape, generator=generator)
    step *= 0.002 * output.embeddings.norm() / step.norm()
    rise = output(output.embeddings + step) - output(output.embeddings - step)
    assert float(rise.detach()) == pytest.approx(2 * float((gradient * step).sum()), rel=0.05, abs=1e-4)
    negative = BagOutput.of(bundle.head, patients, [-1.0])
    assert torch.allclose(negative.gradient(), -gradient)


def test_a_replaced_image_gives_the_output_of_the_changed_bag(
    bundle: ModelBundle, patients: Patients
) -> None:
    output = BagOutput.of(bundle.head, patients, [1.0])
    others = torch.randn(2, output.embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    found = output.replaced(1, slice(0, others.shape[1]), others)
    for number, other in zip(found, others, strict=True):
        embeddings = output.embeddings.clone()
        embeddings[1] = other
        expected = bundle.head.apply(with_bag(patients, embeddings)).logits.mean(0)[0]
        assert number == pytest.approx(float(expected), rel=1e-4)


def test_the_explained_number_speaks_for_the_prediction(bundle: ModelBundle) -> None:
    assert decision_weights(bundle, 1) == [1.0] and decision_weights(bundle, 0) == [-1.0]


def test_the_explained_number_of_ordered_classes_is_a_log_probability(
    bundle: ModelBundle, patients: Patients
) -> None:
    ordered = with_outcome(bundle, "ordered", "late")
    logits = ordered.head.apply(patients).logits.mean(0)[0]
    for label, expected in enumerate(ordered_log_probabilities(logits)):
        output = BagOutput.of(ordered.head, patients, decision_weights(ordered, label))
        output = replace(output, scores=decision_scores(ordered, label))
        assert float(output(output.embeddings)) == pytest.approx(float(expected), rel=1e-4)


def test_a_model_that_does_not_look_at_images_has_no_maps(tiny: Tiny, bundle: ModelBundle) -> None:
    head = bundle.head
    model = MILModel(
        replace(head.model.config, image_branch=False), 0, len(head.encoder.columns), [torch.Generator()]
    )
    blind = replace(bundle, head=replace(head, model=model, projection=None))
    with pytest.raises(UsageError, match="this model does not look at images"):
        Saliency.of(blind, tiny.cohort, [None])


def test_both_methods_return_maps_of_the_images_as_the_network_sees_them(
    tiny: Tiny, bundle: ModelBundle, patients: Patients
) -> None:
    saliency = Saliency.of(bundle, tiny.cohort, [None])
    assert patients.bags is not None
    names = patients.bags.image_names[:1]
    by_gradient = saliency.images(patients, 1, names)[names[0]]
    assert by_gradient.method == GRADIENT and by_gradient.pixels.shape == (32, 32, 3)
    assert by_gradient.map.shape == (2, 2)  # of layer3; layer4 has a single place at 32 pixels
    hidden = replace(saliency, method=OCCLUSION).images(patients, 1, names)[names[0]]
    assert hidden.method == OCCLUSION and hidden.map.shape == (32, 32)
    assert np.isfinite(hidden.map).all() and (hidden.map >= 0).all()
