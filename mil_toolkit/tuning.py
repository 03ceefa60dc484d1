# Floor 3.5: the search: Optuna over the procedure of `nested`.
"""`tune`: one Optuna study for each outer fold and one on all labelled patients, into a study folder."""

import csv
import io
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState
from sqlalchemy import URL
from tqdm import tqdm

from mil_toolkit.cohort import Cohort
from mil_toolkit.devices import pick_device, training_dtype
from mil_toolkit.errors import DataError, UsageError
from mil_toolkit.evaluation import outer_scores
from mil_toolkit.features import FeatureCache
from mil_toolkit.files import exclusive, publish, publish_json
from mil_toolkit.hparams import HeadConfig, Settings, StudyConfig, Tunable, is_active, tunables
from mil_toolkit.inputs import Inputs, Patients
from mil_toolkit.metrics import METRICS, score_all
from mil_toolkit.nested import THRESHOLD, Curves, Diverged, Trial, derive_seeds, refit, run_trial, sigmoid
from mil_toolkit.study import Best, Search, Study, plan_searches

EPOCH_METRICS = ("balanced_log_loss", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)

SAMPLERS: dict[str, Callable[[int, Mapping[str, Sequence[Any]]], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed, grid: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed, grid: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda seed, grid: optuna.samplers.GridSampler(grid, seed=seed),
    "gp": lambda seed, grid: optuna.samplers.GPSampler(seed=seed),
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
    searches, splits = plan_searches(labelled, config)
    with exclusive(folder):
        study = Study.begin(folder, config, cohort, cache)
        publish_json(folder / "splits.json", splits)
        run = _Run(study, patients, device)
        predictions = [run.outer(search) for search in searches[:-1]]
        best = run.search(searches[-1])
        run.progress.close()
        scores = study_scores(best, pd.concat(predictions) if predictions else None)
        if predictions:
            publish(folder / "predictions.csv", pd.concat(predictions).to_csv(index=False).encode())
        publish_json(folder / "scores.json", scores)
        publish(folder / "DONE", b"")
    return Tuned(study, best, scores, config.trials * len(searches), run.seconds_per_trial)


class _Run:
    """One call of `tune`: what its searches share."""

    def __init__(self, study: Study, patients: Patients, device: str):
        self.study, self.config, self.patients = study, study.config, patients
        self.device = pick_device(device)
        self.dtype = training_dtype(self.device)
        self.space = Space(study.config.settings, patients)
        self.storage = optuna.storages.RDBStorage(_sqlite(study.folder / "optuna.db"))
        searches = 1 + self.config.repeats * self.config.outer_folds
        self.progress = tqdm(total=searches * self.config.trials, desc="trials", unit="trial", disable=None)
        self.seconds: list[float] = []

    @property
    def seconds_per_trial(self) -> float:
        """Mean over the trials of this call; 0 where there were none."""
        return float(np.mean(self.seconds)) if self.seconds else 0.0

    def search(self, search: Search) -> Best:
        """Run what is missing of a search, and say what it chose."""
        optuna_study = self._open(search)
        inputs = self._inputs(search)
        for number in range(self._finished(optuna_study), self.config.trials):
            optuna_study.sampler = self._sampler(search, number)
            if self._exhausted(optuna_study):
                break
            begun = time.monotonic()
            optuna_study.optimize(
                lambda trial: self._trial(trial, search, inputs), n_trials=1, catch=(Diverged,)
            )
            self._tell(time.monotonic() - begun, optuna_study)
        return self._choose(search, inputs, optuna_study)

    def outer(self, search: Search) -> pd.DataFrame:
        """Run an outer fold's search, fit what it chose on its patients, and predict its test patients once."""
        best = self.search(search)
        seed = (self.config.seed, *search.path, self.config.trials)
        train, test = self.patients.take(search.patients), self.patients.take(search.test)
        head = refit(train, best.config, best.epoch, self.config.members, seed, self.device, self.dtype)
        probability = sigmoid(head.apply(test).logits.mean(0))
        repeat, fold = search.path
        columns = {"repeat": repeat, "fold": fold, "patient_id": test.ids, "label": test.labels}
        return pd.DataFrame(
            columns | {"probability": probability, "prediction": (probability >= THRESHOLD).astype(int)}
        )

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
        if not opened.get_trials(deepcopy=False) and self.config.sampler != "grid":
            opened.enqueue_trial(self.space.defaults())
        return opened

    def _finished(self, optuna_study: optuna.Study) -> int:
        trials = optuna_study.get_trials(deepcopy=False)
        finished = sum(trial.state in FINISHED or "diverged" in trial.user_attrs for trial in trials)
        self.progress.update(finished)
        return finished

    def _sampler(self, search: Search, number: int) -> optuna.samplers.BaseSampler:
        seed = derive_seeds(1, self.config.seed, *search.path, number)[0]
        return SAMPLERS[self.config.sampler](seed, self.space.grid() if self.config.sampler == "grid" else {})

    def _exhausted(self, optuna_study: optuna.Study) -> bool:
        sampler = optuna_study.sampler
        return isinstance(sampler, optuna.samplers.GridSampler) and sampler.is_exhausted(optuna_study)

    def _trial(self, trial: optuna.Trial, search: Search, inputs: Inputs) -> float:
        config = self.space.suggest(trial)
        seed = (self.config.seed, *search.path, trial.number)

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
            raise
        finally:
            self._log_epochs(search, trial.number, walked)
        trial.set_user_attr("epoch", result.epoch)
        return result.value

    def _log_epochs(self, search: Search, number: int, walked: Sequence[Curves]) -> None:
        lines = [json.dumps(each) for curves in walked for each in epoch_scores(curves)]
        folder = self.study.folder_of(search) / "epochs"
        publish(folder / f"trial{number:04d}.jsonl", ("\n".join(lines) + "\n").encode())

    def _tell(self, seconds: float, optuna_study: optuna.Study) -> None:
        self.seconds.append(seconds)
        self.progress.update()
        done = [trial.value for trial in optuna_study.get_trials(deepcopy=False, states=FINISHED[:1])]
        if done:
            self.progress.set_postfix({"best": f"{optuna_study.best_value:.4f}"})
        if len(self.seconds) == 1:
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
        chosen = optuna_study.best_trial
        config = self.space.suggest(optuna.trial.FixedTrial(chosen.params))
        seed = (self.config.seed, *search.path, chosen.number)
        again = run_trial(inputs, config, self.config.objective, seed)
        best = _best(config, again, chosen.params)
        publish_json(folder / "best.json", asdict(best))
        return best


def _best(config: HeadConfig, trial: Trial, parameters: Mapping[str, Any]) -> Best:
    inner = score_all(*trial.curves.validation(trial.epoch), THRESHOLD)
    training = score_all(*trial.curves.training(trial.epoch), THRESHOLD)
    patients = int(trial.curves.held_out.sum())
    return Best(config, trial.epoch, trial.value, inner, training, patients, parameters)


@dataclass(frozen=True)
class Space:
    """The search space that the fields of HeadConfig, the user's settings and the data leave."""

    settings: Settings
    patients: Patients

    def suggest(self, trial: optuna.Trial | optuna.trial.FixedTrial) -> HeadConfig:
        """A configuration; fields without effect keep their default and are not suggested."""
        values: dict[str, Any] = {}
        for name, about in tunables(HeadConfig).items():
            if is_active(values, about):
                values[name] = self._suggest(trial, name, about)
        return HeadConfig(**values)

    def _suggest(self, trial: optuna.Trial | optuna.trial.FixedTrial, name: str, about: Tunable) -> Any:
        options = self._options(name, about)
        if len(options) == 1:
            return options[0]
        if options:
            return trial.suggest_categorical(name, options)
        assert about.low is not None and about.high is not None
        if isinstance(getattr(HeadConfig(), name), int):
            return trial.suggest_int(name, int(about.low), int(about.high), log=about.log)
        return trial.suggest_float(name, about.low, about.high, log=about.log)

    def _options(self, name: str, about: Tunable) -> Sequence[Any]:
        """The values to choose from; none for an interval."""
        if name == "image_branch" and self.patients.bags is None:
            return (False,)
        if name == "metadata_branch" and self.patients.metadata.empty:
            return ("none",)
        if name in self.settings:
            return self.settings[name]
        return () if about.low is not None else about.search or (getattr(HeadConfig(), name),)

    def defaults(self) -> dict[str, Any]:
        """The default of each field that may be suggested; where a setting excludes it, the first allowed value."""
        values = {}
        for name, about in tunables(HeadConfig).items():
            options, default = self._options(name, about), getattr(HeadConfig(), name)
            if len(options) != 1:
                values[name] = default if not options or default in options else options[0]
        return values

    def grid(self) -> dict[str, Sequence[Any]]:
        """The lists that a grid search walks; raises UsageError that names every interval without one."""
        lists = {name: self._options(name, about) for name, about in tunables(HeadConfig).items()}
        intervals = [name for name, options in lists.items() if not options]
        if intervals:
            raise UsageError(f"--sampler grid needs --set NAME=VALUE[,VALUE...] for {', '.join(intervals)}.")
        return {name: options for name, options in lists.items() if len(options) > 1}


def _sqlite(path: Path) -> str:
    return URL.create("sqlite", database=str(path)).render_as_string()


def epoch_scores(curves: Curves) -> list[dict[str, float]]:
    """Training and validation scores after each epoch, at a threshold of 0.5."""
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


def _trials_csv(optuna_study: optuna.Study) -> str:
    trials = optuna_study.get_trials(deepcopy=False)
    names = sorted({name for trial in trials for name in trial.params})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", "value", "state", *names])
    for trial in trials:
        writer.writerow(
            [trial.number, trial.value, trial.state.name, *(trial.params.get(name) for name in names)]
        )
    return file.getvalue()


def study_scores(best: Best, predictions: pd.DataFrame | None) -> dict[str, Any]:
    """What scores.json holds: the inner score that chose, and the outer one that chose nothing, or null."""
    return {
        "epoch": best.epoch,
        "training": dict(best.training),
        "inner": {
            name: {"value": value, "patients": best.patients, "repeats": 1}
            for name, value in best.inner.items()
        },
        "outer": None if predictions is None else outer_scores(predictions),
    }
