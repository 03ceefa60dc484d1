"""mil-report: write the report of a study."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mil_toolkit.cli.command import Outcome, command_parser, run
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.records import Json


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-report."""
    parser = command_parser("mil-report", "Write the report of a study as one self-contained HTML file.")
    add = parser.add_argument
    add("study", type=Path, metavar="studies/NAME", help="folder of a finished study")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write (default: report.html in the study folder)",
    )
    add(
        "--anonymise",
        action="store_true",
        help="replace patient ids and file names, and leave out the metadata of single patients",
    )
    add(
        "--saliency",
        action="store_true",
        help="show what counts in each image of highest attention; needs the images and the model of mil-fit",
    )
    add(
        "--weights",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="for --saliency: checkpoint of the backbone, if its weights came from a file; one for each view"
        " if they differ",
    )
    add("--force", action="store_true", help="draw the report even if it is up to date")
    return run(parser, _report, argv)


def _report(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.report.update import update_report

    if arguments.weights and not arguments.saliency:
        raise UsageError("--weights is for --saliency only.")
    report = update_report(
        arguments.study,
        arguments.output,
        arguments.anonymise,
        arguments.force,
        saliency=arguments.saliency,
        weights=arguments.weights,
    )
    size = f"{report.size / 1e6:.1f} MB"
    line = f"{report.path}: {size}." if report.drawn else f"{report.path} is up to date: {size}."
    data: dict[str, Json] = {"report": str(report.path), "bytes": report.size, "notes": list(report.notes)}
    data["drawn"] = report.drawn
    return Outcome("\n".join([line, *report.notes]), data)
