"""`tune`: one Optuna study for each outer fold and one on all labelled patients, into a study folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import ALONE, RunConfig, StudyConfig
from mil_toolkit.core.devices import pick_device
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import publish_json, read_json
from mil_toolkit.core.locks import exclusive, shared
from mil_toolkit.core.processes import start_worker
from mil_toolkit.core.text import some
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.search.slots import NUMBER
from mil_toolkit.search.space import Space
from mil_toolkit.search.storage import DATABASE, Storage, postgresql
from mil_toolkit.study.audit import Finding, audit
from mil_toolkit.study.folder import Best, Study
from mil_toolkit.study.plan import Search, plan_searches
from mil_toolkit.study.run import Run, logger
from mil_toolkit.study.tracker import TRACKERS
from mil_toolkit.training.patients import Patients


@dataclass(frozen=True)
class Tuned:
    """What `tune` found: the final search's choice, what scores.json says, and what it took."""

    study: Study
    best: Best
    scores: Mapping[str, Any]
    trials: int
    seconds_per_trial: float
    findings: Sequence[Finding]


def tune(
    cohort: Cohort,
    cache: FeatureCache | None,
    folder: Path,
    config: StudyConfig,
    device: str = "auto",
    how: RunConfig = ALONE,
) -> Tuned:
    """Search the hyperparameters of a cohort's head, and score the procedure on outer folds that choose nothing.

    cache: the cohort's features, None for metadata alone. Goes on with a study that was stopped. On a shared storage
    several processes may run the same study, in one folder or, on several machines, in folders of the same name.
    Raises DataError for a study of other data or options, a class too small for its folds, patients without
    embeddings; UsageError where the folder (which may hold nothing but a study), the device, the storage or the tracker
    cannot be used; BusyError where another process works in the folder.
    """
    labelled = cohort.labelled()
    patients = Patients.of(labelled, cache)
    Space.of(config, patients).planned(config.sampler)  # raises before anything is written
    searches, splits = plan_searches(labelled, config)
    check_run(folder, device, how)
    with exclusive(folder) if how.storage is None else shared(folder, wait=False) as lock:
        storage = Storage(folder, how.storage)  # first: one that cannot be had must not leave a study behind
        study = Study.begin(folder, config, cohort, cache, {"splits.json": splits})
        if cohort.groups is not None:
            _tell_held_out(splits["held_out"])
        findings = audit(cohort, cache)
        publish_json(folder / "audit.json", [asdict(finding) for finding in findings])
        study.record(cohort, cache)
        _warn(findings)
        run = Run(study, patients, searches, storage, device, how)
        with storage.told():
            run.recover()
            if how.workers > 1:
                job = partial(_work, study, labelled, cache, searches, device, how)
                run.watch([start_worker(job, lock, each) for each in _shares(how.workers)])
                run.recover()
            run.work()
            run.progress.close()
            return Tuned(study, study.best, run.score(), run.trials, run.seconds_per_trial, findings)


def check_run(folder: Path, device: str, how: RunConfig) -> None:
    """Raise UsageError for a folder, device, storage or tracker that cannot be used, before a study is begun."""
    _check_folder(folder)
    pick_device(device)
    TRACKERS[how.tracker].check()
    if how.storage is not None:
        postgresql(how.storage)


def _check_folder(folder: Path) -> None:
    """Raise UsageError where a folder holds files and is not a study's: they would lie among its own."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if not name.startswith((".", DATABASE))]  # its journal too
    config = read_json(folder / "config.json") if "config.json" in names else None
    if names and not (isinstance(config, dict) and "study" in config):
        raise UsageError(
            f"{folder} is no study: it holds {some(names)}. Name another --study, one that is new."
        )


def _work(
    study: Study,
    labelled: Cohort,
    cache: FeatureCache | None,
    searches: Sequence[Search],
    device: str,
    how: RunConfig,
) -> None:
    """What a worker process does: trials and choices, as long as there is something to begin."""
    storage = Storage(study.folder, how.storage)
    with storage.told():
        run = Run(study, Patients.of(labelled, cache), searches, storage, device, how, quiet=True)
        run.work(wait=False)


def _shares(workers: int) -> list[dict[str, str]]:
    """Environments that divide the threads, and deal out the cards, among workers."""
    threads, cards = max(1, torch.get_num_threads() // workers), max(1, torch.cuda.device_count())
    return [{"OMP_NUM_THREADS": str(threads), "LOCAL_RANK": str(worker % cards)} for worker in range(workers)]


def _tell_held_out(counts: Mapping[str, Mapping[str, int]]) -> None:
    """What whole groups made of the strata."""
    told = (f"{name} {each['positive']} + {each['negative']}" for name, each in counts.items())
    logger.info("Outer folds of whole groups hold out (positive + negative): %s.", ", ".join(told))


def _warn(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.level == "leak":  # worth a word before the hours that a study takes
            logger.warning("%s %s", finding.text, finding.advice)


def evaluate_again(
    cohort: Cohort,
    cache: FeatureCache | None,
    study: Study,
    search: str,
    number: int,
    device: str = "auto",
    storage: str | None = None,
) -> float:
    """Train a stored trial of a study again: the value that it had, on the same machine and number of threads.

    search: its name in splits.json; number: the trial's in trials.csv. The value of a pruned trial is the smoothed
    objective at the epoch that it came to. Raises UsageError where there is no such trial, DataError where the
    study is of another cohort or other features, Diverged where the trial did.
    """
    study.check(cohort, cache)
    labelled = cohort.labelled()
    searches = {each.name: each for each in plan_searches(labelled, study.config)[0]}
    if search not in searches:
        raise UsageError(f"{study.folder} has no search {search!r}, but {', '.join(searches)}.")
    patients, kept = Patients.of(labelled, cache), Storage(study.folder, storage)
    run = Run(study, patients, list(searches.values()), kept, device, quiet=True)
    with kept.told():
        found = {trial.user_attrs[NUMBER]: trial for trial in run.slots(searches[search]).counted}
    if number not in found:
        raise UsageError(f"search {search} of {study.folder} has no trial {number}, but {len(found)} trials.")
    return run.evaluate(searches[search], found[number])
