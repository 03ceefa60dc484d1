"""One process's part in running a study."""

import contextlib
import csv
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from mil_toolkit.config import ALONE, HeadConfig, RunConfig
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.core.errors import BusyError, DataError, Diverged
from mil_toolkit.core.files import publish, publish_json, read_json, remove_dead_temporaries
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.processes import stop_worker, stops_deferred
from mil_toolkit.core.seeds import MEMBERS, derive_seeds
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.metrics import METRICS, score_all
from mil_toolkit.search.samplers import PRUNERS, SAMPLERS
from mil_toolkit.search.slots import NUMBER, NoValue, Slots, durations
from mil_toolkit.search.space import Space
from mil_toolkit.search.storage import Storage
from mil_toolkit.study.description import refuse_other
from mil_toolkit.study.folder import Best, Study, epoch_lines, epochs_of
from mil_toolkit.study.plan import Search
from mil_toolkit.study.scores import study_scores
from mil_toolkit.study.tables import (
    ATTENTION,
    PREDICTION_COLUMNS,
    attention_table,
    outer_predictions,
    prediction_table,
    publish_table,
    read_predictions,
)
from mil_toolkit.study.tracker import TRACKERS
from mil_toolkit.training.curves import THRESHOLD, Curves, decide, lead
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial

