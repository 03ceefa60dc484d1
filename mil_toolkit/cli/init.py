"""mil-init: from a table and image folders to a commented cohort.toml."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mil_toolkit.cli.command import Outcome, command_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command `mil-init`; returns its exit code."""
    parser = command_parser(
        "mil-init",
        "Look at a table and its image folders, and write a commented cohort.toml. Whatever had to be guessed"
        " is marked CHECK in it.",
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="CSV file with one row per patient")
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGES", help="folder that holds one folder per patient"
    )
    parser.add_argument("--output", type=Path, default=Path("cohort.toml"), help="file to write")
    return run(parser, _init, argv)


def _init(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.cohort.draft import Draft, draft_cohort

    def summary(draft: Draft) -> str:
        lines = [f"{draft.output}: {draft.patients} patients. Check it line by line, and above all:"]
        lines += [f"  - {doubt}" for doubt in draft.doubts]
        if draft.problems:
            lines += ["As it stands, it cannot be read:", *(f"  - {problem}" for problem in draft.problems)]
        return "\n".join(lines)

    draft = draft_cohort(arguments.table, arguments.images, arguments.output)
    data = {
        "output": str(draft.output),
        "patients": draft.patients,
        "doubts": list(draft.doubts),
        "problems": list(draft.problems),
    }
    return Outcome(summary(draft), data)
