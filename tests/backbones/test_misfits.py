"""The lines of an error about a checkpoint of another network."""

import torch

from mil_toolkit.backbones.misfits import LINES, misfits


def tensors(names: str, *shape: int) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name in names.split()}


def test_nothing_is_said_about_a_checkpoint_that_fits() -> None:
    assert misfits(tensors("a b", 2), tensors("b a", 2)) == []


def test_a_few_tensors_are_all_listed() -> None:
    own = {**tensors("a.weight", 2, 3), **tensors("b.weight", 4)}
    given = {**tensors("a.weight", 3, 3), **tensors("c", 1)}
    assert misfits(own, given) == [
        "a.weight: (3, 3) instead of (2, 3)",
        "missing: b.weight",
        "unexpected: c",
    ]


def test_the_closest_name_of_the_same_shape_is_shown() -> None:
    own = tensors("blocks.0.attn.qkv.weight", 6, 2)
    given = {
        **tensors("net.blocks.0.attn.qkv.bias blocks.0.attn.qkv.kernel", 6),
        **tensors("head.weight", 6, 2),
    }
    assert misfits(own, given)[0] == "missing: blocks.0.attn.qkv.weight"
    given |= tensors("net.blocks.0.attn.qkv.weight", 6, 2)
    assert misfits(own, given)[0] == (
        "missing: blocks.0.attn.qkv.weight (closest: net.blocks.0.attn.qkv.weight)"
    )


def test_many_tensors_take_ten_lines() -> None:
    names = " ".join(f"layer{number}.weight" for number in range(500))
    for own, given in (
        (tensors(names, 2), {}),
        ({}, tensors(names, 2)),
        (tensors(names, 2), tensors(names.replace("layer", "block"), 2)),
        ({**tensors(names, 2), **tensors("a b c d", 1)}, {**tensors(names, 3), **tensors("e f g h", 1)}),
    ):
        lines = misfits(own, given)
        assert LINES - 1 <= len(lines) <= LINES
        assert any(line.endswith(" more") for line in lines)
        assert sum(
            int(line.split()[-2].replace(",", "")) if line.endswith(" more") else 1 for line in lines
        ) in (
            500,
            1000,
            508,
        )
