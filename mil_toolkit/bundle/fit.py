"""`fit`: the best configuration of a study refitted on every labelled patient, as a bundle."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mil_toolkit.bundle.bundle import ModelBundle, declared, fingerprints, foreign_to_bundle
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import FinetuneConfig
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import read_json
from mil_toolkit.core.outputs import check_replaceable, published_folder
from mil_toolkit.core.seeds import MEMBERS
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.finetuning import Finetuned, finetune_study
from mil_toolkit.study.folder import Study
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

PACKAGES = ("mil_toolkit", "torch", "numpy", "pillow")


def fit(
    cohort: Cohort,
    cache: FeatureCache | None,
    study_folder: Path,
    output: Path,
    device: str = "auto",
    finetune: FinetuneConfig | None = None,
    outer: bool = False,
    weights: Path | None = None,
) -> ModelBundle:
    """Refit what the study chose on all labelled patients, the study's `members` seeds side by side.

    finetune: train the backbone too, as `finetune_study` does with `outer` and `weights`; the cohort then has to have
        its images, and the fine-tuned model takes the frozen one's place where it is kept

    The bundle takes the name `output` when it is complete; an older one is replaced. Raises UsageError where `output`
    is a folder that holds anything but a bundle, DataError where the study has not ended or was made of another cohort
    or other features, and as `finetune_study` does.
    """
    check_replaceable(output, "a bundle", foreign_to_bundle)  # before the model is fitted
    study = Study.open(study_folder)
    study.check(cohort, cache)
    if finetune is not None and cache is None:
        raise UsageError("--finetune: this study looks at no images. There is no backbone to train.")
    best, config = study.best, study.config
    seed = study.final_seed(MEMBERS)
    place = pick_device(device)
    patients = Patients.of(cohort.labelled(), cache)
    head = refit(patients, best.config, best.epoch, config.members, seed, place, training_dtype(place))
    about = _about(cohort, cache, study, patients)
    bundle = ModelBundle(head, about, read_json(study_folder / "scores.json"))
    if finetune is not None and cache is not None:
        bundle = _with(finetune_study(cohort, cache, study, finetune, place, outer, weights), bundle)
    with published_folder(output, "a bundle", foreign_to_bundle) as folder:
        bundle.save(folder)
    return bundle


def _about(cohort: Cohort, cache: FeatureCache | None, study: Study, patients: Patients) -> dict[str, Any]:
    """What a bundle is told of where it comes from; see `ModelBundle`."""
    best = study.best
    return {
        "study": study.folder.name,
        "cohort": cohort.name,
        "patients": len(patients),
        "class_counts": np.bincount(patients.labels, minlength=2).tolist(),
        "images": 0 if patients.bags is None else len(patients.bags.instances),
        "fitted_on": fingerprints(patients),
        "class_names": list(cohort.class_names),
        "columns": [declared(column) for column in cohort.columns],
        "features": _features(study, cache, patients),
        "procedure": study.described["study"],
        "epoch": best.epoch,
        "decision": asdict(best.decision),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _with(finetuned: Finetuned, frozen: ModelBundle) -> ModelBundle:
    """The bundle of the model that was kept; its scores tell of both."""
    model = finetuned.model
    if model is None:
        return replace(frozen, scores={**frozen.scores, "finetuned": finetuned.found})
    about = {
        **frozen.about,
        "features": model.features,
        "decision": asdict(model.choice.tuned),
        "finetuned": {**finetuned.found["settings"], "epochs": model.choice.epoch},
    }
    return ModelBundle(model.head, about, {**model.scores, "finetuned": finetuned.found}, model.backbone)


def _features(study: Study, cache: FeatureCache | None, patients: Patients) -> Mapping[str, Any] | None:
    """What the study knows of its features, and in what they were computed; None without images."""
    if cache is None:
        return None
    return {**study.described["features"], "recorded": cache.recorded(patients.ids)}
