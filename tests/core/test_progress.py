"""Progress of long tasks: a bar on a terminal, a line of the log now and then elsewhere."""

import io
import itertools
import logging
import sys

import pytest

from mil_toolkit.cli import command as frame
from mil_toolkit.core.progress import LineTimes, ProgressBar


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_are_thirty_seconds_apart_and_rarer_in_long_tasks() -> None:
    clock = Clock()
    times, due = LineTimes(clock), []
    for second in range(1, 20_001):
        clock.now = second
        if times.is_due():
            due.append(second)
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    assert due[:3] == [30, 60, 90] and min(gaps) == 30
    assert all(gap <= max(30, 0.05 * at + 1) for gap, at in zip(gaps, due[1:], strict=True))
    assert len(due) < 100


def test_a_log_says_what_is_done_and_how_long_the_rest_will_take(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level("INFO", "mil_toolkit"), ProgressBar(40, "image", "embedding", clock=clock) as bar:
        for _ in range(40):
            clock.now += 10
            bar.update()
    assert caplog.messages[0] == "embedding: 3 of 40 images after 30 s: about 6.2 min left."
    assert [int(line.split()[1]) for line in caplog.messages] == [*range(3, 40, 3)]


def test_what_was_done_before_does_not_count_for_the_speed(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level("INFO", "mil_toolkit"), ProgressBar(0, "image", "fine-tuning", clock=clock) as bar:
        bar.expect(1000)
        bar.skip(900)
        clock.now = 50
        bar.update(50)
        bar.expect(-25)
        bar.skip(0)
    assert caplog.messages == ["fine-tuning: 950 of 1000 images after 50 s: about 50 s left."]


def test_an_unusual_plural_is_given(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    units = {"unit": "variant in a fold", "units": "variants in folds"}
    with caplog.at_level("INFO", "mil_toolkit"), ProgressBar(4, task="ablation", clock=clock, **units) as bar:
        clock.now = 60
        bar.update()
    assert caplog.messages == ["ablation: 1 of 4 variants in folds after 60 s: about 3.0 min left."]


def command(work: str, *argv: str) -> int:
    """Run a command that shows a bar and logs while it is shown."""

    def run(_: object) -> frame.Outcome:
        with ProgressBar(3, "image", "embedding") as bar:
            bar.update()
            logging.getLogger("mil_toolkit.features.extract").warning(work)
            bar.update(2)
        return frame.Outcome("result", {})

    return frame.run(frame.command_parser("mil-x", ""), run, argv)


@pytest.mark.parametrize("options", [(), ("--json",), ("--verbose",), ("--quiet",)])
def test_a_pipe_gets_the_result_only(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    assert command("doubt", *options) == 0
    assert capsys.readouterr().out == ("{}\n" if "--json" in options else "result\n")
    text = shown.getvalue()
    assert ("embedding" in text and "3/3" in text) == (options != ("--quiet",))
    if options == ("--quiet",):
        assert text == "doubt\n"


def test_a_message_gets_a_line_of_its_own_beside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    command("doubt")
    before, after = shown.getvalue().split("doubt\n")
    assert before.endswith("\r") and after.startswith("\rembedding")


def test_a_log_that_is_not_a_terminal_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    command("doubt")
    assert capsys.readouterr().err == "doubt\n"
