"""Small bags and poolings of three members, for the tests of poolings."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import generators
from mil_toolkit.model.poolings import POOLINGS, Pooling, pool

CONFIG = HeadConfig(hidden=8, zero_start=False, top_k=2)
WIDTH = 5
SIZES = (4, 1, 6, 2)
SEEDS = (11, 22, 33)


def pooling(name: str, seeds: Sequence[int] = SEEDS, width: int = WIDTH) -> nn.Module:
    made = POOLINGS[name](width, CONFIG, generators(seeds))
    assert isinstance(made, nn.Module)
    return made


def embeddings(groups: int = len(SEEDS), sizes: Sequence[int] = SIZES) -> Tensor:
    return torch.randn(groups, sum(sizes), WIDTH, generator=torch.Generator().manual_seed(5))


def instances(
    x: Tensor, sizes: Sequence[int] = SIZES, kept: Tensor | None = None, member_count: int = 0
) -> Instances:
    return dataclasses.replace(Instances.of(x, torch.tensor(sizes), member_count or len(x)), kept=kept)


def some_kept() -> Tensor:
    """A mask that leaves out some instances of the larger bags, different ones for each member."""
    kept = torch.ones(len(SEEDS), sum(SIZES), dtype=torch.bool)
    kept[0, [0, 2]] = kept[1, [5, 7, 8]] = kept[2, [1, 11]] = False
    return kept


def outputs(pooling: Pooling, bags: Instances) -> list[Tensor]:
    """Return the pooled bags and what the pooling predicts from instances, each with axes (K, B)."""
    pooled, terms = pool(pooling, bags)
    return [pooled, *(term for term in terms if term is not None)]


def some_scalar(pooling: Pooling, bags: Instances, member: int | slice = slice(None)) -> Tensor:
    """Return a function () of everything that a pooling computes, of all members or of one."""
    return torch.stack([part[member].square().sum() for part in outputs(pooling, bags)]).sum()
