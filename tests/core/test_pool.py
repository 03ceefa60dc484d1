"""Worker processes that take jobs one after the other, die, fail and are stopped."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from support.processes import serve_squares

from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.pool import Pool
from mil_toolkit.core.processes import start_worker

Job = tuple[str, int]
MakePool = Callable[[int, Sequence[Job]], Pool[Job, int, int]]


@pytest.fixture(name="notes")
def _notes() -> dict[Job, list[int]]:
    """The notes on each job: ids of the processes that began it."""
    return {}


@pytest.fixture(name="pool")
def _pool(tmp_path: Path, notes: dict[Job, list[int]]) -> Iterator[MakePool]:
    with exclusive(tmp_path / "lock") as lock:
        work = partial(serve_squares, tmp_path)

        def make(count: int, jobs: Sequence[Job]) -> Pool[Job, int, int]:
            return Pool(
                lambda _, connection: start_worker(work, lock, {}, connection),
                count,
                jobs,
                lambda job, process: notes.setdefault(job, []).append(process),
            )

        yield make


@pytest.mark.parametrize("count", [1, 3])
def test_every_job_is_done_once(count: int, pool: MakePool, notes: dict[Job, list[int]]) -> None:
    jobs = [("job", number) for number in range(5)]
    running = pool(count, jobs)
    running.run()
    assert running.results == {job: job[1] ** 2 for job in jobs} and not running.failed
    assert set(notes) == set(jobs) and {len(processes) for processes in notes.values()} == {1}
    assert len({process for processes in notes.values() for process in processes}) <= count


def test_what_workers_log_is_logged(pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "mil_toolkit"):
        pool(2, [("logs", 1), ("logs", 2)]).run()
    said = sorted((record.name, record.getMessage()) for record in caplog.records)
    expected = [f"job {number} at level {level}" for number in (1, 2) for level in (20, 30)]
    assert said == [("mil_toolkit.study.run", words) for words in expected]
    assert os.getpid() not in {record.process for record in caplog.records}


def test_python_warnings_of_workers_are_logged_and_shown_once(
    pool: MakePool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pool(1, [("warns", 1)]).run()
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.process != os.getpid()
    assert record.getMessage() == r"UserWarning: 100 % sure\nthat this is odd"
    assert "that this is odd" not in capfd.readouterr().err


def test_workers_show_no_bars(pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "mil_toolkit"):
        pool(1, [("bars", 1)]).run()
    assert caplog.messages == ["hidden: True"]


def test_more_workers_than_jobs(pool: MakePool) -> None:
    running = pool(3, [("job", 7)])
    running.run()
    assert running.results == {("job", 7): 49} and not running.failed


def test_a_job_whose_worker_was_killed_is_done_by_another_one(
    pool: MakePool, notes: dict[Job, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [("dies once", 2), *(("job", number) for number in range(20))]
    running = pool(2, jobs)
    running.run()
    left = set(jobs) - set(running.results)
    assert left == set(running.failed) <= {jobs[0]}  # if the other worker has ended before the death is seen
    assert "1 of 2 workers were killed" in caplog.text
    if not left:
        first, second = notes["dies once", 2]
        assert first != second and running.results["dies once", 2] == 4


def test_a_job_that_kills_all_workers_is_left_to_the_parent(pool: MakePool) -> None:
    running = pool(2, [("dies", 1), ("job", 2)])
    running.run()
    assert running.failed == [("dies", 1)]
    assert running.results.items() <= {("job", 2): 4}.items()


def test_a_job_that_fails_ends_the_others(pool: MakePool, capfd: pytest.CaptureFixture[str]) -> None:
    running = pool(2, [("waits", 1), ("fails", 2), ("job", 3)])
    running.run()
    assert running.failed == [("fails", 2)] and not running.results
    assert running.reasons == {("fails", 2): "the parent reports this"}
    assert capfd.readouterr().err == ""


def test_a_stop_leaves_no_query_half_done_while_workers_end(
    pool: MakePool, notes: dict[Job, list[int]]
) -> None:
    """It would keep SQLite's lock, for which the workers wait, for whose end the stop waits."""
    looked: list[int] = []

    def look() -> None:
        if notes:
            os.kill(os.getpid(), signal.SIGINT)
            looked.append(len(looked))

    with pytest.raises(KeyboardInterrupt):
        pool(1, [("waits", 1)]).run(look)
    assert looked == [0]
    (process,) = notes["waits", 1]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
