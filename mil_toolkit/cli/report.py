"""Show a study as one HTML file that people look at."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mil_toolkit.cli.command import Outcome, command_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-report."""
    parser = command_parser("mil-report", "Write what a study found as one self-contained HTML file.")
    add = parser.add_argument
    add("study", type=Path, metavar="studies/NAME", help="folder of a finished study")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write; by default report.html in the study's folder",
    )
    add(
        "--anonymise",
        action="store_true",
        help="replace the ids of patients and the names of files, and leave single patients' metadata out",
    )
    return run(parser, _report, argv)


def _report(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.report.page import write_report

    report = write_report(arguments.study, arguments.output, arguments.anonymise)
    data = {"report": str(report.path), "bytes": report.size, "notes": list(report.notes)}
    return Outcome("\n".join([f"{report.path}: {report.size / 1e6:.1f} MB.", *report.notes]), data)
