"""`ablate`: the contribution of each part of the model, scored on held-out patients (outer folds).

Without searches of its own, a variant takes every other hyperparameter from the configuration that its
fold's search chose for the full model, which favours the full model. A search of its own for each
variant takes longer and does not.
"""

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.head import BY_GROUP, SUPERVISED_POOLINGS, HeadConfig
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.config.run import ALONE, RunConfig
from mil_toolkit.config.study import GROUPS
from mil_toolkit.core.errors import DataError, Diverged
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.outputs import check_replaceable, published_folder
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.records import publish_record
from mil_toolkit.core.run_log import log_into, stage
from mil_toolkit.core.seeds import derive_seed, members_path, thinning_path, trial_path
from mil_toolkit.core.threads import fixed_threads
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.ablation_scores import (
    Chosen,
    FoldResult,
    Results,
    gains,
    score_table,
    score_variants,
)
from mil_toolkit.study.capacity import process_count
from mil_toolkit.study.folder import AblationFolder, Study, publish_epochs, read_epochs
from mil_toolkit.study.jobs import Processes, do_jobs
from mil_toolkit.study.plan import Search, stored_searches
from mil_toolkit.study.progress import Progress
from mil_toolkit.study.records import AblationScores, Best
from mil_toolkit.study.remaining import SearchNote
from mil_toolkit.study.tables import outer_predictions, publish_table, read_predictions, without_members
from mil_toolkit.study.trial import epoch_scores
from mil_toolkit.study.tune import tune
from mil_toolkit.study.variants import (
    EQUAL_BAGS,
    FULL,
    GROUPED,
    Variant,
    thin,
    uses_nothing,
    variants_of,
)
from mil_toolkit.study.verification import verify
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.curves import decide
from mil_toolkit.training.group_checks import group_problems
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Features, Patients, caches_of
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial

logger = logging.getLogger(__name__)
KIND = "an ablation"  # in messages
MOST_IMAGES = 16  # of a patient on equal bags; the size of the smallest bag where that is smaller
Reasons = dict[str, str]  # by variant: why it has no scores


@dataclass(frozen=True)
class Ablation:
    """A published ablation: its folder and its scores."""

    folder: Path
    scores: AblationScores


@dataclass(frozen=True)
class Fold:
    """An outer fold, and what its search chose for the full model."""

    search: Search
    best: Best


@dataclass(frozen=True)
class Data:
    """Everything that the variants share.

    folds: the outer folds of the study
    features: names of the feature folders, the study's own first; None for metadata only
    sources: the study with its own embeddings, and with those of each other feature folder
    device: by name
    """

    folds: Sequence[Fold]
    features: Sequence[str | None]
    sources: Sequence[Workspace]
    device: str

    @classmethod
    def load(cls, study: Study, cohort: Cohort, sources: Sequence[Features], device: str) -> "Data":
        """Read the labelled patients, and what the study chose in every outer fold."""
        labelled = cohort.labelled()
        searches = stored_searches(study.read_splits(), labelled.patient_ids)[:-1]
        folds = [Fold(search, study.search_folder(search).read_best()) for search in searches]
        features: list[str | None] = []
        for source in sources:
            features += [cache.folder.name for cache in caches_of(source)] or [None]
        workspaces = [Workspace.of(study, Patients.of(labelled, source), device) for source in sources]
        return cls(folds, features, workspaces, device)

    @property
    def study(self) -> Study:
        """The study."""
        return self.sources[0].study

    @property
    def images_of_equal_bags(self) -> int | None:
        """Images of each patient on equal bags; None without images."""
        bags = self.sources[0].patients.bags
        return None if bags is None else min(MOST_IMAGES, int(bags.sizes.min()))

    def configure(self, fold: Fold, variant: Variant) -> HeadConfig:
        """Return a variant's configuration in an outer fold."""
        patients = self.sources[variant.source].patients
        return variant.configure(fold.best.config, self.study.config.settings, patients)


