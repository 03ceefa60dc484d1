"""Studies of several classes, numbers and survival go on after an interrupt to the same bits."""

from pathlib import Path

import pytest
from support.commands import outcome
from support.outcomes import DECLARED, drawn_cohort
from support.paths import installed

from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.files import publish
from mil_toolkit.study import folder as folder_module
from mil_toolkit.study.tune import tune

CONFIG = StudyConfig(trials=3, folds=2, members=2, outer_folds=2, settings={"epochs": (3,), "hidden": (32,)})


@pytest.mark.parametrize("name", DECLARED)
def test_a_study_goes_on_after_an_interrupt_as_if_there_was_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("sksurv")  # for the baselines of survival
    cohort = drawn_cohort(tmp_path, DECLARED[name])
    tune(cohort, None, tmp_path / "whole", CONFIG, "cpu")
    written = list[Path]()

    def stop(path: Path, content: bytes) -> None:
        if path.suffix == ".jsonl":  # a trial ends; some are stopped, once each
            written.append(path)
            if written.count(path) == 1 and len(written) % 2 == 0:
                raise KeyboardInterrupt
        publish(path, content)

    monkeypatch.setattr(folder_module, "publish", stop)
    stops = 0
    while not (tmp_path / "stopped" / "DONE").exists():
        try:
            tune(cohort, None, tmp_path / "stopped", CONFIG, "cpu")
        except KeyboardInterrupt:
            stops += 1
    assert stops > 1
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")
