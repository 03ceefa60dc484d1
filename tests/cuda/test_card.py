"""What has to hold on a card; with small sizes the same checks run on the CPU.

`pytest -m cuda` runs them on a card. Everywhere else the card is hidden and they are deselected.
"""

from pathlib import Path

import pytest
import torch
from support.card_checks import CHECKS, Check
from support.card_data import CPU, Place

IN_PROCESSES = ("extraction", "workers")  # which benchmarks/cuda.py tries, in its own test


def assert_limits(check: Check, place: Place) -> None:
    broken = {name: limit for name, limit in check(place).items() if not limit.kept}
    assert not broken


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in IN_PROCESSES])
def test_a_check_holds_on_the_cpu(name: str, tmp_path: Path) -> None:
    """So that no line of it is untried where there is no card."""
    assert_limits(CHECKS[name], Place(CPU, True, tmp_path))


@pytest.mark.cuda
@pytest.mark.parametrize("name", CHECKS)
def test_a_check_holds_on_the_card(name: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from mil_toolkit.core.devices import pick_device

    assert_limits(CHECKS[name], Place(pick_device("cuda:0"), False, tmp_path))
