"""Models of the library transformers under timm's names."""

import pytest
import torch
from support.encoder_files import randomised, transformers_state

from mil_toolkit.backbones.transformers_names import with_timm_names


def test_the_names_of_timm_come_back() -> None:
    timm = pytest.importorskip("timm")
    network = randomised(timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=28, depth=2))
    own = network.state_dict()
    for prefix in ("", "dinov2."):
        given = {f"{prefix}{name}": tensor for name, tensor in transformers_state(network).items()}
        renamed = with_timm_names(given)
        assert renamed.keys() == {f"{prefix}{name}" for name in own} | {f"{prefix}mask_token"}
        assert all(torch.equal(renamed[f"{prefix}{name}"], tensor) for name, tensor in own.items())


def test_other_names_stay() -> None:
    for state in ({"encoder.layer.0.x": torch.ones(1)}, {"layernorm.weight": torch.ones(1)}, {}):
        assert with_timm_names(state) is state


def test_a_query_without_key_and_value_is_missing() -> None:
    state = {"encoder.layer.0.attention.attention.query.weight": torch.ones(2, 2)}
    assert with_timm_names(state) == {}
