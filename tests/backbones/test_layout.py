"""Names of tensors: prefixes, heads, and which of several copies counts."""

import pytest
import torch
from torch import Tensor

from mil_toolkit.backbones.architecture import unchanged
from mil_toolkit.backbones.layout import HEADS, fit
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.core.errors import DataError

State = dict[str, Tensor]
OWN: State = {"conv.weight": torch.zeros(2, 2), "norm.weight": torch.zeros(2), "norm.bias": torch.zeros(2)}


def state(prefix: str = "", value: float = 1.0) -> State:
    return {f"{prefix}{name}": torch.full_like(tensor, value) for name, tensor in OWN.items()}


def fitted(given: State, classifier: tuple[str, ...] = ()) -> tuple[State, Reading]:
    found = fit(given, OWN, classifier, unchanged)
    return dict(found.tensors), found.reading


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "encoder.", "a.b.c.", "module.model.", "norm."]
)
def test_a_prefix_is_taken_off(prefix: str) -> None:
    tensors, reading = fitted(state(prefix))
    assert tensors.keys() == OWN.keys()
    assert reading == Reading(prefix=prefix)


def test_nothing_is_taken_off_where_the_names_fit_as_they_are() -> None:
    """A second copy below a prefix is then something unexpected."""
    tensors, reading = fitted({**state(value=1), **state("module.", 2)})
    assert reading == Reading() and tensors["norm.bias"][0] == 1
    assert "module.conv.weight" in tensors


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_left_out_beside_and_below_the_prefix(head: str) -> None:
    extra = {f"{head}.weight": torch.ones(1), f"{head}.layer.bias": torch.ones(1)}
    tensors, reading = fitted({**state(), **extra})
    assert tensors.keys() == OWN.keys() and reading == Reading(dropped={head: 2})
    below = {f"net.{name}": tensor for name, tensor in extra.items()}
    tensors, reading = fitted({**state("net."), **below, **extra})
    assert tensors.keys() == OWN.keys()
    assert reading == Reading(prefix="net.", dropped={head: 4})


def test_what_is_not_a_head_stays_to_be_refused() -> None:
    found = fit({**state(), "neck.weight": torch.ones(1)}, OWN, (), unchanged)
    assert found.unexpected == ("neck.weight",) and "neck.weight" in found.tensors
    found = fit({**state("a."), "a.neck.weight": torch.ones(1)}, OWN, (), unchanged)
    assert found.unexpected == ("neck.weight",)


def test_the_classifier_of_the_network_is_left_out() -> None:
    extra = {"last.weight": torch.ones(1)}
    tensors, reading = fitted({**state(), **extra}, ("last.",))
    assert tensors.keys() == OWN.keys() and reading == Reading(dropped={"last": 1})


@pytest.mark.parametrize(("one", "other"), [("teacher.backbone.", "student.backbone."), ("ema.", "online.")])
def test_a_teacher_or_averaged_weights_count_before_others(one: str, other: str) -> None:
    for given in ({**state(one, 1), **state(other, 2)}, {**state(other, 2), **state(one, 1)}):
        tensors, reading = fitted(given)
        assert tensors["norm.bias"][0] == 1
        assert reading == Reading(prefix=one, dropped={other.split(".")[0]: 3})


def test_several_copies_without_a_preference_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"several times, with the prefixes encoder_[kq]\., encoder_[kq]\.\. Save"
    ):
        fitted({**state("encoder_q."), **state("encoder_k.")})


def test_a_prefix_stays_where_tensors_are_missing() -> None:
    """The names that are nearest are compared with the network's."""
    given = state("module.")
    del given["module.conv.weight"]
    tensors, reading = fitted(given)
    assert tensors.keys() == {"norm.weight", "norm.bias"} and reading.prefix == "module."
    tensors, _ = fitted({"x.y": torch.ones(1)})
    assert tensors.keys() == {"x.y"}


def test_counters_of_batches_are_ignored() -> None:
    tensors, reading = fitted({**state(), "norm.num_batches_tracked": torch.tensor(1)})
    assert tensors.keys() == OWN.keys() and reading == Reading()


def test_a_reading_is_said_in_words() -> None:
    assert Reading().says == ""
    reading = Reading(("model", "teacher"), "a.", {"head": 2, "x": 1}, ("pos_embed",))
    assert reading.says == (
        "read the tensors under model/teacher; took the prefix a. off their names; left out head (2 tensors),"
        " x (1 tensor); resampled pos_embed for the size of the images"
    )
