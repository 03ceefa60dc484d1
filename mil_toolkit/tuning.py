# Floor 3.5: the search: Optuna over the procedure of `nested`.
"""`tune`: one Optuna study for each outer fold and one on all labelled patients, into a study folder."""

import csv
import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from tqdm import tqdm

from mil_toolkit.assessment import (
    ATTENTION,
    PREDICTION_COLUMNS,
    attention_table,
    outer_predictions,
    prediction_table,
    publish_table,
    read_predictions,
    study_scores,
)
from mil_toolkit.audit import Finding, audit
from mil_toolkit.calibration import Decision
from mil_toolkit.cohort import Cohort
from mil_toolkit.devices import pick_device, training_dtype
from mil_toolkit.errors import DataError
from mil_toolkit.features import FeatureCache
from mil_toolkit.files import exclusive, publish, publish_json
from mil_toolkit.hparams import StudyConfig
from mil_toolkit.inputs import Inputs, Patients
from mil_toolkit.metrics import METRICS, score_all
from mil_toolkit.nested import (
    THRESHOLD,
    Curves,
    Diverged,
    decide,
    derive_seeds,
    refit,
    run_again,
    run_trial,
    surpasses,
)
from mil_toolkit.space import Space
from mil_toolkit.study import MEMBERS, Best, Search, Study, epoch_lines, epochs_of, plan_searches

EPOCH_METRICS = ("balanced_log_loss", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings hold tracebacks of what we tell ourselves

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda seed: optuna.samplers.RandomSampler(seed=seed),  # all is enqueued, nothing left to it
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=5),
    "none": optuna.pruners.NopPruner,
}


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
    cohort: Cohort, cache: FeatureCache | None, folder: Path, config: StudyConfig, device: str = "auto"
) -> Tuned:
    """Search the hyperparameters of a cohort's head, and score the procedure on outer folds that choose nothing.

    cache: the cohort's features, None for metadata alone. Goes on with a study that was stopped.
    Raises DataError for a study folder of other data or options, a class too small for its folds, patients
    without embeddings; BusyError where another process works in the folder.
    """
    labelled = cohort.labelled()
    patients = Patients.of(labelled, cache)
    space = Space(config.settings, patients.bags is not None, not patients.metadata.empty)
    planned = space.planned(config.sampler)  # raises before anything is written
    searches, splits = plan_searches(labelled, config)
    with exclusive(folder):
        study = Study.begin(folder, config, cohort, cache)
        publish_json(folder / "splits.json", splits)
        if cohort.groups is not None:
            _tell_held_out(splits["held_out"])
        findings = audit(cohort, cache)
        publish_json(folder / "audit.json", [asdict(finding) for finding in findings])
        study.record(cohort, cache)
        _warn(findings)
        storage = optuna.storages.RDBStorage(_sqlite(folder / "optuna.db"))
        run = Run(study, patients, space, planned, len(searches), storage, device)
        outer = [run.outer(search) for search in searches[:-1]]
        best = run.search(searches[-1])
        run.progress.close()
        if outer:
            publish_table(folder / "predictions.csv", pd.concat(outer)[PREDICTION_COLUMNS])
        scores = study_scores(study, best, patients, searches, outer)
        publish_json(folder / "scores.json", scores)
        publish(folder / "DONE", b"")
    return Tuned(study, best, scores, run.trials * len(searches), run.seconds_per_trial, findings)


def _tell_held_out(counts: Mapping[str, Mapping[str, int]]) -> None:
    """What whole groups made of the strata."""
    told = (f"{name} {each['positive']} + {each['negative']}" for name, each in counts.items())
    logger.info("Outer folds of whole groups hold out (positive + negative): %s.", ", ".join(told))


