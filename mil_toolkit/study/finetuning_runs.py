"""`train`: fine-tune backbone and heads on some patients of a search, with checkpoints to resume from."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.backbones.backbones import Backbone, backbone_of
from mil_toolkit.backbones.parts import divide, last_stage
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.core.devices import architecture, pick_precision, training_dtype
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import digest_json, publish_json, remove_dead_temporaries
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.seeds import finetuning_path, members_path
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.study.finetuning_checkpoints import check_logits, check_tensors, read_checkpoint
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import Search, plan_searches, stored_searches
from mil_toolkit.study.records import Best
from mil_toolkit.training.checkpoints import publish_tensors
from mil_toolkit.training.finetune import Finetuner, FinetunerOptions
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

SEPARATE_FOLDS = 5  # where the study has no outer folds; the first of them is the separate split
CHECKPOINT_SECONDS = 60.0  # between checkpoints within an epoch


@dataclass(frozen=True)
class Setup:
    """Everything that the searches of a fine-tuning share.

    config: with the part from which the backbone is trained filled in
    patients, files: the labelled patients and their images
    outer, final: searches of the study; without outer folds, `outer` are folds of the separate split
    best: what each search chose, by the name of the search
    folder: of the checkpoints
    """

    study: Study
    config: FinetuneConfig
    backbone: Backbone
    patients: Patients
    files: ImageFiles
    outer: Sequence[Search]
    final: Search
    best: Mapping[str, Best]
    folder: Path
    device: torch.device

    @classmethod
    def load(
        cls,
        cohort: Cohort,
        cache: FeatureCache,
        study: Study,
        config: FinetuneConfig,
        device: torch.device,
        weights: Path | None,
    ) -> "Setup":
        """Read everything that is needed, and create the folder of the checkpoints.

        cohort: the labelled patients
        Raises UsageError for heads without images and options that cannot work, DataError if the images
        are not those that were embedded.
        """
        backbone = backbone_of(cache.spec, weights)
        config = replace(config, unfreeze=config.unfreeze or last_stage(backbone.network))
        divide(backbone.network, config.unfreeze)  # raises before anything is computed
        patients, files = Patients.of(cohort, cache), ImageFiles(cohort, cache)
        *outer, final = _plan(cohort, study)
        best = {search.name: _read_best(study, search) for search in (*outer, final)}
        folder = _begin(study, config, device)
        return cls(study, config, backbone, patients, files, outer, final, best, folder, device)

    def images(self, search: Search) -> int:
        """Return how often an image is trained on in a search, if all inner folds use all epochs."""
        assert self.patients.bags is not None
        sizes = self.patients.bags.sizes.numpy()
        trains = [search.patients, *(search.patients[split.train] for split in search.inner)]
        return self.config.epochs * sum(int(sizes[train].sum()) for train in trains)


def _plan(cohort: Cohort, study: Study) -> list[Search]:
    """Return the searches of a study; a study without outer folds gets those of a separate split."""
    stored = stored_searches(study.read_splits(), cohort.patient_ids)
    if study.config.outer_folds:
        return stored
    separate = replace(study.config, outer_folds=SEPARATE_FOLDS, repeats=1)
    return [*plan_searches(cohort, separate)[0][:-1], *stored]


def _read_best(study: Study, search: Search) -> Best:
    files = study.search_folder(search) if study.config.outer_folds else study.final
    best = files.read_best()
    if not best.config.image_branch:
        raise UsageError(
            f"--finetune: search {search.name} chose a head without images. There is no backbone to train."
        )
    return best


def _begin(study: Study, config: FinetuneConfig, device: torch.device) -> Path:
    """Create the folder of the checkpoints with these options; other options use another folder."""
    options = {
        **asdict(config),
        "device": architecture(device) or device.type,
        "precision": pick_precision("auto", device),
        "versions": {name: version(name) for name in ("mil_toolkit", "torch")},
    }
    folder = study.finetuning / digest_json(options)[:8]
    publish_json(folder / "config.json", options)
    return folder


@dataclass(frozen=True)
class Run:
    """A training on some patients of a search, which starts with a head of the search's best configuration.

    name: of the checkpoint; the seeds derive from it
    watched: b patients whose logits are computed before and after training, or None
    every_epoch: compute these logits after every epoch
    """

    search: Search
    name: str
    patients: Patients
    epochs: int
    watched: Patients | None = None
    every_epoch: bool = False

    @property
    def images(self) -> int:
        """Images of the patients to train on."""
        assert self.patients.bags is not None
        return int(self.patients.bags.sizes.sum())

    def watches(self, epoch: int) -> bool:
        """Return whether logits are computed after an epoch, counted from 1."""
        return self.watched is not None and (self.every_epoch or epoch == self.epochs)

    def logits_after(self, epoch: int) -> int:
        """Return how often logits were computed until an epoch has ended, with those before training."""
        return 1 + sum(map(self.watches, range(1, epoch + 1)))


class Trained(NamedTuple):
    """The logits of the watched patients, and the finetuner at the end.

    logits: (1 + E, K, b) or (1 + E, K, b, C), before training and after E epochs
    finetuner: None if an earlier process finished the run and left only the logits
    """

    logits: np.ndarray
    finetuner: Finetuner | None


def train(setup: Setup, run: Run, progress: ProgressBar) -> Trained:
    """Train to the end, from the latest checkpoint if there is one; the result is identical to the bit."""
    path = setup.folder / run.search.name / f"{run.name}.safetensors"
    remove_dead_temporaries(path.parent)  # each as large as the backbone
    progress.expect(run.images * (run.epochs - setup.config.epochs))
    checkpoint = read_checkpoint(path, run.epochs)
    if checkpoint is not None and run.watched is not None:
        count = run.logits_after(run.epochs if checkpoint.state["finished"] else checkpoint.state["epoch"])
        shape = (count, setup.study.config.members, *outputs_shape(run.watched))
        check_logits(path, checkpoint.logits, shape)
        if checkpoint.state["finished"]:
            progress.skip(run.images * run.epochs)
            return Trained(checkpoint.logits.numpy(), None)
    finetuner = _start(setup, run)
    if checkpoint is not None:
        check_tensors(path, checkpoint, finetuner)
        logits = list(checkpoint.logits.numpy())
        finetuner.restore(checkpoint.tensors, checkpoint.state)
        progress.skip(run.images * finetuner.epoch)
    else:
        logits = [] if run.watched is None else [finetuner.start.apply(run.watched).logits]
    _run_epochs(run, finetuner, logits, path, progress)
    if run.watched is not None:
        _publish(path, {"logits": _stacked(logits)}, finetuner, finished=True)
    return Trained(np.array(logits), finetuner)


def outputs_shape(patients: Patients) -> tuple[int, ...]:
    """Return the shape of a member's outputs for these patients: (b,), or (b, C) if there are several."""
    outputs = patients.outcome.outputs
    return (len(patients),) if outputs == 1 else (len(patients), outputs)


