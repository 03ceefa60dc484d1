"""`Decoders`: processes that decode images into shared memory, in batches and in order.

Threads that decode wait for each other outside of the decoder itself, because Python runs one of them at a
time. Processes do not.
"""

import contextlib
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Generic, Self, TypeVar

from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import MilError, UsageError
from mil_toolkit.core.processes import (
    InheritedDescriptor,
    anonymous_file,
    defer_stop_signals,
    start_worker,
    stop_worker,
)
from mil_toolkit.core.text import printable, some
from mil_toolkit.core.threads import thread_variables
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.decode_worker import Paths, Reply, decode_images, map_slots
from mil_toolkit.features.read_prepared import FileFacts, UnreadableFile
from mil_toolkit.features.stain import Pixels

RING = 4  # batches in shared memory: one is being embedded, the others are being decoded
IMAGES = 16  # that a process is given at once; messages then take this process 16 microseconds for each image
_AHEAD = 2  # of which a process has so many at a time, so that it need not wait for the next

Job = TypeVar("Job")


@dataclass(frozen=True)
class DecodedBatch(Generic[Job]):
    """A batch of images in shared memory.

    jobs: of the images; files: what is known of each file, or why it cannot be read
    pixels: (batch_size, S, S, 3) uint8; black where there is no job or its file cannot be read
    """

    jobs: Sequence[Job]
    files: Sequence[FileFacts | UnreadableFile]
    pixels: Pixels


@dataclass
class _Batch(Generic[Job]):
    """A batch whose images are being decoded; first: number of its first slot."""

    jobs: list[Job]
    first: int
    files: dict[int, FileFacts | UnreadableFile] = field(default_factory=dict)

    @property
    def is_decoded(self) -> bool:
        return len(self.files) == len(self.jobs)


@dataclass
class _Task(Generic[Job]):
    """Consecutive images of a batch, beginning at `start`, that a process decodes."""

    batch: _Batch[Job]
    start: int
    paths: tuple[str, ...]
    resolutions: tuple[float | None, ...]

    @property
    def request(self) -> Paths:
        """The message to the process."""
        return Paths(self.batch.first + self.start, self.paths, self.resolutions)


@dataclass
class _Worker(Generic[Job]):
    """A process, and the tasks that were sent to it and not answered yet."""

    process: BaseProcess
    tasks: deque[_Task[Job]] = field(default_factory=deque)


class Decoders(Generic[Job]):
    """A context manager for `count` processes that decode images as `config` says.

    colour: see `decode`
    path_of: the image file of a job
    resolution_of: its micrometres per pixel, if it is to be resampled; see `read_prepared`
    slots: (RING * batch_size, S, S, 3) uint8, the memory that all processes share
    """

    def __init__(
        self,
        config: ExtractionConfig,
        colour: Colour | None,
        count: int,
        batch_size: int,
        path_of: Callable[[Job], Path],
        resolution_of: Callable[[Job], float | None] = lambda _: None,
    ):
        self.count, self.batch_size = count, batch_size
        self._path_of, self._resolution_of = path_of, resolution_of
        self._job = partial(decode_images, config, colour)
        self._descriptor = anonymous_file("mil_toolkit pixels")
        os.ftruncate(self._descriptor, RING * batch_size * config.side**2 * 3)
        self.slots = map_slots(self._descriptor, config.side)
        self._workers: dict[Connection, _Worker[Job]] = {}
        self._tasks: deque[_Task[Job]] = deque()  # that no process has yet

    def __enter__(self) -> Self:
        try:
            for _ in range(self.count):
                self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with defer_stop_signals():
            self.close()

    def _start(self) -> None:
        ours, theirs = Pipe()
        with theirs:  # once the process has its own copy, its end closes with it
            slots = InheritedDescriptor(self._descriptor)
            with _without_main_module():
                process = start_worker(self._job, None, thread_variables(1), theirs, slots)
        self._workers[ours] = _Worker(process)

    def close(self) -> None:
        """Stop all processes and wait for their end."""
        for worker in self._workers.values():
            stop_worker(worker.process)
        for connection, worker in self._workers.items():
            connection.close()
            worker.process.join()
        self._workers = {}
        os.close(self._descriptor)

    def batches(self, jobs: Iterator[Job]) -> Iterator[DecodedBatch[Job]]:
        """Yield the images of all jobs in order; the last batch may have fewer jobs.

        The pixels of a batch are overwritten once the second batch after it is requested.

        Raises UsageError if a process was killed, as where memory runs out.
        """
        opened: deque[_Batch[Job]] = deque()
        number = 0
        while True:
            while len(opened) < RING - 1 and (taken := list(islice(jobs, self.batch_size))):
                opened.append(_Batch(taken, number % RING * self.batch_size))
                self._tasks.extend(self._divide(opened[-1]))
                number += 1
            if not opened:
                return
            while not opened[0].is_decoded:
                self._give_tasks()
                self._receive()
            self._give_tasks()
            yield self._finished(opened.popleft())

    def _divide(self, batch: _Batch[Job]) -> Iterator[_Task[Job]]:
        for start in range(0, len(batch.jobs), IMAGES):
            part = batch.jobs[start : start + IMAGES]
            paths = tuple(str(self._path_of(job)) for job in part)
            yield _Task(batch, start, paths, tuple(map(self._resolution_of, part)))

    def _finished(self, batch: _Batch[Job]) -> DecodedBatch[Job]:
        pixels = self.slots[batch.first : batch.first + self.batch_size]
        pixels[len(batch.jobs) :] = 0
        return DecodedBatch(batch.jobs, [batch.files[place] for place in range(len(batch.jobs))], pixels)

    def _give_tasks(self) -> None:
        """Send tasks to the processes that have the fewest."""
        for had in range(_AHEAD):
            for connection, worker in self._workers.items():
                if self._tasks and len(worker.tasks) <= had:
                    task = self._tasks.popleft()
                    worker.tasks.append(task)
                    with contextlib.suppress(ConnectionError):  # it has died: `_receive` reports it
                        connection.send(task.request)

    def _receive(self) -> None:
        """Wait for replies, and note what is known of their images."""
        busy = [connection for connection, worker in self._workers.items() if worker.tasks]
        for connection in wait(busy):
            assert isinstance(connection, Connection)
            worker = self._workers[connection]
            try:
                reply: Reply = connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                raise self._error(worker) from None
            task = worker.tasks.popleft()
            task.batch.files.update(enumerate(reply, task.start))

    def _error(self, worker: _Worker[Job]) -> MilError:
        """Return the error about a process that has ended although it had tasks."""
        worker.process.join()
        code = worker.process.exitcode or 0
        names = some([printable(path) for path in worker.tasks[0].paths])
        what = f"A process that decodes images ended while it read some of {names}"
        if code < 0:
            return UsageError(
                f"{what}: it was killed by {_signal_name(-code)}, perhaps for lack of memory. Use fewer such"
                f" processes with mil-extract --workers, now {self.count}. What was published is kept."
            )
        return MilError(f"{what}, with exit code {code}; the reason is above. What was published is kept.")


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Let processes that are started within the block not import the program's main module.

    They need nothing of it. It may import torch, and a script that is not protected by
    `if __name__ == "__main__":`, or is read from a pipe, could not be imported.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
