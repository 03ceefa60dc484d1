"""`finetune_study`: train the backbone together with the heads of a study, and keep it if it is better.

The inner folds of each search choose the number of epochs.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from mil_toolkit.backbones.architecture import StateDict
from mil_toolkit.backbones.weights import weight_digest
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.devices import architecture, pick_precision
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.run_log import stage
from mil_toolkit.evaluation.intervals import compare, scores_with_intervals
from mil_toolkit.evaluation.records import Comparison, Scores
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.opening import DECODER
from mil_toolkit.features.shards import Recorded
from mil_toolkit.features.spec import Spec, folder_name
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.study.finetuning_runs import Run, Setup, outputs_shape, train
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import Search
from mil_toolkit.study.records import ComparedOn, FinetuningScores, StudyScores
from mil_toolkit.study.scores import rival_tables, with_outer_scores
from mil_toolkit.study.tables import outer_predictions, prediction_table
from mil_toolkit.training.curves import Curves, best_epoch_of, decide
from mil_toolkit.training.finetune import Finetuner
from mil_toolkit.training.fitted import FittedHead

NOT_EVALUATED = "not evaluated"
MOST_P_VALUE = 0.05  # of the two-sided test, of which 0.025 are for a lower loss


@dataclass(frozen=True)
class Choice:
    """What the inner folds of a search chose for fine-tuning.

    epoch: the number of epochs
    frozen, tuned: decisions from the out-of-fold logits before and after fine-tuning
    inner: out-of-fold predictions after fine-tuning
    """

    epoch: int
    frozen: DecisionRule
    tuned: DecisionRule
    inner: pd.DataFrame


@dataclass(frozen=True)
class TunedFeatures:
    """The features that a fine-tuned backbone computes.

    name: of the cache folder that would hold them; recorded: precision and decoder of the embeddings
    """

    name: str
    spec: Spec
    recorded: list[str]


@dataclass(frozen=True)
class Model:
    """The fine-tuned model, fitted on all labelled patients."""

    head: FittedHead
    backbone: StateDict
    choice: Choice
    features: TunedFeatures
    scores: StudyScores


@dataclass(frozen=True)
class Finetuned:
    """The result of a fine-tuning; `model` is None where the frozen model is kept."""

    scores: FinetuningScores
    model: Model | None


class Predictions(NamedTuple):
    """Predictions of a search's held-out patients by the frozen and by the fine-tuned model."""

    frozen: pd.DataFrame
    tuned: pd.DataFrame


@stage("Fine-tuning")
def finetune_study(
    cohort: Cohort,
    cache: FeatureCache,
    study: Study,
    config: FinetuneConfig,
    device: torch.device,
    outer: bool = False,
    weights: Path | None = None,
) -> Finetuned:
    """Train the backbone together with the heads of a study.

    cohort: with its images
    outer: also fine-tune in every other outer fold, which gives fine-tuning an outer score
    weights: checkpoint of the backbone if that of the study came from a file

    The first outer fold of the study is the separate split: inner folds of its training patients choose
    the number of epochs, and the fine-tuned and the frozen model are compared on its held-out patients.
    If the study has no outer folds, the separate split is a fifth of the patients, who helped to choose
    the head of both models. The frozen model is kept unless `is_better` finds a lower loss (the log-loss of
    two classes; see `OutcomeMetrics.loss`). Otherwise the same training runs on all labelled patients.

    An interrupted fine-tuning resumes where it stopped; the result is identical to the bit.

    Raises UsageError for heads without images and options that cannot work; DataError if images are not
    those that were embedded, also while it trains; BusyError if another process fine-tunes the same study.
    """
    if outer and not study.config.outer_folds:
        raise UsageError("--outer: this study has no outer folds. Run mil-tune with --outer-folds.")
    with exclusive(study.finetuning), explain_out_of_memory(f"Use a --chunk below {config.chunk}."):
        setup = Setup.load(cohort.labelled(), cache, study, config, device, weights)
        with contextlib.closing(ProgressBar(0, "image", "fine-tuning")) as progress:
            finetuned = _finetune(setup, outer, progress)
        setup.files.check()
    return finetuned


def is_better(comparison: Comparison) -> bool:
    """Return whether the loss of the fine-tuned model is lower than that of the frozen one beyond chance.

    The loss is that of the outcome, whose metrics were compared; see `OutcomeMetrics.loss`.

    Both the interval of the difference must lie below zero and the permutation test must reject equality, at
    2.5 % for this direction: with few patients the level of the test is exact, that of the interval is not.
    """
    losses = (metrics.loss for metrics in OUTCOME_METRICS.values())
    difference = next(comparison.differences[loss] for loss in losses if loss in comparison.differences)
    rejected = difference.p_value is None or difference.p_value <= MOST_P_VALUE
    return difference.high is not None and difference.high < 0 and rejected


