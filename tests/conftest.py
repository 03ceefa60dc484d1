"""Small cohorts of random embeddings that several tests train on."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from mil_toolkit.bags import Bags
from mil_toolkit.inputs import Patients

torch.set_num_threads(1)  # what is this small waits longer for a second thread than it gains from it


def make_patients(count: int = 12, width: int = 6, seed: int = 0, images: bool = True) -> Patients:
    """Patients with alternating labels, bags of 1 to 5 embeddings and two metadata columns."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    ids = [f"P{i}" for i in range(count)]
    sizes = [1 + i % 5 for i in range(count)]
    bags = [
        torch.from_numpy(random.normal(label, 1.5, (n, width))).float()
        for n, label in zip(sizes, labels, strict=True)
    ]
    sexes = random.choice(["F", "M"], count)
    metadata = pd.DataFrame({"age": random.normal(60, 10, count), "sex": sexes.astype(object)}, index=ids)
    names = [f"{i}.png" for i in range(sum(sizes))]
    return Patients(Bags.pack(bags, ids, names) if images else None, labels, metadata)


@pytest.fixture(name="make_patients")
def _make_patients() -> Callable[..., Patients]:
    return make_patients
