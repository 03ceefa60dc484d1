"""What several test files share and conftest.py hands out: a tiny cohort, and what a command left."""

import configparser
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mil_toolkit.cohort import Cohort, read_cohort
from mil_toolkit.errors import DataError
from mil_toolkit.features import FeatureCache

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    path.stem for path in (ROOT / "mil_toolkit" / "cli").glob("[!_]*.py") if path.stem != "command"
)


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and all that it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What --json printed, which is the whole of stdout."""
        return json.loads(self.out)


Command = Callable[..., Done]


@dataclass(frozen=True)
class Tiny:
    """A synthetic cohort with its features, a finished study and its bundle; tests only read them.

    folder holds cohort/, cache/ and studies/, and is where commands find the cache by themselves
    """

    folder: Path
    cohort_toml: Path
    features: Path
    study: Path

    @property
    def bundle(self) -> Path:
        """The folder that mil-fit wrote."""
        return self.study / "model"

    @property
    def cohort(self) -> Cohort:
        """24 labelled patients and three others, with two to four images each."""
        return read_cohort(self.cohort_toml)

    @property
    def cache(self) -> FeatureCache:
        """Embeddings by a small network with random weights."""
        return FeatureCache.open(self.features)


def required(folder: Path) -> Path:
    """The folder; where it is absent the test is skipped, but under CI it fails."""
    if not folder.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{folder} is absent")
    return folder


def configuration(name: str) -> configparser.ConfigParser:
    """A configuration file at the root."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / name)
    return parser


def weighed(study: Path) -> Path:
    """A study whose outer models weighed their images at random."""
    from mil_toolkit.assessment import publish_table, read_predictions

    random = np.random.default_rng(0)
    for path in sorted(study.glob("outer/*/attention.csv")):
        table = read_predictions(path)
        drawn = pd.Series(random.random(len(table)))
        shares = drawn / drawn.groupby(table["patient_id"]).transform("sum")
        publish_table(path, table.assign(attention=shares))
    return study


HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"quoted\" & 'single'",
    "=cmd|' /C calc'!A0",
    "{{ 7 * 7 }}{% raw %}",
    "right\u202eto left\u200f",
    "\u05d0\u05d1\u05d2 שם",
    "two\nlines",
    "$\\frac{1}{0}$",
    "--> ]]> &lt;",
)


def hostile_study(folder: Path) -> tuple[Path, list[str]]:
    """A study of patients, columns, categories, classes and images with names that mean something elsewhere.

    Also the names of its patients.
    """
    from mil_toolkit.extraction import extract
    from mil_toolkit.hparams import ExtractionConfig, StudyConfig
    from mil_toolkit.tuning import tune

    random = np.random.default_rng(0)
    patients = [f"{name}{number}" for number, name in enumerate(HOSTILE + HOSTILE[:6])]
    rows, images = [], []
    for number, patient in enumerate(patients):
        rows.append((patient, ("<b>bad</b>", "=good")[number % 2], number + 40, HOSTILE[number % 3]))
        for place in range(3):
            path = Path("images") / str(number) / f"{HOSTILE[(number + place) % 10].replace('/', '|')}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / path)
            images.append((patient, path.as_posix()))
    pd.DataFrame(rows, columns=["id", "class", HOSTILE[0], HOSTILE[1]]).to_csv(folder / "t.csv", index=False)
    pd.DataFrame(images, columns=["patient", "path"]).to_csv(folder / "i.csv", index=False)
    (folder / "cohort.toml").write_text(
        '[cohort]\nname = "hostile"\ntable = "t.csv"\nimage_table = "i.csv"\nid = "id"\nlabel = "class"\n'
        'positive = "<b>bad</b>"\nnegative = "=good"\n'
        f'[metadata.{json.dumps(HOSTILE[0])}]\ncolumn = {json.dumps(HOSTILE[0])}\nkind = "number"\n'
        f"unit = {json.dumps(HOSTILE[1])}\n"
        f'[metadata.{json.dumps(HOSTILE[2])}]\ncolumn = {json.dumps(HOSTILE[1])}\nkind = "category"\n'
    )
    cohort = read_cohort(folder / "cohort.toml")
    features = extract(
        cohort, ExtractionConfig("resnet18", "random", image_size=32), folder / "cache", device="cpu"
    )
    settings = {"epochs": (2,), "hidden": (32,), "pooling": ("attention",)}
    config = StudyConfig(trials=2, folds=2, outer_folds=2, members=1, settings=settings)
    tune(cohort, FeatureCache.open(features.folder), folder / "study", config, "cpu")
    return weighed(folder / "study"), patients


@dataclass(frozen=True)
class CommandServer:
    """Starts real processes that run a command; see command_server.py."""

    process: subprocess.Popen[str]

    def ask(self, **request: object) -> int:
        """Send a request, and give its answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self, process: int) -> int:
        """Its exit code, or minus the signal that ended it."""
        return self.ask(wait=process)


@contextlib.contextmanager
def serving(script: str) -> Iterator[subprocess.Popen[str]]:
    """A command server's process."""
    argv = [sys.executable, str(Path(__file__).with_name(script))]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True, env=env) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything that a study found."""
    names = ("trials.csv", "predictions.csv", "best.json", "scores.json", "splits.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in names or path.suffix == ".jsonl"
    }


def stopped(process: int) -> bool:
    """Whether a process was stopped."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def ended(process: int) -> bool:
    """Whether a process has ended, though nobody has waited for it."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until(condition: Callable[[], object], minutes: float = 1) -> None:
    """Wait until a condition holds; fails where it takes too long."""
    deadline = time.monotonic() + 60 * minutes
    while not condition():
        assert time.monotonic() < deadline, f"waited for {minutes} min"
        time.sleep(0.01)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nobody can write to; for root, whom no mode keeps out, by mounting it over itself."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    for options in (["--bind"], ["-o", "remount,bind,ro"]):
        done = subprocess.run(
            ["mount", *options, folder, folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"root without the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def needed(found: Any, what: str) -> Any:
    """What a test cannot do without; where it is absent the test is skipped, but under CI it fails."""
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is absent")
    return found


# What worker processes run: they find this module, but not those of the tests.


def hold_on(file: Path) -> None:
    """Say which process this is, and stay."""
    file.write_text(str(os.getpid()))
    time.sleep(60)


def complain() -> None:
    """Fail as a user's mistake does."""
    raise DataError("which the parent will tell itself")
