"""Supervision of worker processes: watch them until all have ended, and stop them with this process."""

import logging
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from mil_toolkit.core.processes import defer_stop_signals, stop_worker

POLL = 1.0  # seconds between two looks at what other processes do

logger = logging.getLogger(__name__)


def supervise(workers: Sequence[BaseProcess], look: Callable[[], None]) -> None:
    """Wait until all workers have ended, and call `look` from time to time; an interrupt stops them."""
    try:
        while alive := [worker.sentinel for worker in workers if worker.is_alive()]:
            # An interrupted query would keep the database's lock, for which the workers wait.
            with defer_stop_signals():
                look()
            wait(alive, POLL)
    finally:
        with defer_stop_signals():
            for worker in workers:
                stop_worker(worker)
            for worker in workers:
                worker.join()
    killed = [worker for worker in workers if worker.exitcode and worker.exitcode < 0]
    if killed:
        message = (
            "%d of %d workers were killed, perhaps for lack of memory: this process continues without them."
        )
        logger.warning(message, len(killed), len(workers))
