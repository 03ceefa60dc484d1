"""The benchmark of noise: small sets whose outcome says nothing, of all kinds, scored by nested folds."""

import runpy
from collections.abc import Callable

import numpy as np
import pytest
from support.paths import ROOT, installed

from mil_toolkit.outcomes.kinds import KINDS


@pytest.fixture(scope="module", name="benchmark")
def _benchmark() -> dict[str, Callable[..., object]]:
    """Return what benchmarks/outcomes.py defines."""
    installed("sksurv")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # where its helpers are
        return runpy.run_path(str(ROOT / "benchmarks" / "outcomes.py"))


def test_every_kind_has_a_score_by_chance(benchmark: dict[str, dict[str, object]]) -> None:
    assert benchmark["CHANCE"].keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_scored_near_chance(kind: str, benchmark: dict[str, Callable[..., object]]) -> None:
    """Of two sets each; benchmarks/outcomes.py --noise scores 20 and compares them with chance."""
    rows = list(benchmark["noise_scores"](kind, 2, epochs=2))  # type: ignore[call-overload]
    assert [row.metric for row in rows] == list(benchmark["CHANCE"][kind])  # type: ignore[index]
    for row in rows:
        assert row.sets == 2 and np.isfinite([row.mean, row.error]).all()
        assert abs(row.mean - row.chance) < 0.35  # 60 patients: a single score has an error of about 0.08
