"""Checkpoints of vision transformers with random tensors, in the forms in which authors publish them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def randomised(network: nn.Module, seed: int = 3) -> nn.Module:
    """Give every tensor of a network random values, so that none is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def facebook_state(network: nn.Module) -> State:
    """A vision transformer of timm under the names of facebookresearch/dinov2, which has a mask token.

    The position of the class token is added to the token in timm where there are register tokens.
    """
    state = dict(network.state_dict())
    width = state["cls_token"].shape[-1]
    swiglu = "Packed" in type(network.get_submodule("blocks.0.mlp")).__name__ or _is_gated(state)
    if "reg_token" in state:
        position = torch.linspace(-0.1, 0.1, width).view(1, 1, width)
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - position
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    if swiglu:
        state = {_gated_name(name): tensor for name, tensor in state.items()}
    return {"mask_token": torch.full((1, width), 0.5), **state}


def _is_gated(state: Mapping[str, Tensor]) -> bool:
    return state["blocks.0.mlp.fc1.weight"].shape[0] == 2 * state["blocks.0.mlp.fc2.weight"].shape[1]


def _gated_name(name: str) -> str:
    return name.replace("mlp.fc1.", "mlp.w12.").replace("mlp.fc2.", "mlp.w3.")


def dinobloom_file(network: nn.Module) -> dict[str, State]:
    """The file of DinoBloom on Zenodo: a teacher with projection heads."""
    backbone = {f"backbone.{name}": tensor for name, tensor in facebook_state(network).items()}
    heads = {
        "dino_head.mlp.0.weight": torch.ones(4, 4),
        "dino_head.last_layer.weight_g": torch.ones(4, 1),
        "dino_head.last_layer.weight_v": torch.ones(4, 4),
        "ibot_head.mlp.0.weight": torch.ones(4, 4),
    }
    return {"teacher": {**backbone, **heads}}


def lightning_file(network: nn.Module) -> dict[str, object]:
    """A .ckpt of Lightning around a model with a head and a loss."""
    encoder = {f"model.encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    others = {"model.head.weight": torch.ones(2, 3), "criterion.weight": torch.ones(2)}
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**encoder, **others},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}],
        "hyper_parameters": {"lr": 1e-3},
    }


def transformers_state(network: nn.Module) -> State:
    """A vision transformer of timm under the names of Dinov2Model of the library transformers."""
    state: State = {}
    for name, tensor in network.state_dict().items():
        if ".attn.qkv." in name:
            _, block, _, _, kind = name.split(".")
            for role, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[f"encoder.layer.{block}.attention.attention.{role}.{kind}"] = part
        else:
            state[_transformers_name(name)] = tensor
    return {"embeddings.mask_token": torch.ones(1, state["embeddings.cls_token"].shape[-1]), **state}


def _transformers_name(name: str) -> str:
    if name == "cls_token":
        return "embeddings.cls_token"
    if name == "pos_embed":
        return "embeddings.position_embeddings"
    if name.startswith("norm."):
        return f"layernorm.{name.removeprefix('norm.')}"
    name = name.replace("patch_embed.proj.", "embeddings.patch_embeddings.projection.")
    name = name.replace(".attn.proj.", ".attention.output.dense.").replace("blocks.", "encoder.layer.")
    for number in "12":
        name = name.replace(f".ls{number}.gamma", f".layer_scale{number}.lambda1")
    return name
