"""Weights & Biases, offline: the files of its runs hold what mil-tune logs."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.commands import Command
from support.paths import ROOT

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.tunable import tunables

pytest.importorskip("wandb")
HEADER, BLOCK = 7, 32768  # of the log format of LevelDB, which these files have


def records(path: Path) -> Iterator[Any]:
    """Read the protocol buffers in a run's file."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + HEADER])
        parts += content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # whole, or the last of several parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def read_run(path: Path) -> dict[str, Any]:
    """Read the name, configuration, steps and summary of a run."""
    run: dict[str, Any] = {"config": {}, "steps": [], "summary": {}}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run |= {"name": record.run.display_name, "group": record.run.run_group}
            run["config"] |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
        elif kind == "history":
            run["steps"].append(
                {
                    each.key or "/".join(each.nested_key): json.loads(each.value_json)
                    for each in record.history.item
                }
            )
        elif kind == "summary":
            for each in record.summary.update:
                run["summary"]["/".join(each.nested_key) or each.key] = json.loads(each.value_json)
    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_study_is_logged_without_a_network(
    tiny_options: Sequence[object], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("sys.argv", ["mil-tune", "--storage", "postgresql://me:hunter2@host/db"])
    done = command(
        "tune",
        *tiny_options,
        "--outer-folds",
        0,
        "--study",
        tmp_path / "logged",
        "--tracker",
        "wandb",
        "--json",
    )
    assert done.code == 0, done.err
    assert done.json["trials"] == 2  # wandb itself says nothing on stdout
    files = sorted((tmp_path / "logged" / "wandb").glob("offline-run-*/*.wandb"))
    runs = {run["name"]: run for run in map(read_run, files)}
    assert runs.keys() == {"logged/final/0", "logged/final/1", "logged/scores"}
    assert {run["group"] for run in runs.values()} == {"logged"}
    for number in (0, 1):
        run = runs[f"logged/final/{number}"]
        assert run["config"].keys() >= tunables(HeadConfig).keys() and run["config"]["hidden"] == 32
        lines = (tmp_path / "logged" / "epochs" / f"trial{number:04d}.jsonl").read_text().splitlines()
        assert len(run["steps"]) == len(lines)
        for step, line in zip(run["steps"], map(json.loads, lines), strict=True):
            for part in ("training", "validation"):
                for metric in ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc"):
                    assert step[f"{part}/{metric}"] == pytest.approx(line[f"{part}_{metric}"])
    scores, description = runs["logged/scores"], json.loads((tmp_path / "logged" / "config.json").read_text())
    assert (
        scores["config"]["study"] == description["study"]
        and scores["config"]["cohort"] == description["cohort"]
    )
    assert scores["summary"]["inner"]["auc"]["value"] == done.json["inner"]["auc"]["value"]
    for path in (tmp_path / "logged").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


def test_without_a_login_it_fails_before_anything_is_trained(
    tiny_options: Sequence[object], tmp_path: Path
) -> None:
    """In a separate process, since wandb reads the environment only once."""
    script = "import sys; from mil_toolkit.cli.tune import main; sys.exit(main())"
    argv = [*map(str, tiny_options), "--study", str(tmp_path / "study"), "--tracker", "wandb"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 2 and "wandb login" in done.stderr and "WANDB_MODE=offline" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.rglob("*.jsonl"))
