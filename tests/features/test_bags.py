"""Packed bags: rows, selection, and the refusal of empty ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.bags import Bags

every_size = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def pack(sizes: list[int]) -> tuple[Bags, list[torch.Tensor]]:
    parts = list(torch.arange(2.0 * sum(sizes)).view(-1, 2).split(sizes))
    ids = [f"P{b}" for b in range(len(sizes))]
    return Bags.pack(parts, ids, [f"{i}.png" for i in range(sum(sizes))]), parts


@given(every_size, st.data())
def test_select_returns_the_bags_in_the_given_order(sizes: list[int], data: st.DataObject) -> None:
    bags, parts = pack(sizes)
    places = data.draw(st.lists(st.sampled_from(range(len(sizes))), min_size=1, unique=True))
    chosen = bags.select([f"P{place}" for place in places])
    assert chosen.patient_ids == tuple(f"P{place}" for place in places)
    assert torch.equal(chosen.instances, torch.cat([parts[place] for place in places]))
    assert chosen.sizes.tolist() == [sizes[place] for place in places]
    assert chosen.image_names == tuple(f"{int(row[0]) // 2}.png" for row in chosen.instances)


@given(every_size)
def test_bag_of_instance_agrees_with_rows(sizes: list[int]) -> None:
    bags, _ = pack(sizes)
    assert len(bags) == len(sizes)
    for b, size in enumerate(sizes):
        rows = bags.rows(torch.tensor([b]))
        assert len(rows) == size
        assert (bags.bag_of_instance[rows] == b).all()


@given(every_size, st.data())
def test_take_rows_keeps_these_instances_of_each_bag(sizes: list[int], data: st.DataObject) -> None:
    bags, parts = pack(sizes)
    rows = [
        torch.tensor(data.draw(st.lists(st.sampled_from(range(size)), min_size=1, unique=True)))
        for size in sizes
    ]
    taken = bags.take_rows(rows)
    expected = [part[chosen] for part, chosen in zip(parts, rows, strict=True)]
    assert taken.patient_ids == bags.patient_ids
    assert torch.equal(taken.instances, torch.cat(expected))
    assert taken.sizes.tolist() == [len(part) for part in expected]
    assert taken.image_names == tuple(f"{int(row[0]) // 2}.png" for row in taken.instances)


def test_a_bag_of_which_no_rows_are_taken_is_named() -> None:
    none = torch.tensor([], dtype=torch.int64)
    with pytest.raises(DataError, match=r"patient P1 has no embedding\."):
        pack([2, 3])[0].take_rows([torch.tensor([1]), none])


def test_no_bags_have_no_rows() -> None:
    assert len(pack([2, 3])[0].rows(torch.tensor([], dtype=torch.int64))) == 0


def test_every_empty_bag_is_named() -> None:
    with pytest.raises(DataError) as caught:
        pack([0, 2, 0])
    assert caught.value.problems == ["patient P0 has no embedding.", "patient P2 has no embedding."]


def test_every_missing_patient_is_named() -> None:
    with pytest.raises(DataError) as caught:
        pack([1, 2])[0].select(["P1", "Q", "R"])
    assert caught.value.problems == ["patient Q has no embeddings.", "patient R has no embeddings."]
