"""The variants of an ablation: their configurations and equal bags."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.features.bags import Bags
from mil_toolkit.study.variants import thin


@given(st.lists(st.integers(3, 9), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 99))
def test_thin_bags_hold_distinct_instances_of_their_patient(sizes: list[int], count: int, seed: int) -> None:
    instances = [
        torch.full((size, 2), bag) + torch.arange(size)[:, None] / 10 for bag, size in enumerate(sizes)
    ]
    names = [f"{bag}/{place}" for bag, size in enumerate(sizes) for place in range(size)]
    bags = Bags.pack(instances, [f"P{bag}" for bag in range(len(sizes))], names)
    thinned = thin(bags, count, np.random.default_rng(seed))
    assert thinned.sizes.tolist() == [count] * len(sizes) and thinned.patient_ids == bags.patient_ids
    assert len(set(thinned.image_names)) == count * len(sizes)
    for row, name in zip(thinned.instances, thinned.image_names, strict=True):
        assert torch.equal(row, bags.instances[names.index(name)])
    owners = [int(name.partition("/")[0]) for name in thinned.image_names]
    assert owners == thinned.bag_of_instance.tolist()
    smallest = thin(bags, min(sizes), np.random.default_rng(seed))
    for bag in np.flatnonzero(np.array(sizes) == min(sizes)):  # the whole bag, in its order
        assert torch.equal(smallest.instances[smallest.bag_of_instance == bag], instances[bag])
