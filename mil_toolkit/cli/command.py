"""The frame of a command."""

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mil_toolkit.core.errors import MilError, UsageError
from mil_toolkit.core.processes import stops_heeded

INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """What a command prints: `text` for people, `data` under --json, and its exit code."""

    text: str
    data: dict[str, Any]
    exit_code: int = 0


def with_report(outcome: Outcome, study: Path) -> Outcome:
    """The outcome of a command, and the study's report written anew, without which the command's work is done too."""
    from mil_toolkit.report.page import write_report

    try:
        path = write_report(study).path
    except MilError as error:
        text = f"{outcome.text}\nNo report: {error} For another try: mil-report {study}"
        return replace(outcome, text=text, data=outcome.data | {"report": None})
    return replace(outcome, text=f"{outcome.text}\nReport: {path}", data=outcome.data | {"report": str(path)})


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that every command has."""
    parser = argparse.ArgumentParser(prog=name, description=description, formatter_class=_Formatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def add_features(parser: argparse.ArgumentParser) -> None:
    """The option that names the features, or does without images."""
    parser.add_argument(
        "--features",
        metavar="CACHE_FOLDER",
        help="folder that mil-extract printed; none: metadata alone; by default the cohort's only one in cache/",
    )


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], Outcome],
    argv: Sequence[str] | None,
) -> int:
    """Run a command and return its exit code; a MilError is printed without a traceback."""
    arguments = parser.parse_args(argv)
    _yield_idle_threads()
    _log_to_stderr()
    try:
        with stops_heeded():
            outcome = command(arguments)
    except MilError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last stop before the interpreter
        if _is_interrupt(error):
            print(f"{parser.prog}: interrupted", file=sys.stderr)
            return INTERRUPTED
        traceback.print_exc()
        print(f"{parser.prog}: this is a defect of mil_toolkit, not of your data.", file=sys.stderr)
        return MilError.exit_code
    return _print(parser.prog, outcome, arguments.json)


def _print(name: str, outcome: Outcome, as_json: bool) -> int:
    """Print what a command found, whose work is done; returns its exit code."""
    try:
        print(json.dumps(outcome.data, allow_nan=False) if as_json else outcome.text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries once more at its end
        if not isinstance(error, BrokenPipeError):  # whose reader wants no more
            print(f"{name}: done, but stdout cannot be written: {error.strerror}.", file=sys.stderr)
            return UsageError.exit_code
    return outcome.exit_code


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt is at the root of an error: what a library does on its way out may fail upon it."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _is_interrupt(error.__context__))


def _yield_idle_threads() -> None:
    """Let threads that wait for others soon sleep; has to come before torch and numpy are imported.

    By default they spin for milliseconds, which beside one busy process was measured to make training 60 times
    slower; sleeping at once makes it twice as slow on a quiet machine. This many spins cost a tenth there.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")


def _log_to_stderr() -> None:
    logger = logging.getLogger("mil_toolkit")
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