def ablate(
    cohort: Cohort,
    caches: Sequence[FeatureCache | None],
    study_folder: Path,
    trials: int | None = None,
    device: str = "auto",
    how: RunConfig = ALONE,
) -> Ablation:
    """Score every variant on the outer folds of a study, and publish `ablation/` in the study folder.

    caches: the study's own features first (None for metadata only; all of its views), then others, each of
        which is a variant
    trials: number of trials of a separate search for each variant; None keeps each fold's best
        configuration except for the change
    how: its `workers` are the outer folds, or with `trials` the searches, that run at once

    An interrupted ablation starts again from the beginning; the separate searches resume where they stopped.

    Raises DataError if the study has no outer folds, has not ended, or was made of another cohort or
    other features; UsageError if two feature folders have the same name or ablation/ holds anything
    else; BusyError if another process works in the folder.
    """
    study = Study.open(study_folder)
    own, others = _divide(study, caches)
    _check(study, cohort, own)
    folder = study.ablation.path
    check_replaceable(folder, KIND, _foreign)  # before hours of work
    how = RunConfig(workers=how.workers)
    with exclusive(study_folder) as lock, fixed_threads(study.config.threads):
        log_into(study_folder)
        sources = [own, *others]
        data = Data.load(study, cohort, sources, device)
        count = len(data.features) - len(others)
        names, turned = data.features, data.sources[0].patients.has_orientations
        by_group = study.config.outer_folds == GROUPS
        planned = variants_of(study.config.settings, names[:count], names[count:], turned, by_group)
        variants, left_out = _usable(data, planned, trials)
        if trials is None:
            results, diverged = _change_all(data, variants, how, lock)
            left_out |= diverged
        else:
            results = _retune_all(data, variants, cohort, sources, trials, device, how)
        if data.images_of_equal_bags is not None:
            results[EQUAL_BAGS] = _equal_bags(data, results[FULL])
        scores = _scores(data, trials, variants, results, left_out)
        _publish(folder, scores, results)
    return Ablation(folder, scores)


def _divide(
    study: Study, caches: Sequence[FeatureCache | None]
) -> tuple[Features, list[FeatureCache | None]]:
    """Return the study's own features, which come first, in the order of its record, and the others."""
    names = [identity.name for identity in study.description.all_features]
    count = max(1, len(names))
    own = [cache for cache in caches[:count] if cache is not None]
    if {cache.folder.name for cache in own} == set(names):
        own.sort(key=lambda cache: names.index(cache.folder.name))
    return own if count > 1 else caches[0], [*caches[count:]]


def _check(study: Study, cohort: Cohort, features: Features) -> None:
    """Raise DataError for a study of other data, without outer folds, or with files that contradict it."""
    study.check(cohort, features)
    if not study.config.outer_folds:
        raise DataError(
            f"{study.folder} has no outer folds: all of its patients helped to choose the configuration."
            " Run mil-tune with --outer-folds 5 and another --study."
        )
    verify(study, cohort)


def _usable(
    data: Data, variants: Sequence[Variant], trials: int | None = None
) -> tuple[list[Variant], Reasons]:
    """Return the variants that suit the outcome and use images or metadata in every fold.

    Those of GROUPED must also differ from the full model, so that they do not raise the adjusted p-values of
    all variants for nothing. Also returns why the others are left out. trials: see `ablate`
    """
    reasons: Reasons = {}
    two_classes = OUTCOME_METRICS[data.study.outcome.kind].two_classes
    for variant in variants:
        if any(uses_nothing(data.configure(fold, variant)) for fold in data.folds):
            reasons[variant.name] = "it would leave neither images nor metadata"
        elif variant.change.get("pooling") in SUPERVISED_POOLINGS and not two_classes:
            reasons[variant.name] = "this pooling needs an outcome of two classes"
        elif problems := _problems_of_groups(data, variant):
            reasons[variant.name] = "; ".join(problem.rstrip(".") for problem in problems)
        elif variant.name in GROUPED and _is_full(data, variant, trials):
            reasons[variant.name] = "it is the full model in every outer fold"
    return [variant for variant in variants if variant.name not in reasons], reasons


def _problems_of_groups(data: Data, variant: Variant) -> list[str]:
    by_group = variant.change.get("standardise") == BY_GROUP
    return list(group_problems(data.sources[0].patients.groups)) if by_group else []


