"""mil-init: draft a commented cohort.toml from a table and image folders."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import Outcome, command_parser, run
from mil_toolkit.core.records import Json
from mil_toolkit.core.text import count_of, one_screen

if TYPE_CHECKING:
    from mil_toolkit.cohort.draft import Draft


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `mil-init` and return its exit code."""
    parser = command_parser(
        "mil-init",
        "Draft a commented cohort.toml from a table and its image folders. Every guess to check is marked"
        " CHECK in it.",
    )
    parser.add_argument(
        "table", type=Path, metavar="TABLE", help="CSV file or .xlsx workbook with one row per patient"
    )
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGES", help="folder that contains one folder per patient"
    )
    parser.add_argument("--output", type=Path, default=Path("cohort.toml"), help="file to write")
    parser.add_argument("--sheet", help="sheet of the workbook, if it has several")
    return run(parser, _init, argv)


def _init(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.cohort.draft import draft_cohort
    from mil_toolkit.features.crop_proposal import crop_remarks, propose_crop, sample_images

    remarks = crop_remarks(propose_crop(sample_images(arguments.images)), arguments.output)
    draft = draft_cohort(arguments.table, arguments.images, arguments.output, arguments.sheet, remarks)
    data: dict[str, Json] = {
        "output": str(draft.output),
        "patients": draft.patients,
        "doubts": list(draft.doubts),
        "problems": list(draft.problems),
    }
    return Outcome(_summary(draft), data)


def _summary(draft: "Draft") -> str:
    """Return what the command prints: the doubts, and why the draft cannot be read yet, if it cannot."""
    lines = [f"{draft.output}: {count_of(draft.patients, 'patient')}. Review every line, especially:"]
    lines += [f"  - {doubt}" for doubt in draft.doubts]
    if draft.problems:
        lines += [
            "The cohort cannot be read until this is corrected:",
            one_screen("\n".join(f"  - {problem}" for problem in draft.problems)),
        ]
    return "\n".join(lines)