def _finetune(setup: Setup, outer: bool, progress: ProgressBar) -> Finetuned:
    """Compare both models, score fine-tuning if asked to, and fit on all patients if it is kept."""
    table, searches = setup.study.table, setup.outer if outer else setup.outer[:1]
    progress.expect(sum(map(setup.images, searches)))
    separate, *others = [_predict_held_out(setup, search, progress) for search in searches]
    comparison = compare(table(separate.tuned), table(separate.frozen))
    predictions = _without_separate(setup, [fold.tuned for fold in others]) if outer else None
    scored: Scores | str = NOT_EVALUATED
    if predictions is not None:
        scored = scores_with_intervals(table(predictions))
    kept = is_better(comparison)
    scores = FinetuningScores(
        settings=setup.config,
        separate=ComparedOn(len(separate.tuned), chose_nothing=bool(setup.study.config.outer_folds)),
        comparison=comparison,
        kept=kept,
        outer=scored,
    )
    return Finetuned(scores, _fit_final(setup, predictions, progress) if kept else None)


def _without_separate(setup: Setup, folds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the predictions of all patients outside the separate split."""
    predictions = pd.concat(folds)
    separate = [setup.patients.ids[place] for place in setup.outer[0].test]
    return predictions[~predictions["patient_id"].isin(separate)]


# One search.


def _predict_held_out(setup: Setup, search: Search, progress: ProgressBar) -> Predictions:
    """Train on the training patients of a search, and predict its held-out patients by both models."""
    choice, test = _choose(setup, search, progress), setup.patients.take(search.test)
    run = Run(search, "all", setup.patients.take(search.patients), choice.epoch, test)
    logits = train(setup, run, progress).logits
    setup.files.check()
    return Predictions(
        outer_predictions(search, test, logits[0], choice.frozen),
        outer_predictions(search, test, logits[-1], choice.tuned),
    )


def _choose(setup: Setup, search: Search, progress: ProgressBar) -> Choice:
    """Fine-tune in every inner fold; the pooled out-of-fold curve chooses the number of epochs."""
    config = setup.study.config
    frozen, tuned = _inner_curves(setup, search, progress)
    epoch = best_epoch_of(tuned, config.objective)
    chosen = replace(tuned, logits=tuned.logits[epoch - 1 : epoch])
    before, after = (decide(curves, config.threshold_rule) for curves in (frozen, chosen))
    held_out = chosen.held_out
    logits = chosen.out_of_fold(1)[held_out]
    inner = prediction_table(search, search.patients[held_out], setup.patients, after.predict(logits))
    return Choice(epoch, before, after, inner)


def _inner_curves(setup: Setup, search: Search, progress: ProgressBar) -> tuple[Curves, Curves]:
    """Return the logits of the held-out patients of all inner folds, before training and after each epoch."""
    members, patients = setup.study.config.members, setup.patients.take(search.patients)
    outcome = patients.outcome.fitted(patients.labels)
    patients = replace(patients, outcome=outcome)  # which the inner folds share
    count = len(search.inner) * members
    logits = np.zeros((setup.config.epochs + 1, count, *outputs_shape(patients)))
    trains_on = np.ones((len(search.inner), len(patients)), dtype=bool)
    for fold, split in enumerate(search.inner):
        watched, trained = patients.take(split.test), patients.take(split.train)
        run = Run(search, f"fold{fold + 1}", trained, setup.config.epochs, watched, every_epoch=True)
        rows = slice(fold * members, (fold + 1) * members)
        logits[:, rows, split.test] = train(setup, run, progress).logits
        trains_on[fold, split.test] = False
    folds = np.repeat(np.arange(len(search.inner)), members)
    labels, groups = patients.labels, patients.groups
    frozen, tuned = (
        Curves(part, folds, trains_on, labels, groups=groups, outcome=outcome)
        for part in (logits[:1], logits[1:])
    )
    return frozen, tuned


# The model on all labelled patients.


def _fit_final(setup: Setup, outer: pd.DataFrame | None, progress: ProgressBar) -> Model:
    """Choose the number of epochs on all labelled patients, and train on all of them."""
    progress.expect(setup.images(setup.final))
    choice = _choose(setup, setup.final, progress)
    finetuner = train(setup, Run(setup.final, "all", setup.patients, choice.epoch), progress).finetuner
    assert finetuner is not None
    features, scores = _features(setup, finetuner), _scores(setup, choice, outer)
    return Model(finetuner.head, finetuner.state_dict(), choice, features, scores)


def _features(setup: Setup, finetuner: Finetuner) -> TunedFeatures:
    digest = weight_digest(finetuner.halves.network.cpu())
    spec: Spec = {**setup.files.spec, "weights": "file", "seed": None, "weight_digest": digest}
    precision = pick_precision("auto", setup.device)
    recorded = Recorded(precision, DECODER, architecture(setup.device))
    return TunedFeatures(folder_name(spec), spec, [str(recorded)])


def _scores(setup: Setup, choice: Choice, outer: pd.DataFrame | None) -> StudyScores:
    """Return the scores of the fine-tuned model; outer: its predictions in the outer folds, if any."""
    config = setup.study.config
    inner = setup.study.table(choice.inner)
    scores = StudyScores(epoch=choice.epoch, training=None, inner=scores_with_intervals(inner))
    if outer is None:
        return scores
    patient_ids = setup.study.table(outer).patient_ids
    rivals = {
        name: table.select(patient_ids)
        for name, table in rival_tables(config, setup.patients, setup.outer).items()
    }
    return with_outer_scores(scores, inner, outer, setup.patients, rivals)