EPOCH_METRICS = ("balanced_log_loss", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")
CONCLUDE = ".conclude"  # lock of a search, or of the study, that one process ends for all
POLL = 1.0  # seconds between two looks at what other processes do
logger = logging.getLogger(__name__)


class Run:
    """What one process does for a study.

    searches: the final one last; quiet: tell nothing of the progress
    """

    def __init__(
        self,
        study: Study,
        patients: Patients,
        searches: Sequence[Search],
        storage: Storage,
        device: str,
        how: RunConfig = ALONE,
        quiet: bool = False,
    ):
        self.study, self.config, self.patients, self.searches = study, study.config, patients, searches
        self.storage, self.how, self.quiet = storage, how, quiet
        self.device = pick_device(device)
        self.dtype = training_dtype(self.device)
        self.space = Space.of(self.config, patients)
        self.planned = self.space.planned(self.config.sampler)
        grid = self.config.sampler == "grid"
        self.count = min(self.config.trials, len(self.planned)) if grid else self.config.trials
        self.tracker = TRACKERS[how.tracker](study)
        self.begun = datetime.now()
        self.trials = self.count * len(searches)
        self.progress = tqdm(total=self.trials, desc="trials", unit="trial", disable=True if quiet else None)
        self._slots: dict[str, Slots] = {}
        self._counted: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._last_inputs: tuple[Search, Inputs] | None = None
        self._estimated = quiet

    @property
    def seconds_per_trial(self) -> float:
        """Mean over the trials that began since; 0 where there were none."""
        trials = [trial for slots in self._slots.values() for trial in slots.counted]
        seconds = durations(trials, self.begun)
        return float(np.mean(seconds)) if seconds else 0.0

    # All searches.

    def recover(self) -> None:
        """Give up what dead processes left. What runs in an embedded storage is dead: the lock is ours."""
        for search in self.searches:
            folder = self.study.folder_of(search)
            for each in (folder, folder / "epochs"):
                remove_dead_temporaries(each)
            if not (self.storage.shared or self._concluded(search)):
                self.slots(search).fail_running()

    def work(self, wait: bool = True) -> None:
        """Run what is left of every search. What other processes still run is waited for, unless told otherwise."""
        left = [search for search in self.searches if not self._advance(search)]
        while left and wait:
            time.sleep(POLL)
            left = [search for search in left if not self._advance(search)]

    def watch(self, workers: Sequence[BaseProcess]) -> None:
        """Show what workers do until all have ended; what stops this process stops them."""
        try:
            while alive := [worker.sentinel for worker in workers if worker.is_alive()]:
                with stops_deferred():  # a query that broke off would keep the lock that the workers wait for
                    for search in self.searches:
                        if not (self.progress.disable and self._estimated):
                            self._show(search)
                wait(alive, POLL)
        finally:
            with stops_deferred():
                for worker in workers:
                    stop_worker(worker)
                for worker in workers:
                    worker.join()
        killed = [worker for worker in workers if worker.exitcode and worker.exitcode < 0]
        if killed:
            words = "%d of %d workers were killed, perhaps for want of memory: this process goes on alone."
            logger.warning(words, len(killed), len(workers))

    def score(self) -> dict[str, Any]:
        """Score the study and mark it as done; where processes share its folder, the first one does so for all."""
        folder = self.study.folder
        with exclusive(folder, CONCLUDE, wait=True):
            if self.storage.shared and (folder / "DONE").exists():
                return dict(read_json(folder / "scores.json"))
            outer = [self.predictions(search) for search in self.searches[:-1]]
            if outer:
                publish_table(folder / "predictions.csv", pd.concat(outer)[PREDICTION_COLUMNS])
            scores = study_scores(self.study, self.study.best, self.patients, self.searches, outer)
            publish_json(folder / "scores.json", scores)
            self.tracker.log_scores(scores)
            publish(folder / "DONE", b"")
        return scores

    # One search.

    def predictions(self, search: Search) -> pd.DataFrame:
        """An outer fold's test patients, each predicted once by what the fold's search chose and fitted."""
        return read_predictions(self._predictions_path(search))

    def _predictions_path(self, search: Search) -> Path:
        return self.study.folder_of(search) / "predictions.csv"

    def _concluded(self, search: Search) -> bool:
        chosen = (self.study.folder_of(search) / "best.json").exists()
        return chosen and (not len(search.test) or self._predictions_path(search).exists())

    def slots(self, search: Search) -> Slots:
        """The search's trials; raises DataError where those of another study are in the storage."""
        if search.name not in self._slots:
            epochs = max(self.config.settings.get("epochs", (HeadConfig().epochs,)))
            higher = METRICS[self.config.objective].higher_is_better
            pruner = PRUNERS[self.config.pruner](epochs)
            slots = Slots(self.storage, search.name, self.count, higher, pruner, self.planned)
            told = {**self.study.described, "splits": search.digest}
            refuse_other(self.storage, slots.keep("study", told), told)
            self._slots[search.name] = slots
        return self._slots[search.name]

    def _advance(self, search: Search) -> bool:
        """Run what trials can be begun, and conclude the search if none is left; whether it is concluded."""
        if not self._concluded(search):
            slots = self.slots(search)
            while self._in_time(search, slots) and slots.run_next(
                partial(self._trial, search), partial(self._sampler, search)
            ):
                if not self.quiet:
                    self._show(search)
            if not slots.ended or not self._conclude(search, slots):
                return False
        self._counted[search.name] = self.count
        self._last_inputs = None
        return True

    def _in_time(self, search: Search, slots: Slots) -> bool:
        if self.how.timeout is None:
            return True
        until = self._until.setdefault(search.name, time.monotonic() + self.how.timeout)
        if time.monotonic() < until or not slots.best(slots.counted):
            return True
        slots.close()
        return False

    def _sampler(self, search: Search, number: int) -> optuna.samplers.BaseSampler:
        """A sampler that depends on the slot alone, not on how often the study was stopped."""
        return SAMPLERS[self.config.sampler](derive_seeds(1, *self.study.seed(search, number))[0])

    def _inputs(self, search: Search) -> Inputs:
        if self._last_inputs is None or self._last_inputs[0] is not search:
            trains = [split.train for split in search.inner]
            inputs = Inputs(self.patients.take(search.patients), trains, self.device, self.dtype)
            self._last_inputs = search, inputs
        return self._last_inputs[1]

    def _trial(self, search: Search, trial: optuna.Trial, check: Callable[[], None]) -> float:
        number, config = trial.user_attrs[NUMBER], self.space.suggest(trial)
        walked: list[Curves] = []

        def on_epoch(curves: Curves, value: float) -> None:
            walked[:] = [curves]
            check()
            trial.report(value, len(curves.logits))
            if trial.should_prune():
                raise optuna.TrialPruned

        seed = self.study.seed(search, number)
        try:
            result = run_trial(self._inputs(search), config, self.config.objective, seed, on_epoch)
        except optuna.TrialPruned:
            self._log(search, number, config, walked)
            raise
        except Diverged:
            self._log(search, number, config, walked)
            logger.info("search %s, trial %d diverged.", search.name, number)
            raise NoValue("diverged") from None
        self._log(search, number, config, walked)
        if not np.isfinite(result.value):
            raise NoValue(f"{self.config.objective} is undefined")
        trial.set_user_attr("epoch", result.epoch)
        return result.value

    def _log(self, search: Search, number: int, config: HeadConfig, walked: Sequence[Curves]) -> None:
        rows = [row for curves in walked for row in epoch_scores(curves)]
        publish(epochs_of(self.study.folder_of(search), number), epoch_lines(rows))
        self.tracker.log_trial(search.name, number, config, rows)

    def _show(self, search: Search) -> None:
        trials = self.slots(search).counted
        self._counted[search.name] = len(trials)
        self.progress.update(sum(self._counted.values()) - self.progress.n)
        if best := self.slots(search).best(trials):
            self.progress.set_postfix({"best": f"{best.value:.4f}"})
        if not self._estimated and (seconds := durations(trials, self.begun)):
            self._estimate(seconds[0])

    def _estimate(self, seconds: float) -> None:
        self._estimated = True
        left = (self.trials - sum(self._counted.values())) * seconds / self.how.workers
        words = "The first trial took %.1f s; %d in all: about %.0f min."
        logger.info(words, seconds, self.trials, left / 60)

    def _conclude(self, search: Search, slots: Slots) -> bool:
        """Choose, refit and predict, unless another process does so just now."""
        folder = self.study.folder_of(search)
        try:
            with exclusive(folder, CONCLUDE):
                trials = slots.counted
                publish(folder / "trials.csv", _trials_csv(trials).encode())
                if not (folder / "best.json").exists():
                    self._choose(search, trials)
                if len(search.test) and not self._predictions_path(search).exists():
                    self._predict(search, Best.read(folder / "best.json"), folder)
        except BusyError:
            return False
        return True

    def _choose(self, search: Search, trials: Sequence[FrozenTrial]) -> None:
        chosen, again, passed_over = self._chosen(search, trials)
        number, epoch = chosen.user_attrs[NUMBER], chosen.user_attrs["epoch"]
        config = self.space.suggest(optuna.trial.FixedTrial(chosen.params))
        decision = decide(again, self.config.threshold, self.config.sensitivity)
        training, folder = _training(again, decision), self.study.folder_of(search)
        best = Best(number, config, epoch, chosen.values[0], decision, training, chosen.params, passed_over)
        publish_table(folder / "out_of_fold.csv", self._out_of_fold(search, again, decision))
        attention = attention_table(self.patients.take(search.patients), again.attention)
        if attention is not None and not self.config.outer_folds:
            publish_table(folder / ATTENTION, attention.dropna())
        publish_json(folder / "best.json", asdict(best))

    def _chosen(
        self, search: Search, trials: Sequence[FrozenTrial]
    ) -> tuple[FrozenTrial, Curves, dict[str, float | None] | None]:
        """The best trial with its members' curves, or the defaults, which a search tries first, if not surpassed.

        Also what was passed over for them, as in `Best`.
        """
        best, first = self.slots(search).best(trials), trials[0]
        if best is None:
            raise DataError(f"search {search.name}: every trial diverged. Use smaller learning rates.")
        again = self._again(search, best)
        if self.config.sampler == "grid" or first.state is not TrialState.COMPLETE or first is best:
            return best, again, None
        plain = self._again(search, first)
        led, error = lead(again, plain, self.config.objective)
        if led > error:
            return best, again, None
        found = {"lead": led, "error": error}
        known = {name: value if np.isfinite(value) else None for name, value in found.items()}
        return first, plain, {"trial": best.user_attrs[NUMBER], **known}

    def _again(self, search: Search, trial: FrozenTrial) -> Curves:
        config = self.space.suggest(optuna.trial.FixedTrial(trial.params))
        seed = self.study.seed(search, MEMBERS)
        return cross_fit_members(
            self._inputs(search), config, trial.user_attrs["epoch"], self.config.members, seed
        )

    def _predict(self, search: Search, best: Best, folder: Path) -> None:
        train, seed = self.patients.take(search.patients), self.study.seed(search, MEMBERS)
        head = refit(train, best.config, best.epoch, self.config.members, seed, self.device, self.dtype)
        test = self.patients.take(search.test)
        applied = head.apply(test)
        attention = attention_table(test, applied.attention)
        if attention is not None:
            for name, value in zip(("fold", "repeat"), reversed(search.path), strict=True):
                attention.insert(0, name, value)
            publish_table(folder / ATTENTION, attention)
        publish_table(
            folder / "predictions.csv", outer_predictions(search, test, applied.logits, best.decision)
        )

    def _out_of_fold(self, search: Search, again: Curves, decision: Decision) -> pd.DataFrame:
        kept = again.held_out
        table = prediction_table(
            search, search.patients[kept], self.patients, again.out_of_fold(1)[kept], decision
        )
        return table.assign(fold=again.held_by[kept] + 1)

    def evaluate(self, search: Search, trial: FrozenTrial) -> float:
        """The value of a trial that is stored, computed anew."""
        config = self.space.suggest(optuna.trial.FixedTrial(trial.params))
        pruned = trial.state is TrialState.PRUNED
        values: list[float] = []

        def on_epoch(_: Curves, value: float) -> None:
            values.append(value)
            if pruned and len(values) == trial.last_step:
                raise optuna.TrialPruned

        seed = self.study.seed(search, trial.user_attrs[NUMBER])
        with contextlib.suppress(optuna.TrialPruned):
            return run_trial(self._inputs(search), config, self.config.objective, seed, on_epoch).value
        return values[-1]


def _training(again: Curves, decision: Decision) -> dict[str, float | None]:
    labels, logits = again.training_logits(1)
    scores = score_all(labels, decision.probabilities(logits), decision.threshold)
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}


def epoch_scores(curves: Curves) -> list[dict[str, float]]:
    """Validation scores after each epoch, and training scores of its own pass, at a threshold of 0.5; see `Curves`."""
    rows = []
    for epoch in range(1, len(curves.logits) + 1):
        row: dict[str, float] = {"epoch": epoch}
        for part, (labels, probabilities) in (
            ("training", curves.training(epoch)),
            ("validation", curves.validation(epoch)),
        ):
            for name in EPOCH_METRICS:
                row[f"{part}_{name}"] = METRICS[name].score(labels, probabilities, THRESHOLD)
        rows.append(row)
    return rows


def _trials_csv(trials: Sequence[FrozenTrial]) -> str:
    names = sorted({name for trial in trials for name in trial.params})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", "value", "state", *names])
    for trial in trials:
        told = [trial.user_attrs[NUMBER], trial.value, trial.state.name]
        writer.writerow([*told, *(trial.params.get(name) for name in names)])
    return file.getvalue()