def _is_full(data: Data, variant: Variant, trials: int | None) -> bool:
    """Return whether a variant of GROUPED has the configurations, and with trials the searches, of FULL."""
    searched = len(data.study.config.settings.get("standardise", ())) > 1
    if trials is not None and searched:
        return False
    full = Variant(FULL)
    return all(data.configure(fold, variant) == data.configure(fold, full) for fold in data.folds)


# Each fold's best configuration with one thing changed.


@stage("Training the variants")
def _change_all(
    data: Data, variants: Sequence[Variant], how: RunConfig, lock: int
) -> tuple[Results, Reasons]:
    """Return the results of all variants, and why others are left out because they diverged."""
    folds: list[dict[str, FoldResult]] = [{} for _ in data.folds]
    diverged: Reasons = {}
    count = len(variants) * len(data.folds)
    with ProgressBar(count, "variant in a fold", "ablation", units="variants in folds") as bar:
        for source, workspace in enumerate(data.sources):
            own = [variant for variant in variants if variant.source == source]
            count = process_count(how, workspace, len(data.folds))
            processes = Processes(count, data.study.config.threads, lock)
            side_by_side = 1 if count == 1 else len(data.folds)
            for first in range(0, len(data.folds), side_by_side):
                places = range(first, min(first + side_by_side, len(data.folds)))
                left = [variant for variant in own if variant.name not in diverged]
                jobs = [_FoldJob.of(data, data.folds[place], left) for place in places]
                done = do_jobs(jobs, workspace.patients, processes, lambda _: bar.update())
                for place, results in zip(places, done, strict=True):
                    folds[place] |= results
                    reason = f"it diverged in {data.folds[place].search.name}"
                    lost = [variant.name for variant in left if variant.name not in results]
                    diverged |= {name: reason for name in lost if name not in diverged}
    names = [variant.name for variant in variants if variant.name not in diverged]
    return {name: [results[name] for results in folds] for name in names}, diverged


@dataclass(frozen=True, eq=False)
class _FoldJob:
    """The variants on one feature folder in one outer fold; see `study.jobs.Job`.

    configs: configuration of each variant, by its name
    """

    study: Study
    fold: Fold
    configs: Mapping[str, HeadConfig]
    device: str

    @classmethod
    def of(cls, data: Data, fold: Fold, variants: Sequence[Variant]) -> "_FoldJob":
        """Return the job of some variants in a fold."""
        configs = {variant.name: data.configure(fold, variant) for variant in variants}
        return cls(data.study, fold, configs, data.device)

    def do(self, patients: Patients, progress: Progress) -> dict[str, FoldResult]:
        """Return the results of the variants, without those that diverged.

        A configuration that several variants share is trained once.
        """
        workspace = Workspace.of(self.study, patients, self.device)
        run = cache(partial(_run_configuration, workspace, self.fold, workspace.inputs(self.fold.search)))
        results: dict[str, FoldResult] = {}
        for name, config in self.configs.items():
            with contextlib.suppress(Diverged):
                results[name] = run(config)
            progress(SearchNote(name, os.getpid()))
        return results


def _run_configuration(workspace: Workspace, fold: Fold, inputs: Inputs, config: HeadConfig) -> FoldResult:
    """Choose the epoch and the decision on the inner folds, refit, and predict the held-out patients.

    The seeds are those of the fold's best trial and of its members, so that the full model is identical to
    the study's own.
    """
    study, search = workspace.config, fold.search
    trial = run_trial(inputs, config, study.objective, trial_path(study.seed, search.path, fold.best.number))
    seed = members_path(study.seed, search.path)
    again = cross_fit_members(inputs, config, trial.epoch, study.members, seed)
    decision = decide(again, study.threshold_rule)
    chosen = Chosen(config, trial.epoch, decision)
    test = workspace.patients.take(search.test)
    predictions = _refit_and_predict(workspace, search, chosen, test)
    return FoldResult(search.path, chosen, predictions, epoch_scores(trial.curves))


