"""The storage of a study opens in optuna-dashboard."""

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import wait_until
from support.studies import Tiny

from mil_toolkit.study.folder import Study

pytest.importorskip("optuna_dashboard")
SCRIPT = "from optuna_dashboard._cli import main; main()"


@pytest.fixture(name="address")
def _address(tiny: Tiny, tmp_path: Path) -> Iterator[str]:
    """A dashboard on a finished study."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [f"sqlite:///{tiny.study / 'optuna.db'}", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, *argv], stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or listens(port))
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def read(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def test_the_dashboard_shows_every_search_with_its_trials(address: str, tiny: Tiny) -> None:
    found = {each["study_name"]: each for each in read(f"{address}/api/studies")["study_summaries"]}
    assert found.keys() == {"final", "repeat1-fold1", "repeat1-fold2"}
    final = read(f"{address}/api/studies/{found['final']['study_id']}")
    best = Study.open(tiny.study).final.read_best()
    values = [trial["values"][0] for trial in final["trials"] if trial["state"] == "Complete"]
    assert len(final["trials"]) == 2 and min(map(float, values)) == pytest.approx(best.value)
    for trial in final["trials"]:
        lines = (tiny.study / "epochs" / f"trial{trial['number']:04d}.jsonl").read_text().splitlines()
        assert len(trial["intermediate_values"]) == len(lines)
