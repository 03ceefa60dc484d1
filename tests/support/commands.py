"""Results of commands."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The parsed output of a command with --json."""
        return json.loads(self.out)


Command = Callable[..., Done]


def outcome(folder: Path) -> dict[str, bytes]:
    """Read every file of a study that holds results, by its path in the study."""
    names = ("trials.csv", "predictions.csv", "best.json", "scores.json", "splits.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in names or path.suffix == ".jsonl"
    }
