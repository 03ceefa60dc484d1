"""`mil`: every command under one name."""

import errno
import os
import subprocess
import sys

import pytest
from support.paths import COMMANDS, installed

import mil_toolkit
from mil_toolkit.cli import mil
from mil_toolkit.core.completion import completion_script


def ended(*words: str) -> int:
    """Return the exit code of `mil` where argparse ends it."""
    with pytest.raises(SystemExit) as end:
        mil.main(words)
    return int(end.value.code or 0)


def test_all_commands_are_there() -> None:
    assert sorted(mil.COMMANDS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_words_behind_the_name_belong_to_the_command(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: mil-{name} ")


def test_a_command_returns_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert mil.main(["report", "no-such-study"]) == 3
    assert capsys.readouterr().err.startswith("mil-report: no-such-study")


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert listed == [*mil.COMMANDS]


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--version") == 0
    assert capsys.readouterr().out == f"mil_toolkit {mil_toolkit.__version__}\n"


def test_an_unknown_name_is_shown_without_what_a_terminal_may_act_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended("\x1b[31mtrain") == 2
    error = capsys.readouterr().err
    assert "train" in error and "\x1b" not in error


@pytest.mark.parametrize("words", [(), ("train",), ("--no-such-option",)])
def test_anything_else_is_a_usage_error(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(*words) == 2
    assert capsys.readouterr().err.startswith("usage: mil COMMAND")


def test_completion_and_a_command_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--completion", "bash", "extract") == 2
    out, err = capsys.readouterr()
    assert out == "" and "argument --completion: not allowed with the command extract" in err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_script_is_printed_as_it_is(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    installed("argcomplete")
    assert mil.main(["--completion", shell]) == 0
    script = completion_script(shell, ["mil", *(f"mil-{name}" for name in mil.COMMANDS)])
    assert capsys.readouterr().out == f"{script}\n"


@pytest.mark.parametrize("full", [False, True], ids=["closed", "full"])
def test_a_completion_script_that_cannot_be_written_shows_no_traceback(full: bool) -> None:
    installed("argcomplete")
    script = "import sys; from mil_toolkit.cli.mil import main; sys.exit(main(['--completion', 'bash']))"
    if full:
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    done = subprocess.run([sys.executable, "-c", script], stdout=target, stderr=-1, text=True, check=False)
    os.close(target)
    reason = f"mil: done, but stdout cannot be written: {os.strerror(errno.ENOSPC)}.\n"
    assert (done.returncode, done.stderr) == ((2, reason) if full else (0, ""))
