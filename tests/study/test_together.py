"""mil-tune --together: only the order in which trials are proposed changes."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.commands import Command, outcome
from support.studies import Tiny

from mil_toolkit.config.options import study_options
from mil_toolkit.config.run import RunConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.search.samplers import PRUNERS
from mil_toolkit.study import trial as trial_module
from mil_toolkit.study.tune import tune
from mil_toolkit.training.curves import Curves
from mil_toolkit.training.together import TrialRequest, run_trials

METADATA: dict[str, Any] = {"epochs": (7,), "image_branch": (False,)}
CONFIG = StudyConfig(trials=11, folds=2, outer_folds=0, members=1, settings=METADATA, together=4)


def trials(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trials.csv", dtype=str)


def test_the_same_configurations_have_the_same_results(tiny: Tiny, tmp_path: Path) -> None:
    """A random search proposes them whatever the results of others are: to the bit, with images."""
    settings = {"epochs": (3,), "hidden": (32,)}
    config = replace(CONFIG, trials=5, sampler="random", pruner="none", settings=settings)
    for name, together in (("one", 1), ("three", 3)):
        tune(tiny.cohort, tiny.cache, tmp_path / name, replace(config, together=together), "cpu")
    one, three = trials(tmp_path / "one"), trials(tmp_path / "three")
    assert one.equals(three) and len(one) == 5 and set(one["state"]) == {"COMPLETE"}
    for path in sorted((tmp_path / "one" / "epochs").glob("*.jsonl")):
        assert path.read_bytes() == (tmp_path / "three" / "epochs" / path.name).read_bytes()
    best = [json.loads((tmp_path / name / "best.json").read_text()) for name in ("one", "three")]
    assert best[0] == best[1]


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name != "none"])
def test_a_study_goes_on_after_interrupts_as_if_there_were_none(
    pruner: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one trial of every round."""
    config = replace(CONFIG, trials=14, pruner=pruner)
    tune(tiny.cohort, None, tmp_path / "whole", config, "cpu")
    assert set(trials(tmp_path / "whole")["state"]) == {"COMPLETE", "PRUNED"}
    stopped = set[tuple[int, ...]]()

    def stop(inputs: Any, requests: Sequence[TrialRequest], *rest: Any) -> Any:
        return run_trials(inputs, [stopping(request) for request in requests], *rest)

    def stopping(request: TrialRequest) -> TrialRequest:
        def on_epoch(curves: Curves, value: float) -> None:
            assert request.on_epoch is not None
            request.on_epoch(curves, value)
            stops = request.seed[-1] % 3 == 1 and tuple(request.seed) not in stopped
            if stops and len(curves.logits) == 1 + len(stopped) % 3:
                stopped.add(tuple(request.seed))
                raise KeyboardInterrupt

        return replace(request, on_epoch=on_epoch)

    monkeypatch.setattr(trial_module, "run_trials", stop)
    while not (tmp_path / "stopped" / "DONE").exists():
        with contextlib.suppress(KeyboardInterrupt):
            tune(tiny.cohort, None, tmp_path / "stopped", config, "cpu")
    assert len(stopped) > 3
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_processes_side_by_side_give_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    config = replace(CONFIG, trials=5, outer_folds=2, settings={**METADATA, "epochs": (2,)})
    for name, workers in (("one", 1), ("two", 2)):
        tune(tiny.cohort, None, tmp_path / name, config, "cpu", RunConfig(workers=workers))
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


def test_the_option_belongs_to_the_study(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    options = ("tune", *tiny_options, "--outer-folds", 0, "--trials", 3, "--study", tmp_path / "study")
    done = command(*options, "--together", 2, "--json")
    assert done.code == 0 and done.json["trials"] == 3
    assert json.loads((tmp_path / "study" / "config.json").read_text())["study"]["together"] == 2
    before = outcome(tmp_path / "study")
    refused = command(*options)
    assert refused.code == 3 and "study.together: 2 there, 1 now" in refused.err
    assert command(*options, "--together", 2).code == 0 and outcome(tmp_path / "study") == before
    assert study_options(replace(StudyConfig(), together=2)) == ["--together", "2"]


@pytest.mark.parametrize("value", [0, -3, 1001, "two"])
def test_a_number_that_cannot_work_is_refused(
    value: object, tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    done = command("tune", *tiny_options, "--study", tmp_path / "study", "--together", value)
    assert done.code == 2 and "--together" in done.err and not (tmp_path / "study").exists()


def test_a_shared_storage_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    how = RunConfig(storage="postgresql://nobody@localhost/none")
    with pytest.raises(UsageError, match="--together 4 cannot be combined with --storage"):
        tune(tiny.cohort, None, tmp_path / "study", CONFIG, "cpu", how)
    assert not (tmp_path / "study").exists()
