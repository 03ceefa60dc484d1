"""`finetune_study`: a backbone trained with the heads of a study, and kept where it is better on other patients."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mil_toolkit.backbones.backbones import backbone_of
from mil_toolkit.backbones.parts import divide, last_stage
from mil_toolkit.backbones.weights import StateDict, weight_digest
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import FinetuneConfig
from mil_toolkit.core.devices import pick_precision, training_dtype
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import digest_json, publish_json, remove_dead_temporaries
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.seeds import MEMBERS
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.intervals import Table, compare, scores_with_intervals
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.features.pixels import DECODER
from mil_toolkit.features.spec import Spec, folder_name
from mil_toolkit.study.folder import Best, Study
from mil_toolkit.study.plan import Search, plan_searches
from mil_toolkit.study.scores import HONEST, honest_scores, rival_tables
from mil_toolkit.study.tables import outer_predictions, prediction_table
from mil_toolkit.training.checkpoints import publish_tensors, read_tensors
from mil_toolkit.training.curves import THRESHOLD, Curves, best_epoch, decide
from mil_toolkit.training.finetune import Finetuner, FinetunerOptions
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

FINETUNE = 2_000_000  # in the place of a trial's number: the seeds of fine-tuning
SEPARATE_FOLDS = 5  # one of which is the separate split, where the study has no outer folds
CHECKPOINT_SECONDS = 60.0
NOT_EVALUATED = "not evaluated"


@dataclass(frozen=True)
class Choice:
    """What the inner folds of a search chose for fine-tuning.

    epoch: how many; frozen, tuned: decisions from the out-of-fold logits before and after; inner: the latter's
        predictions
    """

    epoch: int
    frozen: Decision
    tuned: Decision
    inner: pd.DataFrame


@dataclass(frozen=True)
class Model:
    """The fine-tuned model on all labelled patients. features: spec of its embeddings, and in what they are computed."""

    head: FittedHead
    backbone: StateDict
    choice: Choice
    features: Mapping[str, Any]
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning came to.

    found: JSON values: `settings`, `separate` (how many `patients` compared, and whether they `chose_nothing`),
        `comparison` (fine-tuned minus frozen on them, see `compare`), `kept`, `outer` (scores of fine-tuning on the
        patients of the outer folds who did not compare, or `not evaluated`)
    model: where it was kept
    """

    found: Mapping[str, Any]
    model: Model | None


def finetune_study(
    cohort: Cohort,
    cache: FeatureCache,
    study: Study,
    config: FinetuneConfig,
    device: torch.device,
    outer: bool = False,
    weights: Path | None = None,
) -> Finetuned:
    """Train a backbone together with the heads of a study; goes on where it was stopped, to the same bits.

    cohort: with its images; outer: fine-tune in every outer fold too, which scores it; weights: checkpoint of the
    backbone where the study's came from a file

    The study's first outer fold is the separate split: on its training patients inner folds choose the number of
    epochs, and its test patients compare the fine-tuned with the frozen model. Where the study has no outer folds, it
    is a fifth of the patients, who had a part in choosing the head for both. The frozen model stays unless the interval
    of the paired difference in log-loss lies below zero. Otherwise the same is done on all labelled patients.

    Raises UsageError for heads without images and options that cannot work, DataError where images are not those that
    were embedded (also while it trains), BusyError where another process does the same.
    """
    if outer and not study.config.outer_folds:
        raise UsageError("--outer: this study has no outer folds. Run mil-tune with --outer-folds.")
    with exclusive(study.folder / "finetune"):
        return _Run(cohort.labelled(), cache, study, config, device, weights).run(outer)


def is_better(comparison: Mapping[str, Any]) -> bool:
    """Whether a paired interval of the log-loss, fine-tuned minus frozen, lies below zero."""
    high = comparison["differences"]["log_loss"]["high"]
    return high is not None and high < 0


