"""What all commands share: common options, output, errors and exit codes."""

import argparse
import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from mil_toolkit.core.argument_order import give_back
from mil_toolkit.core.completion import complete, suggest
from mil_toolkit.core.errors import MilError, UsageError
from mil_toolkit.core.processes import raise_on_stop_signals
from mil_toolkit.core.reading import unreadable
from mil_toolkit.core.records import Json
from mil_toolkit.core.run_log import RunLog, python_warnings_passed_on
from mil_toolkit.core.text import one_screen, printable, visible
from mil_toolkit.core.verbosity import LOGGER, TERMINAL, heading, level
from mil_toolkit.core.version import __version__

if TYPE_CHECKING:
    from mil_toolkit.study.records import StudyScores

INTERRUPTED = 130
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a command prints, as text and as JSON (with --json), and its exit code."""

    text: str
    data: Mapping[str, Json]
    exit_code: int = 0


def with_report(outcome: Outcome, study: Path, scores: "StudyScores | None" = None) -> Outcome:
    """Write the study's report unless it is up to date, and return the outcome with its path.

    scores: see `write_report`

    A report that cannot be written does not fail the command, whose own work is done.
    """
    from mil_toolkit.report.update import update_report

    try:
        path = update_report(study, scores=scores).path
    except MilError as error:
        text = f"{outcome.text}\nNo report: {one_screen(str(error))} To try again: mil-report {study}"
        return replace(outcome, text=text, data={**outcome.data, "report": None})
    text = f"{outcome.text}\nReport: {path}"
    return replace(outcome, text=text, data={**outcome.data, "report": str(path)})


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults except those that carry no information or that the help text states itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        trivial = default is None or default is False or default == [] or "(default" in (action.help or "")
        return action.help if trivial else super()._get_help_string(action)


class EscapingParser(argparse.ArgumentParser):
    """Shows the characters of its arguments that a terminal may act on escaped."""

    def _print_message(self, message: str, file: TextIO | None = None) -> None:  # type: ignore[override]
        super()._print_message(visible(message), file)


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every command has."""
    parser = EscapingParser(prog=name, description=description, formatter_class=_Formatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_verbosity(parser, False)
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    return parser


def add_verbosity(parser: argparse.ArgumentParser, default: bool | str) -> None:
    """Add the options that choose how much is said; default: SUPPRESS for a part of a command."""
    said = parser.add_mutually_exclusive_group()
    text = "show only warnings and errors beside the result"
    said.add_argument("--quiet", action="store_true", default=default, help=text)
    text = "show versions, how long the stages take, and the time of every message, too"
    said.add_argument("--verbose", action="store_true", default=default, help=text)


def add_features(
    parser: argparse.ArgumentParser,
    default: str = "the cohort's only cache folder in cache/",
    several: str = "all of them where the study has several",
) -> None:
    """Add the option that names the features.

    default: what the help text says of its absence; several: what it says of several folders
    """
    action = parser.add_argument(
        "--features",
        nargs="+",
        metavar="CACHE_FOLDER",
        help=f"cache folder that mil-extract printed, {several}; or none to use metadata only"
        f" (default: {default})",
    )
    suggest(action, ("none",), files=True)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the device."""
    suggest(
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N"),
        ("auto", "cpu", "cuda"),
    )


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], Outcome],
    argv: Sequence[str] | None,
) -> int:
    """Run a command and return its exit code; a MilError is printed without a traceback."""
    complete(parser)
    escape_what_cannot_be_encoded()
    arguments = parse(parser, argv)
    _yield_idle_threads()
    log = RunLog()
    _log_to(log, level(arguments.quiet, arguments.verbose))
    logger.debug("%s", heading(parser.prog, sys.argv[1:] if argv is None else argv))
    try:
        _check_paths(arguments)
        with python_warnings_passed_on(log.note_warning), raise_on_stop_signals():
            outcome = command(arguments)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost handler
        code = _report(parser.prog, error, log)
    else:
        code = print_outcome(parser.prog, outcome, arguments.json)
    log.end(code)
    return code


def _report(name: str, error: BaseException, log: RunLog) -> int:
    """Log what ended a command, print as much of it as fits on a screen, and return the exit code."""
    explained = _explained(error)
    if explained is not None:
        lines, code = [f"{name}: {explained}"], explained.exit_code
    elif _is_interrupt(error):
        lines, code = [f"{name}: interrupted"], INTERRUPTED
    else:
        lines = ["".join(traceback.format_exception(error)).rstrip("\n")]
        lines.append(f"{name}: this is a bug in mil_toolkit, not a problem with your data.")
        code = MilError.exit_code
    for line in lines:
        log.note(line, logging.ERROR)
        _say(line if explained is None else one_screen(line))
    return code


def _explained(error: BaseException) -> MilError | None:
    """Return an error whose message is all that a user needs, None for an interrupt or a bug."""
    if isinstance(error, MilError):
        return error
    if _is_interrupt(error):
        return None
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
        return UsageError(
            f"{printable(error.object)} cannot be the name of a file in this locale, whose encoding is"
            f" {error.encoding}. Set LC_ALL=C.UTF-8."
        )
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes | os.PathLike):
        return unreadable(Path(os.fsdecode(error.filename)), error)
    return None


def _check_paths(arguments: argparse.Namespace) -> None:
    """Raise UsageError for arguments that cannot be paths, whatever the command does with them."""
    for value in _strings(vars(arguments).values()):
        try:
            has_null = b"\0" in os.fsencode(value)
        except UnicodeEncodeError:
            has_null = True
        if has_null:
            raise UsageError(f"{printable(value)} cannot be the path of a file.")


def _strings(values: Iterable[object]) -> Iterator[str]:
    """Yield all texts and paths among values and lists of values."""
    for value in values:
        if isinstance(value, str | Path):
            yield str(value)
        elif isinstance(value, list):
            yield from _strings(value)


def print_outcome(name: str, outcome: Outcome, as_json: bool) -> int:
    """Print the outcome of a command, and return the exit code."""
    try:
        print(json.dumps(outcome.data, allow_nan=False) if as_json else visible(outcome.text), flush=True)
    except OSError as error:
        _discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # the reader has closed the pipe
            _say(f"{name}: done, but stdout cannot be written: {error.strerror}.")
            return UsageError.exit_code
    return outcome.exit_code


def _say(text: str) -> None:
    """Print to stderr, if it can be written: whoever closed it does not want to read it."""
    if sys.stderr is None:  # or `print` would use stdout
        return
    try:
        print(visible(text), file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def escape_what_cannot_be_encoded() -> None:
    """Let stdout and stderr escape the characters that the locale's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """Discard what a stream that cannot be written still holds, which Python would write again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; what argparse prints may be cut off, as by `--help | head`."""
    try:
        arguments = parser.parse_args(give_back(parser, sys.argv[1:] if argv is None else argv))
        if getattr(arguments, "quiet", False) and getattr(arguments, "verbose", False):
            # argparse itself only notices options on the same side of an action, such as `mil-cache info`
            parser.error("argument --verbose: not allowed with argument --quiet")
        return arguments
    except SystemExit:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except OSError:
                _discard(stream)
        raise


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt caused an error: a library's cleanup may raise another one on top of it."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _is_interrupt(error.__context__))


def _yield_idle_threads() -> None:
    """Let threads that wait for others sleep early; must run before torch and numpy are imported.

    By default, idle threads spin for milliseconds. Next to one busy process, this made training 60 times
    slower in a measurement. Sleeping at once makes training twice as slow on an idle machine; this number of
    spins costs 10 %.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Logs to stderr, if it can be written: whoever closed it does not want to read it."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(one_screen(super().format(record)))

    def emit(self, record: logging.LogRecord) -> None:
        with _bars_cleared(self.stream):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            _discard(self.stream)
        else:
            super().handleError(record)


@contextlib.contextmanager
def _bars_cleared(stream: TextIO) -> Iterator[None]:
    """Remove the progress bars of a stream within the block, so that a message gets a line of its own."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)  # whoever draws a bar has imported it
    if bars is None or not getattr(bars, "_instances", None):
        yield
        return
    with bars.external_write_mode(stream):
        yield


def _log_to(log: RunLog, shown: int) -> None:
    """Log everything to a log, and to stderr what is to be shown."""
    handler = logging.NullHandler() if sys.stderr is None else _StderrHandler(sys.stderr)
    handler.set_name(TERMINAL)
    handler.setLevel(shown)
    if shown < logging.INFO:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger(LOGGER)
    root.handlers = [handler, log]
    root.setLevel(logging.DEBUG)
    root.propagate = False
