"""What several test files share and conftest.py hands out: a tiny cohort, and what a command left."""

import configparser
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mil_toolkit.cohort import Cohort, read_cohort
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
