"""The tiny study with its ablation."""

import shutil

import pytest
from support.studies import Tiny

from mil_toolkit.study.ablation import Ablation, ablate


@pytest.fixture(scope="package", name="ablated")
def _ablated(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    """The ablation of a copy of the tiny study, with all variants; tests only read it."""
    study = tmp_path_factory.mktemp("ablated") / "study"
    shutil.copytree(tiny.study, study)
    return ablate(tiny.cohort, [tiny.cache], study, device="cpu")
