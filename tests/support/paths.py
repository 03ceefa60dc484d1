"""Paths in the repository, and requirements of tests."""

import configparser
import importlib
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(
    path.stem
    for path in (ROOT / "mil_toolkit" / "cli").glob("[!_]*.py")
    if path.stem not in ("command", "mil", "one_patient")
)


def required(folder: Path) -> Path:
    """Return a folder; if it is absent, skip the test, or fail it if CI is set."""
    needed(folder.is_dir(), str(folder))
    return folder


def configuration(name: str) -> configparser.ConfigParser:
    """Read a configuration file at the root of the repository."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / name)
    return parser


def needed(requirement: Any, name: str) -> Any:
    """Return a requirement; if it is absent (falsy), skip the test, or fail it if CI is set."""
    if not requirement:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is absent")
    return requirement


def installed(module: str) -> Any:
    """Import a module of an optional package; if it is absent, skip the test, or fail it if CI is set."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return needed(None, module)
