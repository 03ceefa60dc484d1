"""What has to hold on a card; with small sizes the same checks run on the CPU.

`pytest -m cuda` runs them on a card. Everywhere else the card is hidden and they are deselected.
"""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import pytest_configure
from support.card_checks import CHECKS
from support.card_data import CPU, Place
from support.card_figures import FIGURES
from support.card_limits import Check, Limit
from support.paths import ROOT

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


def test_the_script_runs_to_its_end_on_a_cpu() -> None:
    """The sections that are not checked above; a defect of one would not stop the others."""
    names = [*IN_PROCESSES, *FIGURES]
    script = str(ROOT / "benchmarks" / "cuda.py")
    argv = [sys.executable, script, "--device", "cpu", "--small", "--seconds", "9999", "--sections", *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["section"] for line in lines] == names
    assert [line for line in lines if not line["passed"]] == [] and done.returncode == 0
    for line in lines:
        numbers = [figure for figure in line["figures"].values() if not isinstance(figure, dict)]
        assert line["device"] == "CPU" and all(number > 0 for number in numbers)


def test_a_section_that_fails_does_not_lose_the_others(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "cuda.py"))

    def defect(place: Place) -> dict[str, float]:
        raise ZeroDivisionError(place.name)

    line = script["_run"]("name", defect, Place(CPU, True, tmp_path))
    assert not line["passed"] and "ZeroDivisionError: CPU" in line["error"]
    broken = script["_with_limits"](lambda place: {"figure": Limit(2.0, most=1.0)})
    assert not script["_run"]("name", broken, Place(CPU, True, tmp_path))["passed"]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (Limit(1, least=1), True),
        (Limit(1, most=1), True),
        (Limit(0.9, least=1), False),
        (Limit(1.1, most=1), False),
        (Limit(float("nan"), least=1), False),
        (Limit(float("nan"), most=1), False),
    ],
)
def test_a_limit_is_kept_by_numbers_within_it_only(limit: Limit, kept: bool) -> None:
    assert limit.kept is kept


@pytest.mark.parametrize(("expression", "visible"), [("not cuda", ""), ("", ""), ("cuda", "7")])
def test_cards_are_hidden_unless_their_tests_are_asked_for(
    expression: str, visible: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `-m cuda`; by default these tests are deselected."""
    assert pytestconfig.getoption("markexpr") == "not slow and not cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    pytest_configure(SimpleNamespace(getoption=lambda name: expression))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
