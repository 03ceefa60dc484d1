"""The log of a command: whole lines in a file beside what the command writes."""

import errno
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.paths import ROOT
from support.processes import read_only, wait_until

import mil_toolkit
from mil_toolkit.cli import command as frame
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.run_log import LOG, RunLog, log_into, stage
from mil_toolkit.core.verbosity import LOGGER

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d \[\d+\] .*|    .*")
logger = logging.getLogger("mil_toolkit.study.run")


def lines(folder: Path) -> list[str]:
    """Return the lines of a folder's log, without the time and the process."""
    text = (folder / LOG).read_text()
    assert text.endswith("\n") and all(LINE.fullmatch(line) for line in text.splitlines())
    return [re.sub(r"^\S+ \S+ \[\d+\] ", "", line) for line in text.splitlines()]


@pytest.fixture(name="log")
def _log() -> Iterator[RunLog]:
    """A log that takes the messages of all modules."""
    log, root = RunLog(), logging.getLogger(LOGGER)
    root.handlers, root.propagate = [log], False
    root.setLevel(logging.DEBUG)
    yield log
    log.end(0)


def test_messages_wait_for_the_file(log: RunLog, tmp_path: Path) -> None:
    logger.info("early")
    assert not (tmp_path / LOG).exists()
    log_into(tmp_path)
    logger.warning("late")
    early, machine, late = lines(tmp_path)
    assert (early, late) == ("early", "WARNING: late")
    assert re.match(r"torch \d.*, numpy \d.*; \d+ cores, [\d.]+ GiB of memory free", machine)