class _Run:
    """One call of `finetune_study`: what its searches share."""

    def __init__(
        self,
        cohort: Cohort,
        cache: FeatureCache,
        study: Study,
        config: FinetuneConfig,
        device: torch.device,
        weights: Path | None,
    ):
        self.study, self.device, self.dtype = study, device, training_dtype(device)
        self.backbone = backbone_of(cache.spec, weights)
        self.config = replace(config, unfreeze=config.unfreeze or last_stage(self.backbone.network))
        divide(self.backbone.network, self.config.unfreeze)  # raises before anything is computed
        self.patients, self.files = Patients.of(cohort, cache), ImageFiles(cohort, cache)
        told = study.config
        planned = told if told.outer_folds else replace(told, outer_folds=SEPARATE_FOLDS, repeats=1)
        *self.outer, self.final = plan_searches(cohort, planned)[0]
        self.bests = {search.name: self._best(search) for search in (*self.outer, self.final)}
        self.folder = self._begin()
        self.progress = tqdm(total=0, desc="fine-tuning", unit="image", disable=None)

    def _best(self, search: Search) -> Best:
        folder = self.study.folder_of(search) if self.study.config.outer_folds else self.study.folder
        best = Best.read(folder / "best.json")
        if not best.config.image_branch:
            raise UsageError(
                f"--finetune: search {search.name} chose a head without images. There is nothing to train."
            )
        return best

    def _begin(self) -> Path:
        """The folder of what is trained under these options; others have another."""
        precision = pick_precision("auto", self.device)
        versions = {name: version(name) for name in ("mil_toolkit", "torch")}
        options = {
            **asdict(self.config),
            "device": self.device.type,
            "precision": precision,
            "versions": versions,
        }
        folder = self.study.folder / "finetune" / digest_json(options)[:8]
        publish_json(folder / "config.json", options)
        return folder

    def run(self, outer: bool) -> Finetuned:
        """See `finetune_study`."""
        searches = self.outer if outer else self.outer[:1]
        self._expect(searches)
        tested = [self._test(search) for search in searches]
        frozen, tuned = ([each[place] for each in tested] for place in (0, 1))
        prevalence = self.study.config.prevalence
        comparison = compare(Table.of(tuned[0], prevalence), Table.of(frozen[0], prevalence))
        kept = is_better(comparison)
        if kept:
            self._expect([self.final])
        model = self._model(pd.concat(tuned[1:]) if outer else None) if kept else None
        self.progress.close()
        self.files.check()
        return Finetuned(self._found(comparison, kept, tuned, outer), model)

    def _found(
        self, comparison: Mapping[str, Any], kept: bool, tuned: Sequence[pd.DataFrame], outer: bool
    ) -> dict[str, Any]:
        compared = {"patients": len(tuned[0]), "chose_nothing": bool(self.study.config.outer_folds)}
        scores = scores_with_intervals(self._outside(pd.concat(tuned[1:]))) if outer else NOT_EVALUATED
        told = {"settings": asdict(self.config), "separate": compared}
        return {**told, "comparison": comparison, "kept": kept, "outer": scores}

    def _outside(self, predictions: pd.DataFrame) -> Table:
        """Outer predictions of the patients that took no part in comparing."""
        return Table.of(self._scored(predictions), self.study.config.prevalence)

    def _scored(self, predictions: pd.DataFrame) -> pd.DataFrame:
        compared = [self.patients.ids[place] for place in self.outer[0].test]
        return predictions[~predictions["patient_id"].isin(compared)]

    def _expect(self, searches: Sequence[Search]) -> None:
        """Count the images to come: every inner fold and the whole, for as many epochs as there may be."""
        assert self.patients.bags is not None
        sizes = self.patients.bags.sizes.numpy()
        for search in searches:
            trains = [search.patients, *(search.patients[split.train] for split in search.inner)]
            self.progress.total += self.config.epochs * sum(int(sizes[train].sum()) for train in trains)
        self.progress.refresh()

    def _choose(self, search: Search) -> Choice:
        """Fine-tune in every inner fold; the pooled out-of-fold curve chooses the epoch."""
        members, patients = self.study.config.members, self.patients.take(search.patients)
        logits = np.zeros((self.config.epochs + 1, len(search.inner) * members, len(patients)))
        trains_on = np.ones((len(search.inner), len(patients)), dtype=bool)
        for fold, split in enumerate(search.inner):
            trains_on[fold, split.test] = False
            watched = patients.take(split.test)
            rows = slice(fold * members, (fold + 1) * members)
            trained = patients.take(split.train)
            found, _ = self._train(
                search, f"fold{fold + 1}", trained, self.config.epochs, watched, follow=True
            )
            logits[:, rows, split.test] = found
        folds = np.repeat(np.arange(len(search.inner)), members)
        frozen, tuned = (Curves(part, folds, trains_on, patients.labels) for part in (logits[:1], logits[1:]))
        objective = METRICS[self.study.config.objective]
        curve = [
            objective.score(*tuned.validation(epoch), THRESHOLD) for epoch in range(1, self.config.epochs + 1)
        ]
        epoch = best_epoch(curve, objective.higher_is_better)
        return self._choice(search, epoch, frozen, replace(tuned, logits=tuned.logits[epoch - 1 : epoch]))

    def _choice(self, search: Search, epoch: int, frozen: Curves, tuned: Curves) -> Choice:
        rule, sensitivity = self.study.config.threshold, self.study.config.sensitivity
        before, after = (decide(each, rule, sensitivity) for each in (frozen, tuned))
        kept = tuned.held_out
        inner = prediction_table(
            search, search.patients[kept], self.patients, tuned.out_of_fold(1)[kept], after
        )
        return Choice(epoch, before, after, inner)

    def _test(self, search: Search) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Predictions of a search's test patients by the frozen and by the fine-tuned model."""
        choice, test = self._choose(search), self.patients.take(search.test)
        logits, _ = self._train(search, "all", self.patients.take(search.patients), choice.epoch, test)
        self.files.check()
        return (
            outer_predictions(search, test, logits[0], choice.frozen),
            outer_predictions(search, test, logits[-1], choice.tuned),
        )

    def _model(self, outer: pd.DataFrame | None) -> Model:
        """The same on all labelled patients."""
        choice = self._choose(self.final)
        _, finetuner = self._train(self.final, "all", self.patients, choice.epoch)
        assert finetuner is not None
        spec: Spec = {**self.files.spec, "weights": "file", "seed": None}
        spec["weight_digest"] = weight_digest(finetuner.halves.network.cpu())
        recorded = [f"{pick_precision('auto', self.device)} with {DECODER}"]
        features = {"name": folder_name(spec), "spec": spec, "recorded": recorded}
        return Model(finetuner.head, finetuner.state_dict(), choice, features, self._scores(choice, outer))

    def _scores(self, choice: Choice, outer: pd.DataFrame | None) -> dict[str, Any]:
        """What the bundle's scores.json holds, as in a study's; what was not evaluated is null."""
        config = self.study.config
        inner = Table.of(choice.inner, config.prevalence)
        scores = {"epoch": choice.epoch, "training": None, "inner": scores_with_intervals(inner)}
        if outer is None:
            return scores | dict.fromkeys(HONEST)
        scored = self._outside(outer).patient_ids
        rivals = rival_tables(config, self.patients, self.outer)
        rivals = {name: rival.select(scored) for name, rival in rivals.items()}
        return scores | honest_scores(inner, self._scored(outer), self.patients, rivals)

    def _train(
        self,
        search: Search,
        name: str,
        patients: Patients,
        epochs: int,
        watched: Patients | None = None,
        follow: bool = False,
    ) -> tuple[np.ndarray, Finetuner | None]:
        """Train on some patients of a search, from the head that it chose; kept as `name`, to go on with.

        Returns the watched patients' logits before and after (with `follow` after each epoch), and the finetuner; None
        for it where all was done before and nothing but the logits is kept.
        """
        assert patients.bags is not None
        path, images = self.folder / search.name / f"{name}.safetensors", len(patients.bags.instances)
        remove_dead_temporaries(path.parent)  # each as large as the backbone
        self.progress.total -= images * (self.config.epochs - epochs)
        tensors, state = read_tensors(path) if path.exists() else ({}, {})
        if state.get("finished"):
            self.progress.update(images * epochs)
            return tensors["logits"].numpy(), None
        finetuner = self._finetuner(search, name, patients)
        logits = [] if watched is None else [finetuner.start.apply(watched).logits]
        if tensors:
            logits = list(tensors.pop("logits").numpy())
            finetuner.restore(tensors, state)
            self.progress.update(images * finetuner.epoch)
        saved = time.monotonic()
        while finetuner.epoch < epochs:
            epoch = finetuner.epoch
            self.progress.update(finetuner.advance())
            ended = finetuner.epoch > epoch
            if ended and watched is not None and (follow or finetuner.epoch == epochs):
                logits.append(finetuner.predict(watched))
            if ended or time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(path, finetuner, logits, finished=False)
                saved = time.monotonic()
        if watched is not None:
            _save(path, finetuner, logits, finished=True)
        return np.array(logits), finetuner

    def _finetuner(self, search: Search, name: str, patients: Patients) -> Finetuner:
        best, seed = self.bests[search.name], self.study.seed(search, MEMBERS)
        members = self.study.config.members
        head = refit(patients, best.config, best.epoch, members, seed, self.device, self.dtype)
        seed = (*self.study.seed(search, FINETUNE), *name.encode())
        return Finetuner(
            self.backbone,
            head,
            patients,
            self.files,
            FinetunerOptions(self.config, seed, self.device, self.folder),
        )


def _save(path: Path, finetuner: Finetuner, logits: Sequence[np.ndarray], finished: bool) -> None:
    kept = {"logits": torch.from_numpy(np.array(logits))}
    tensors = kept if finished else finetuner.tensors() | kept
    publish_tensors(path, tensors, {**finetuner.state(), "finished": finished})
