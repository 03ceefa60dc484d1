"""`with_timm_names`: the tensors of a DINOv2 model of the library transformers under timm's names."""

import re

import torch
from torch import Tensor

from mil_toolkit.backbones.architecture import StateDict

_ROLES = ("query", "key", "value")
_QUERY = ".attention.attention.query."
_QKV = re.compile(r"(.*)encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)")
# Dinov2Model of transformers (models/dinov2/modeling_dinov2.py), and what timm calls the same tensors.
_NAMES = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.", r"blocks.\1.mlp.w12."),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.", r"blocks.\1.mlp.w3."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"(^|\.)layernorm\.", r"\1norm."),
)


def with_timm_names(state: StateDict) -> StateDict:
    """Rename the tensors of a DINOv2 model of transformers; return any other state dict as it is.

    Query, key and value, which timm computes at once, are joined in this order.
    """
    if not any(_QUERY in name for name in state):
        return state
    renamed: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if part := _QKV.fullmatch(name):
            prefix, block, role, kind = part.groups()
            joined.setdefault(f"{prefix}blocks.{block}.attn.qkv.{kind}", {})[role] = tensor
        else:
            renamed[_renamed(name)] = tensor
    complete = {name: roles for name, roles in joined.items() if roles.keys() == {*_ROLES}}
    return {
        **renamed,
        **{name: torch.cat([roles[role] for role in _ROLES]) for name, roles in complete.items()},
    }


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name