def test_a_command_without_a_folder_leaves_no_file(log: RunLog, tmp_path: Path) -> None:
    logger.info("refused")
    log.end(3)
    log_into(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_the_first_folder_gets_the_log(log: RunLog, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    log_into(tmp_path)
    log_into(tmp_path / "other")
    assert os.listdir(tmp_path / "other") == [] and (tmp_path / LOG).exists()


def test_nothing_is_written_where_no_command_runs(tmp_path: Path) -> None:
    log_into(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_message_of_several_lines_is_indented_and_harmless(log: RunLog, tmp_path: Path) -> None:
    log_into(tmp_path)
    text = "one\ntwo \x1b[31m\udcff"  # not through a logger: workers of pytest could not report it
    log.handle(logging.makeLogRecord({"msg": text, "levelno": logging.WARNING, "levelname": "WARNING"}))
    assert lines(tmp_path)[1:] == ["WARNING: one", r"    two \x1b[31m\udcff"]


def test_a_stage_is_timed_unless_it_fails(log: RunLog, tmp_path: Path) -> None:
    log_into(tmp_path)
    with stage("The audit"):
        pass
    with pytest.raises(DataError), stage("The search"):
        raise DataError("bad")
    assert lines(tmp_path)[1:] == ["The audit took 0 s."]


def test_a_later_command_appends_after_a_line_that_was_cut_off(log: RunLog, tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("a line that was cut o")
    log_into(tmp_path)
    first, second, _ = (tmp_path / LOG).read_text().split("\n")
    assert first == "a line that was cut o" and "torch" in second


@pytest.mark.parametrize("kind", ["link", "hard link", "folder", "pipe"])
def test_nothing_but_a_file_of_its_own_is_written_to(kind: str, log: RunLog, tmp_path: Path) -> None:
    folder, other = tmp_path / "study", tmp_path / "other"
    folder.mkdir()
    other.write_text("other\n")
    make = {"link": os.symlink, "hard link": os.link}
    if kind in make:
        make[kind](other, folder / LOG)
    else:
        (os.mkdir if kind == "folder" else os.mkfifo)(folder / LOG)
    shown: list[str] = []
    terminal = logging.Handler()
    terminal.emit = lambda record: shown.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(LOGGER).addHandler(terminal)
    log_into(folder)
    logger.info("the command goes on")
    assert shown[0].startswith(str(folder / LOG)) and shown[0].endswith("runs without a log.")
    assert shown[1:] == ["the command goes on"] and other.read_text() == "other\n"


def test_a_read_only_folder_is_reported(
    log: RunLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger(LOGGER).addHandler(logging.StreamHandler(sys.stderr))
    with read_only(tmp_path):
        log_into(tmp_path)
    err = capsys.readouterr().err
    assert f"{tmp_path / LOG} cannot be written: " in err and "This command runs without a log." in err


@pytest.mark.parametrize("step", ["fstat", "lseek", "read", "write"])
def test_a_log_that_cannot_be_opened_for_appending_is_reported(
    step: str,
    log: RunLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.getLogger(LOGGER).addHandler(logging.StreamHandler(sys.stderr))
    (tmp_path / LOG).write_text("a line that was cut o")
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        log_into(tmp_path)
    err = capsys.readouterr().err
    assert f"{tmp_path / LOG} cannot be written: {os.strerror(errno.ENOSPC)}" in err
    assert err.count("This command runs without a log.") == 1
    assert os.listdir("/proc/self/fd") == before


def full(*_: object) -> int:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_when_the_log_begins_is_reported_once(
    log: RunLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for message in ("first", "second"):
        logger.info(message)
    logging.getLogger(LOGGER).addHandler(logging.StreamHandler(sys.stderr))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log_into(tmp_path)
    logger.info("the command goes on")
    reason = f"The log cannot be continued: {os.strerror(errno.ENOSPC)}."
    assert capsys.readouterr().err.splitlines() == [reason, "the command goes on"]
    assert (tmp_path / LOG).read_bytes() == b""


def write_many(folder: Path, name: str) -> None:
    """Log many lines in a process of its own."""
    descriptor_log, root = RunLog(), logging.getLogger(LOGGER)
    root.handlers, root.propagate = [descriptor_log], False
    root.setLevel(logging.DEBUG)
    log_into(folder)
    for number in range(300):
        logger.info("%s %d %s", name, number, name * 200)


def test_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of threads, which the child lacks
        writers = [context.Process(target=write_many, args=(tmp_path, name)) for name in "abc"]
        for writer in writers:
            writer.start()
    for writer in writers:
        writer.join()
    written = [line for line in lines(tmp_path) if line[1] == " "]
    assert sorted(written) == sorted(f"{name} {n} {name * 200}" for name in "abc" for n in range(300))


def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    script = f"""
import logging, sys
from pathlib import Path
from mil_toolkit.core.run_log import RunLog, log_into
root = logging.getLogger("mil_toolkit")
root.handlers = [RunLog()]
root.setLevel(10)
log_into(Path({str(tmp_path)!r}))
while True:
    root.info("x" * 300)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as process:
        wait_until(lambda: (tmp_path / LOG).exists() and (tmp_path / LOG).stat().st_size > 5000)
        process.send_signal(signal.SIGKILL)
    assert {*lines(tmp_path)[1:]} == {"x" * 300}


# The frame of all commands.


def run_command(folder: Path, *argv: str, error: Exception | None = None) -> int:
    def work(_: object) -> frame.Outcome:
        log_into(folder)
        logger.info("progress")
        warnings.warn("a library complains", stacklevel=1)
        if error is not None:
            raise error
        return frame.Outcome("result", {})

    return frame.run(frame.command_parser("mil-x", ""), work, argv)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_a_command_logs_its_line_versions_messages_and_end(
    options: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="a library complains"):
        assert run_command(tmp_path, *options) == 0
    heading, machine, *rest = lines(tmp_path)
    assert heading.startswith(f"mil_toolkit {mil_toolkit.__version__}, Python 3.")
    assert heading.endswith(" ".join(("mil-x", *options))) and "torch" in machine
    assert rest == [
        "progress",
        "WARNING: UserWarning: a library complains",
        "Ended with exit code 0 after 0 s.",
    ]
    assert ("progress" in capsys.readouterr().err) == (not options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("error", "words"),
    [(DataError("row 3: bad"), "mil-x: row 3: bad"), (ValueError("x"), "    ValueError: x")],
)
def test_the_error_that_ended_a_command_is_logged(error: Exception, words: str, tmp_path: Path) -> None:
    code = run_command(tmp_path, error=error)
    written = lines(tmp_path)
    assert any(line.removeprefix("ERROR: ") == words for line in written)
    assert written[-1] == f"Ended with exit code {code} after 0 s."


@pytest.mark.filterwarnings("ignore")
def test_the_log_has_the_whole_of_an_error_that_fills_more_than_a_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [f"row {number}: {'bad ' * 300}." for number in range(100)]
    run_command(tmp_path, error=DataError(problems))
    written = lines(tmp_path)
    assert written[-101:-1] == [f"ERROR: mil-x: {problems[0]}", *(f"    {line}" for line in problems[1:])]
    shown = capsys.readouterr().err.splitlines()
    assert "... and 61 more problems ..." in shown and max(map(len, shown)) < 700


@pytest.mark.filterwarnings("ignore")
def test_the_log_has_the_whole_of_a_traceback(tmp_path: Path) -> None:
    cause: Exception | None = None
    for number in range(50):
        error = ValueError(f"error {number} " + "x" * 1000)
        error.__cause__, cause = cause, error
    run_command(tmp_path, error=cause)
    text = (tmp_path / LOG).read_text()
    assert all(f"error {number} " + "x" * 1000 in text for number in range(50))
