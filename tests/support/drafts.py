"""Tables and image folders for mil-init, and the drafts made from them."""

import re
import tomllib
from pathlib import Path
from typing import Any

from mil_toolkit.cohort.draft import Draft, draft_cohort


def write_data(folder: Path, table: str, patients: str = "P1 P2 P3 P4") -> tuple[Path, Path]:
    """A table and a folder of images, one (empty) image per patient."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.csv").write_text(table, encoding="utf-8")
    for patient in patients.split():
        (folder / "images" / patient).mkdir(parents=True)
        (folder / "images" / patient / "a.png").touch()
    return folder / "table.csv", folder / "images"


def draft(folder: Path, table: str, patients: str = "P1 P2 P3 P4") -> tuple[Draft, dict[str, Any]]:
    """The draft of a table, and what its TOML says."""
    path, images = write_data(folder, table, patients)
    drafted = draft_cohort(path, [images], folder / "cohort.toml")
    return drafted, tomllib.loads(drafted.output.read_text(encoding="utf-8"))


def with_column(header: str, *cells: str) -> str:
    """A table of four labelled patients with one more column."""
    return "\n".join(
        [f"ID,LABEL,{header}", *(f"P{i},{i % 2},{cell}" for i, cell in enumerate(cells, start=1))]
    )


def flagged(drafted: Draft, pattern: str) -> bool:
    """Whether a doubt says this."""
    return any(re.search(pattern, doubt) for doubt in drafted.doubts)
