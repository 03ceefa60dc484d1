"""Patients as a table of metadata and bags."""

from collections.abc import Callable

import pandas as pd
import pytest

from mil_toolkit.training.patients import Patients


@pytest.fixture(scope="session", name="X")
def _table(make_patients: Callable[..., Patients]) -> pd.DataFrame:
    """24 patients with bags of width 16; tests only read them."""
    patients = make_patients(24, width=16)
    assert patients.bags is not None
    bags = patients.bags.instances.split(patients.bags.sizes.tolist())
    return patients.metadata.assign(bag=pd.Series([bag.numpy() for bag in bags], patients.metadata.index))
