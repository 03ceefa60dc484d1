"""Paths of the repository, and things that a test cannot do without."""

import configparser
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


COMMANDS = sorted(
    path.stem for path in (ROOT / "mil_toolkit" / "cli").glob("[!_]*.py") if path.stem != "command"
)


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


def needed(found: Any, what: str) -> Any:
    """What a test cannot do without; where it is absent the test is skipped, but under CI it fails."""
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is absent")
    return found