def _start(setup: Setup, run: Run) -> Finetuner:
    """Refit the head that the search chose, and return the finetuner that starts from it."""
    study, path, best = setup.study.config, run.search.path, setup.best[run.search.name]
    seed, dtype = members_path(study.seed, path), training_dtype(setup.device)
    head = refit(run.patients, best.config, best.epoch, study.members, seed, setup.device, dtype)
    options = FinetunerOptions(
        setup.config,
        finetuning_path(study.seed, path, run.name),
        setup.device,
        setup.folder,
    )
    return Finetuner(setup.backbone, head, run.patients, setup.files, options)


def _run_epochs(
    run: Run, finetuner: Finetuner, logits: list[np.ndarray], path: Path, progress: ProgressBar
) -> None:
    """Run the remaining epochs, append the watched patients' logits, and save checkpoints in between."""
    saved = time.monotonic()
    while finetuner.epoch < run.epochs:
        epoch = finetuner.epoch
        progress.update(finetuner.advance())
        ended = finetuner.epoch > epoch
        if ended and run.watched is not None and run.watches(finetuner.epoch):
            logits.append(finetuner.predict(run.watched))
        if ended or time.monotonic() - saved > CHECKPOINT_SECONDS:
            tensors = finetuner.tensors() | {"logits": _stacked(logits)}
            _publish(path, tensors, finetuner, finished=False)
            saved = time.monotonic()


def _stacked(logits: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.array(logits))


def _publish(path: Path, tensors: Mapping[str, Tensor], finetuner: Finetuner, finished: bool) -> None:
    publish_tensors(path, tensors, {**finetuner.state(), "finished": finished})
