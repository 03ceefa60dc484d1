"""Jobs of a study for worker processes: searches, and other parts that depend on no other part."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeVar

import pandas as pd
import torch

from mil_toolkit.config.run import RunConfig
from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.pool import Pool, serve
from mil_toolkit.core.processes import InheritedDescriptor, start_worker
from mil_toolkit.core.threads import fixed_threads, thread_variables
from mil_toolkit.search.storage import DatabaseStorage, quiet_optuna
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import Search
from mil_toolkit.study.progress import Progress
from mil_toolkit.study.remaining import SearchNote
from mil_toolkit.study.run import recover, run_searches, search_runs
from mil_toolkit.study.scores import outer_rivals
from mil_toolkit.study.sharing import SharedPatients, shared_patients
from mil_toolkit.study.tracker import TRACKERS
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.patients import Patients

NEEDS_LESS_MEMORY = (
    "Run the same command again with fewer --workers, which share the device, or with --device cpu: a study"
    " continues where it stopped. A new study needs less with a smaller --together or --set"
    " batch_size=4."
)
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
logger = logging.getLogger(__name__)


class Job(Hashable, Protocol[Result_co]):
    """A part of a study whose result does not depend on the process that does it; picklable."""

    def do(self, patients: Patients, progress: Progress) -> Result_co:
        """Do the job; patients: all labelled patients of the study."""
        ...


@dataclass(frozen=True, eq=False)
class SearchJob:
    """Searches of a study, one after the other, whose results go to the study folder.

    wait: also for trials that processes of other commands are running
    label: what the notes put before the names of the searches
    """

    study: Study
    searches: Sequence[Search]
    how: RunConfig
    device: str
    wait: bool = True
    label: str = ""

    def do(self, patients: Patients, progress: Progress) -> None:
        """Run what is left of the searches."""
        storage = DatabaseStorage(self.study.folder, self.how.storage)
        with storage.errors_explained(), quiet_optuna():
            workspace = Workspace.of(self.study, patients, self.device)
            tracker = TRACKERS[self.how.tracker](self.study)
            runs = search_runs(workspace, self.searches, storage, tracker, self.how.timeout)
            for run in runs:
                recover(run)
            run_searches(runs, self._labelled(progress), self.wait)

    def _labelled(self, progress: Progress) -> Progress:
        return lambda note: progress(replace(note, search=f"{self.label}{note.search}"))


@dataclass(frozen=True, eq=False)
class RivalsJob:
    """The predictions of the baselines on the held-out patients of a study's outer folds."""

    study: Study
    searches: Sequence[Search]

    def do(self, patients: Patients, progress: Progress) -> dict[str, pd.DataFrame]:
        """Return the predictions by baseline; see `outer_rivals`."""
        return outer_rivals(self.study.config, patients, self.searches) if self.searches else {}


@dataclass(frozen=True)
class Processes:
    """The processes that do jobs: how many, the threads of each, and the lock that all of them hold."""

    count: int
    threads: int
    lock: int


def do_jobs(
    jobs: Sequence[Job[Result]],
    patients: Patients,
    processes: Processes,
    progress: Progress,
    look: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Do all jobs, begun in this order, and return their results.

    processes: if there are several, they do the jobs side by side
    look: called from time to time while workers run

    This process does the jobs that workers failed at, and so runs into the error that they ran into.
    """
    done: dict[Job[Result], Result] = {}
    while left := [job for job in jobs if job not in done]:
        for job, reason in _side_by_side(left, patients, processes, progress, look, done).items():
            with fixed_threads(processes.threads), explain_out_of_memory(NEEDS_LESS_MEMORY):
                done[job] = job.do(patients, progress)
            if reason:
                logger.warning("A worker failed, and a second attempt succeeded: %s", reason)
    return [done[job] for job in jobs]


def _side_by_side(
    jobs: Sequence[Job[Result]],
    patients: Patients,
    processes: Processes,
    progress: Progress,
    look: Callable[[], None],
    done: dict[Job[Result], Result],
) -> dict[Job[Result], str]:
    """Do jobs in workers and add their results to `done`.

    Returns the jobs that are left to this process, and why a worker failed at each of them, if one did.
    """
    if processes.count == 1:
        return dict.fromkeys(jobs, "")
    with shared_patients(patients) as (shared, descriptors):
        start = partial(_start, shared, descriptors, processes)
        count = min(processes.count, len(jobs))
        pool = Pool[Job[Result], SearchNote, Result](start, count, jobs, lambda _, note: progress(note))
        pool.run(look)
    done |= pool.results
    return {job: pool.reasons.get(job, "") for job in pool.failed}


def _start(
    shared: SharedPatients,
    descriptors: Sequence[int],
    processes: Processes,
    number: int,
    connection: Connection,
) -> BaseProcess:
    """Start the worker with this number, on the CUDA devices in turn."""
    device = {"LOCAL_RANK": str(number % max(1, torch.cuda.device_count()))}
    inherited = map(InheritedDescriptor, descriptors)
    serving = partial(_serve, shared, processes.threads)
    variables = thread_variables(processes.threads) | device
    return start_worker(serving, processes.lock, variables, connection, *inherited)


def _serve(
    shared: SharedPatients, threads: int, connection: Connection, descriptor: int | None = None
) -> None:
    """Do jobs in a worker process."""
    with fixed_threads(threads):
        patients = shared.map(descriptor)

        def do(job: Job[Result], progress: Progress) -> Result:
            with explain_out_of_memory(NEEDS_LESS_MEMORY):
                return job.do(patients, progress)

        serve(connection, do)
