"""Studies of several classes, numbers and survival go on after an interrupt to the same bits."""

from pathlib import Path

import pytest
from support.commands import outcome
from support.interrupts import interrupts_until_done
from support.outcomes import DECLARED, drawn_cohort
from support.paths import installed

from mil_toolkit.config.study import StudyConfig
from mil_toolkit.study.tune import tune

CONFIG = StudyConfig(trials=3, folds=2, members=2, outer_folds=2, settings={"epochs": (3,), "hidden": (32,)})


@pytest.mark.parametrize("name", DECLARED)
def test_a_study_goes_on_after_an_interrupt_as_if_there_was_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("sksurv")  # for the baselines of survival
    cohort = drawn_cohort(tmp_path, DECLARED[name])
    tune(cohort, None, tmp_path / "whole", CONFIG, "cpu")
    stopped = tmp_path / "stopped"
    stops = interrupts_until_done(lambda: tune(cohort, None, stopped, CONFIG, "cpu"), stopped, monkeypatch)
    assert stops > 1
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")
