"""`Pool`: worker processes that take jobs one after the other, whichever of them die."""

import contextlib
import logging
import pickle
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar, cast

from mil_toolkit.core.errors import MilError
from mil_toolkit.core.processes import defer_stop_signals, stop_worker
from mil_toolkit.core.run_log import python_warnings_passed_on
from mil_toolkit.core.verbosity import LOGGER, PARENT

POLL = 1.0  # seconds between two calls of `look`

Job = TypeVar("Job", bound=Hashable)
Note = TypeVar("Note")
Result = TypeVar("Result")
Job_contra = TypeVar("Job_contra", bound=Hashable, contravariant=True)
Note_co = TypeVar("Note_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)
logger = logging.getLogger(__name__)


class Work(Protocol[Job_contra, Note_co, Result_co]):
    """Does a job; the result must not depend on the process, or on the jobs that the process did before.

    report: takes a note on the job's progress
    """

    def __call__(self, job: Job_contra, report: "Callable[[Note_co], None]", /) -> Result_co: ...


@dataclass(frozen=True)
class _Progress(Generic[Note]):
    note: Note


@dataclass(frozen=True)
class _Ended(Generic[Result]):
    result: Result


@dataclass(frozen=True)
class _Failed:
    reason: str


@dataclass(frozen=True)
class _Logged:
    record: logging.LogRecord


class _Sender(QueueHandler):
    """A worker's end of a pipe: sends its messages, among them what it logs, from any of its threads."""

    def __init__(self, connection: Connection):
        super().__init__(None)  # type: ignore[arg-type]  # `enqueue` needs no queue
        self.set_name(PARENT)
        self._connection, self._sending = connection, threading.Lock()

    def send(self, message: "_Message") -> None:
        """Send a message; if nobody takes it any more, stop as after a signal."""
        try:
            with self._sending:
                self._connection.send(message)
        except ConnectionError:
            raise KeyboardInterrupt from None

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a message of the log, whose arguments are part of its text by now."""
        self.send(_Logged(record))


_Message = _Progress[Any] | _Ended[Any] | _Failed | _Logged


@contextlib.contextmanager
def _logs_sent(sender: _Sender) -> Iterator[None]:
    """Leave messages and Python's warnings within the block to the process that started this worker."""
    root = logging.getLogger(LOGGER)
    before = root.handlers, root.level, root.propagate
    root.handlers, root.propagate = [sender], False
    root.setLevel(logging.DEBUG)
    try:
        with python_warnings_passed_on(logger.warning, shown=False):
            yield
    finally:
        root.handlers, level, root.propagate = before
        root.setLevel(level)


def serve(connection: Connection, work: Work[Job, Note, Result]) -> None:
    """Do the jobs that arrive, in a worker process, until the other end of the pipe is closed."""
    sender = _Sender(connection)
    with _logs_sent(sender):
        _serve(connection, sender, work)


def _serve(connection: Connection, sender: _Sender, work: Work[Job, Note, Result]) -> None:
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            result = work(job, lambda note: sender.send(_Progress(note)))
        except MilError as error:
            sender.send(_Failed(str(error)))
            raise
        sender.send(_Ended(result))


def _log(record: logging.LogRecord) -> None:
    """Log what a worker has logged."""
    origin = logging.getLogger(record.name)
    if origin.isEnabledFor(record.levelno):
        origin.handle(record)


@dataclass
class _Worker(Generic[Job]):
    """A worker process, and the job that it does at the moment."""

    process: BaseProcess
    job: Job | None = None


class Pool(Generic[Job, Note, Result]):
    """Worker processes that take jobs one after the other, in the order of the jobs.

    start: starts a worker from its number and its end of a pipe, with which it calls `serve`
    take: takes the notes on a job

    If a worker is killed, another one does its job again, once. If a worker fails, all others are stopped:
    whoever does its job again gets the error.

    After `run`, `results` has the results by job, `failed` the jobs not to be left to workers again, and
    `reasons` why workers failed at them, where they said so.
    """

    def __init__(
        self,
        start: Callable[[int, Connection], BaseProcess],
        count: int,
        jobs: Sequence[Job],
        take: Callable[[Job, Note], None],
    ):
        self._start, self._count, self._take = start, count, take
        self._waiting, self._repeated = deque(jobs), set[Job]()
        self._workers: dict[Connection, _Worker[Job]] = {}
        self._ending: list[BaseProcess] = []
        self._killed = 0
        self.results: dict[Job, Result] = {}
        self.failed: list[Job] = []
        self.reasons: dict[Job, str] = {}

    def run(self, look: Callable[[], None] = lambda: None) -> None:
        """Do the jobs as far as workers can; an interrupt stops all of them.

        look: called about once a second, while interrupts are deferred
        """
        try:
            for number in range(self._count):
                self._begin(number)
            for started in list(self._workers):  # a large job is taken once its worker runs
                self._give_job(started)
            while self._workers and not self.failed:
                with defer_stop_signals():
                    look()
                for connection in wait(list(self._workers), POLL):
                    self._receive(cast("Connection", connection))
        finally:
            with defer_stop_signals():
                self._stop()
        if self._killed:
            message = "%d of %d workers were killed, perhaps for lack of memory: their work is repeated."
            logger.warning(message, self._killed, self._count)
        self.failed += [job for job in self._repeated if job not in self.results and job not in self.failed]

    def _begin(self, number: int) -> None:
        ours, theirs = Pipe()
        with theirs:  # once the worker has its own copy, its end closes with it
            self._workers[ours] = _Worker(self._start(number, theirs))

    def _give_job(self, connection: Connection) -> None:
        """Send a worker its next job, or close its pipe where none is left: it then ends."""
        worker = self._workers[connection]
        worker.job = self._waiting.popleft() if self._waiting else None
        if worker.job is None:
            self._dismiss(connection)
        else:
            with contextlib.suppress(ConnectionError):  # it has died: `_receive` takes note of it
                connection.send(worker.job)

    def _receive(self, connection: Connection) -> None:
        worker = self._workers[connection]
        assert worker.job is not None
        try:
            message: _Message = connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._bury(connection)
            return
        if isinstance(message, _Ended):
            self.results[worker.job] = message.result
            self._give_job(connection)
        elif isinstance(message, _Failed):
            self.reasons[worker.job] = message.reason
        elif isinstance(message, _Logged):
            _log(message.record)
        else:
            self._take(worker.job, message.note)

    def _dismiss(self, connection: Connection) -> _Worker[Job]:
        worker = self._workers.pop(connection)
        connection.close()
        self._ending.append(worker.process)
        return worker

    def _bury(self, connection: Connection) -> None:
        """Dismiss a worker that has died; if it was killed, leave its job to another one, once."""
        worker = self._dismiss(connection)
        worker.process.join()
        assert worker.job is not None
        if (worker.process.exitcode or 0) >= 0:
            self.failed.append(worker.job)
            return
        self._killed += 1
        if worker.job not in self._repeated:
            self._repeated.add(worker.job)
            self._waiting.append(worker.job)

    def _stop(self) -> None:
        """Interrupt all workers, whether they still do a job or not, and wait for their end."""
        for worker in self._workers.values():  # before their pipes are closed
            stop_worker(worker.process)
        for connection in list(self._workers):
            self._dismiss(connection)
        for process in self._ending:
            stop_worker(process)
        for process in self._ending:
            process.join()
