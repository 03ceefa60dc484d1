"""What a command leaves behind."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything that a study found."""
    names = ("trials.csv", "predictions.csv", "best.json", "scores.json", "splits.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in names or path.suffix == ".jsonl"
    }
