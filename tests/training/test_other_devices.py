"""Training on a pretended device: nothing stays on the CPU, and the results are those of the CPU."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from support.paths import ROOT

from mil_toolkit.config.head import POOLING_NAMES

Figures = Mapping[str, float]


@pytest.fixture(scope="module", name="figures")
def _figures() -> Figures:
    """Return what support/pretended_checks.py prints, in a process: a backend cannot be unregistered."""
    script = ROOT / "tests" / "support" / "pretended_checks.py"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures: Figures = json.loads(done.stdout)
    return figures


def test_the_pretended_device_refuses_mixtures_as_a_card_does(figures: Figures) -> None:
    """Sums, products and masks."""
    assert figures["mixtures"] == 3


@pytest.mark.parametrize("pooling", POOLING_NAMES)
def test_a_search_follows_the_one_on_the_cpu(figures: Figures, pooling: str) -> None:
    """Trial, members, attention and refit, with dropout of every kind: the CPU draws for both."""
    assert figures[pooling] < 1e-5


def test_trials_in_one_population_follow_the_same_trials_alone_on_the_cpu(figures: Figures) -> None:
    assert figures["together"] < 1e-5


def test_moments_on_a_device_are_those_of_the_cpu(figures: Figures) -> None:
    assert figures["moments"] < 1e-6


def test_embeddings_on_a_device_are_those_of_the_cpu(figures: Figures) -> None:
    assert figures["embedding"] < 1e-2


def test_fine_tuning_on_a_device_follows_the_cpu(figures: Figures) -> None:
    assert figures["step"] < 1e-3 and figures["prediction"] < 1e-2


def test_fine_tuning_on_a_device_resumes_with_the_same_bits(figures: Figures) -> None:
    """Also in the memory format of the optimiser's moments, which decides about the order of sums on CUDA."""
    assert figures["resumed"] == 0
    assert figures["formats"] == 0