def _refit_and_predict(workspace: Workspace, search: Search, chosen: Chosen, test: Patients) -> pd.DataFrame:
    """Fit all members on the training patients of an outer fold, and predict its held-out patients."""
    train = workspace.patients.take(search.patients)
    seed = members_path(workspace.config.seed, search.path)
    members, device, dtype = workspace.config.members, workspace.device, workspace.dtype
    head = refit(train, chosen.config, chosen.epoch, members, seed, device, dtype)
    predictions = outer_predictions(search, test, head.apply(test).logits, chosen.decision)
    return without_members(predictions, test.outcome.scoring)


# A separate search for each variant.


@stage("The searches of the variants")
def _retune_all(
    data: Data,
    variants: Sequence[Variant],
    cohort: Cohort,
    sources: Sequence[Features],
    trials: int,
    device: str,
    how: RunConfig,
) -> Results:
    """Run a study of every variant on the same splits, and return its results in every outer fold."""
    config, results = data.study.config, {}
    for number, variant in enumerate(variants, 1):
        logger.info("Searches of variant %d of %d: %s.", number, len(variants), variant.name)
        fixed = {name: (value,) for name, value in variant.change.items()}
        changed = replace(config, trials=trials, settings={**config.settings, **fixed})
        folder = data.study.retuned(trials, variant.name)
        study = tune(cohort, sources[variant.source], folder, changed, device, how).study
        results[variant.name] = [_read_result(study, fold.search) for fold in data.folds]
    return results


def _read_result(study: Study, search: Search) -> FoldResult:
    """Read what a study chose and predicted in an outer fold."""
    files = study.search_folder(search)
    best = files.read_best()
    predictions = without_members(read_predictions(files.predictions), study.outcome.scoring)
    epochs = read_epochs(files.epochs(best.number))
    return FoldResult(search.path, Chosen(best.config, best.epoch, best.decision), predictions, epochs)


# The full model on equal bags.


def _equal_bags(data: Data, full: Sequence[FoldResult]) -> list[FoldResult]:
    """Score the full model, fitted on whole bags, on the same number of images of each held-out patient.

    On equal bags, the number of images cannot explain a gain over metadata only.
    """
    return [
        replace(result, predictions=_predict_thinned(data, fold.search, result.chosen))
        for fold, result in zip(data.folds, full, strict=True)
    ]


def _predict_thinned(data: Data, search: Search, chosen: Chosen) -> pd.DataFrame:
    """Predict the held-out patients of an outer fold on a random draw of their images."""
    workspace, count = data.sources[0], data.images_of_equal_bags
    test = workspace.patients.take(search.test)
    assert count is not None
    seed = [derive_seed(*thinning_path(workspace.config.seed, search.path))]  # the same images in all views
    views = {name: thin(bags, count, np.random.default_rng(seed)) for name, bags in test.views.items()}
    return _refit_and_predict(workspace, search, chosen, test.with_views(views))


# Scores and files.


def _scores(
    data: Data, trials: int | None, variants: Sequence[Variant], results: Results, left_out: Reasons
) -> AblationScores:
    own = [variant.name for variant in variants if variant.source == 0]
    return AblationScores(
        retuned=trials,
        features=list(data.features),
        images_of_equal_bags=data.images_of_equal_bags,
        variants=score_variants(results, own, data.study.table),
        gains=gains(results, data.study.table),
        left_out=left_out,
        primary_metric=data.study.config.primary_metric,
    )


def _foreign(folder: Path) -> list[str]:
    """Return the files in a folder that do not belong to an ablation."""
    files = AblationFolder(folder)
    tables, epochs = files.predictions.glob("*.csv"), files.all_epochs.glob("*/*.jsonl")
    own = {files.scores, files.table, *tables, *epochs}
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(str(path.relative_to(folder)) for path in paths if path not in own)


def _publish(folder: Path, scores: AblationScores, results: Results) -> None:
    with published_folder(folder, KIND, _foreign) as building:
        files = AblationFolder(building)
        publish_record(files.scores, scores)
        publish_table(files.table, score_table(scores))
        for name, folds in results.items():
            predictions = pd.concat([result.predictions for result in folds])
            publish_table(files.predictions / f"{name}.csv", predictions)
            for result in folds:
                publish_epochs(files.epochs(name, *result.path), result.epochs)
