"""Copies of a study folder with one file changed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

Change = Callable[[Path], object]
"""Changes a study folder."""
LARGE = ("model", "report.html")  # not needed to read a study


@dataclass(frozen=True)
class Doctored:
    """A change of a study folder, and words of the sentence that refuses the folder."""

    name: str
    change: Change
    words: str

    def __str__(self) -> str:
        return self.name


def copy_of(study: Path, folder: Path) -> Path:
    """Copy a study without its bundle and its report."""
    return Path(shutil.copytree(study, folder / "copy", ignore=shutil.ignore_patterns(*LARGE)))


def in_json(name: str, change: Callable[[Any], object]) -> Change:
    """Change the value of a JSON file in place, or to what `change` returns, unless that is None."""

    def apply(study: Path) -> None:
        value = json.loads((study / name).read_text())
        changed = change(value)
        (study / name).write_text(json.dumps(value if changed is None else changed))

    return apply


def setting(name: str, *keys: str | int, to: object) -> Change:
    """Set one value of a JSON file, found by its keys."""

    def apply(value: Any) -> None:
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return in_json(name, apply)


def in_table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    """Replace the cells of a CSV file, all of which are text."""

    def apply(study: Path) -> None:
        table = pd.read_csv(study / name, dtype=str, keep_default_na=False)
        change(table).to_csv(study / name, index=False)

    return apply


def cell(name: str, column: str, row: int, to: str) -> Change:
    """Set one cell of a CSV file."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = to
        return table

    return in_table(name, change)


def content(name: str, to: bytes) -> Change:
    """Replace the bytes of a file."""
    return lambda study: (study / name).write_bytes(to)