def _warn(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.level == "leak":  # worth a word before the hours that a study takes
            logger.warning("%s %s", finding.text, finding.advice)


class Run:
    """One call of `tune`: what its searches share.

    searches: how many there are; quiet: tell nothing of the progress
    """

    def __init__(
        self,
        study: Study,
        patients: Patients,
        space: Space,
        planned: Sequence[Mapping[str, Any]],
        searches: int,
        storage: optuna.storages.BaseStorage,
        device: str,
        quiet: bool = False,
    ):
        self.study, self.config, self.patients = study, study.config, patients
        self.storage, self.quiet = storage, quiet
        self.device = pick_device(device)
        self.dtype = training_dtype(self.device)
        self.space, self.planned = space, planned
        self.trials = self.config.trials
        if self.config.sampler == "grid":
            self.trials = min(self.trials, len(planned))
        total, disable = searches * self.trials, True if quiet else None
        self.progress = tqdm(total=total, desc="trials", unit="trial", disable=disable)
        self.seconds: list[float] = []

    @property
    def seconds_per_trial(self) -> float:
        """Mean over the trials of this call; 0 where there were none."""
        return float(np.mean(self.seconds)) if self.seconds else 0.0

    def search(self, search: Search) -> Best:
        """Run what is missing of a search, and say what it chose."""
        optuna_study = self._open(search)
        inputs = self._inputs(search)
        for number in range(self._counted(optuna_study), self.trials):
            self._prepare(optuna_study, search, number)
            begun = time.monotonic()
            optuna_study.optimize(partial(self._trial, search, inputs, number), n_trials=1, catch=(Diverged,))
            self._tell(time.monotonic() - begun, optuna_study)
        return self._choose(search, inputs, optuna_study)

    def outer(self, search: Search) -> pd.DataFrame:
        """Run an outer fold's search, fit what it chose on its patients, and predict its test patients once."""
        best = self.search(search)
        folder = self.study.folder_of(search)
        if not (folder / "predictions.csv").exists():
            self._predict(search, best, folder)
        return read_predictions(folder / "predictions.csv")

    def _predict(self, search: Search, best: Best, folder: Path) -> None:
        train, seed = self.patients.take(search.patients), self.study.seed(search, MEMBERS)
        head = refit(train, best.config, best.epoch, self.config.members, seed, self.device, self.dtype)
        test = self.patients.take(search.test)
        attention = attention_table(test, head.apply(test).attention)
        if attention is not None:
            for name, value in zip(("fold", "repeat"), reversed(search.path), strict=True):
                attention.insert(0, name, value)
            publish_table(folder / ATTENTION, attention)
        publish_table(folder / "predictions.csv", outer_predictions(search, test, head, best.decision))

    def _inputs(self, search: Search) -> Inputs:
        trains = [split.train for split in search.inner]
        return Inputs(self.patients.take(search.patients), trains, self.device, self.dtype)

    def _open(self, search: Search) -> optuna.Study:
        higher = METRICS[self.config.objective].higher_is_better
        opened = optuna.create_study(
            storage=self.storage,
            study_name=search.name,
            direction="maximize" if higher else "minimize",
            pruner=PRUNERS[self.config.pruner](),
            load_if_exists=True,
        )
        for trial in opened.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            opened.tell(trial.number, state=TrialState.FAIL)  # of a process that died: the lock is ours
        return opened

    def _counted(self, optuna_study: optuna.Study) -> int:
        counted = len(_counted_trials(optuna_study))
        self.progress.update(counted)
        return counted

    def _prepare(self, optuna_study: optuna.Study, search: Search, number: int) -> None:
        """Let the trial depend on its number alone, not on how often the study was stopped."""
        seed = derive_seeds(1, *self.study.seed(search, number))[0]
        optuna_study.sampler = SAMPLERS[self.config.sampler](seed)
        waiting = optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if number < len(self.planned) and not waiting:
            optuna_study.enqueue_trial(dict(self.planned[number]))

    def _trial(self, search: Search, inputs: Inputs, number: int, trial: optuna.Trial) -> float:
        config = self.space.suggest(trial)
        seed = self.study.seed(search, number)
        trial.set_user_attr("number", number)
        walked: list[Curves] = []

        def on_epoch(curves: Curves, value: float) -> None:
            walked[:] = [curves]
            trial.report(value, len(curves.logits))
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            result = run_trial(inputs, config, self.config.objective, seed, on_epoch)
        except Diverged:
            trial.set_user_attr("diverged", True)
            logger.info("search %s, trial %d diverged.", search.name, number)
            raise
        finally:
            self._log_epochs(search, number, walked)
        trial.set_user_attr("epoch", result.epoch)
        return result.value

    def _log_epochs(self, search: Search, number: int, walked: Sequence[Curves]) -> None:
        rows = [row for curves in walked for row in epoch_scores(curves)]
        publish(epochs_of(self.study.folder_of(search), number), epoch_lines(rows))

    def _tell(self, seconds: float, optuna_study: optuna.Study) -> None:
        self.seconds.append(seconds)
        self.progress.update()
        done = [trial.value for trial in optuna_study.get_trials(deepcopy=False, states=FINISHED[:1])]
        if done:
            self.progress.set_postfix({"best": f"{optuna_study.best_value:.4f}"})
        if len(self.seconds) == 1 and not self.quiet:
            left = (self.progress.total - self.progress.n) * seconds
            logger.info(
                "The first trial took %.1f s; %d in all: about %.0f min.",
                seconds,
                self.progress.total,
                left / 60,
            )

    def _choose(self, search: Search, inputs: Inputs, optuna_study: optuna.Study) -> Best:
        folder = self.study.folder_of(search)
        publish(folder / "trials.csv", _trials_csv(optuna_study).encode())
        if (folder / "best.json").exists():
            return Best.read(folder / "best.json")
        if not optuna_study.get_trials(deepcopy=False, states=FINISHED[:1]):
            raise DataError(f"search {search.name}: every trial diverged. Use smaller learning rates.")
        chosen, again = self._chosen(search, inputs, optuna_study)
        number, epoch = chosen.user_attrs["number"], chosen.user_attrs["epoch"]
        config = self.space.suggest(optuna.trial.FixedTrial(chosen.params))
        decision = decide(again, self.config.threshold, self.config.sensitivity)
        training = _training(again, decision)
        best = Best(number, config, epoch, chosen.values[0], decision, training, chosen.params)
        publish_table(folder / "out_of_fold.csv", self._out_of_fold(search, again, decision))
        attention = attention_table(self.patients.take(search.patients), again.attention)
        if attention is not None and not self.config.outer_folds:
            publish_table(folder / ATTENTION, attention.dropna())
        publish_json(folder / "best.json", asdict(best))
        return best

    def _chosen(
        self, search: Search, inputs: Inputs, optuna_study: optuna.Study
    ) -> tuple[FrozenTrial, Curves]:
        """The best trial with its members' curves, or the defaults, which a search tries first, if not surpassed."""
        best = optuna_study.best_trial
        again = self._again(search, inputs, best)
        first = min(_counted_trials(optuna_study), key=lambda trial: trial.user_attrs["number"])
        if (
            self.config.sampler == "grid"
            or first.state is not TrialState.COMPLETE
            or first.number == best.number
        ):
            return best, again
        plain = self._again(search, inputs, first)
        return (best, again) if surpasses(again, plain, self.config.objective) else (first, plain)

    def _again(self, search: Search, inputs: Inputs, trial: FrozenTrial) -> Curves:
        config = self.space.suggest(optuna.trial.FixedTrial(trial.params))
        seed = self.study.seed(search, MEMBERS)
        return run_again(inputs, config, trial.user_attrs["epoch"], self.config.members, seed)

    def _out_of_fold(self, search: Search, again: Curves, decision: Decision) -> pd.DataFrame:
        kept = again.held_out
        table = prediction_table(
            search, search.patients[kept], self.patients, again.out_of_fold(1)[kept], decision
        )
        return table.assign(fold=again.held_by[kept] + 1)


def _training(again: Curves, decision: Decision) -> dict[str, float | None]:
    labels, logits = again.training_logits(1)
    scores = score_all(labels, decision.probabilities(logits), decision.threshold)
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}


def _sqlite(path: Path) -> str:
    return URL.create("sqlite", database=str(path)).render_as_string()


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


def _counted_trials(optuna_study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """All trials but those that died with their process, which were begun again under the same number."""
    trials = optuna_study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state in FINISHED or "diverged" in trial.user_attrs]


def _trials_csv(optuna_study: optuna.Study) -> str:
    trials = _counted_trials(optuna_study)
    names = sorted({name for trial in trials for name in trial.params})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", "value", "state", *names])
    for trial in trials:
        told = [trial.user_attrs["number"], trial.value, trial.state.name]
        writer.writerow([*told, *(trial.params.get(name) for name in names)])
    return file.getvalue()
