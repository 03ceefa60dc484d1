"""Fuzzing: damaged files of every format end in a right result, or in a sentence and without other damage.

The cases are the same in every run. `benchmarks/fuzz.py` draws others for as long as it is told to.
"""

import os
from pathlib import Path

import pytest
from support.fuzz_targets import TARGETS
from support.fuzzing import check_commands, fuzz, prepared
from support.studies import Tiny

CASES = int(os.environ.get("MIL_FUZZ_CASES", "0"))  # of each format; tox -e faults: 50
FEW = {"study's records": 2, "study's tables": 2, "study's database": 2}
USUAL = 4


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_end_in_a_sentence(name: str, tiny: Tiny, tmp_path: Path) -> None:
    target = TARGETS[name]
    tree = target.tree(tiny, tmp_path)
    with prepared():
        check_commands(tree, {}, target.commands)
        done = fuzz(tree, target.damage(tree.files), target.commands, CASES or FEW.get(name, USUAL))
    assert not done.failures, done.failures[0]
    assert done.cases > 1
