"""`fit`: refit the best configuration of a study on all labelled patients, as a bundle."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.torch import save

from mil_toolkit.bundle.bundle import ModelBundle, declared
from mil_toolkit.bundle.extrapolation import number_ranges
from mil_toolkit.bundle.files import foreign_to_bundle
from mil_toolkit.bundle.membership import ANONYMOUS, KEY_BYTES, TrainingMarks, image_digests
from mil_toolkit.bundle.records import MOST_MEMBERS, About, BundleFeatures
from mil_toolkit.bundle.scale import training_scales
from mil_toolkit.bundle.tensors import head_tensors
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import FinetuneConfig
from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import digest
from mil_toolkit.core.outputs import check_replaceable, published_folder
from mil_toolkit.core.seeds import FINAL, members_path
from mil_toolkit.core.threads import fixed_threads
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.finetuning import Finetuned, finetune_study
from mil_toolkit.study.folder import Study
from mil_toolkit.study.records import Best, StudyScores
from mil_toolkit.study.tripod import Item, tripod_items
from mil_toolkit.study.verification import verify
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

PACKAGES = ("mil_toolkit", "torch", "numpy", "pillow")  # whose versions a bundle records


def fit(
    cohort: Cohort,
    cache: FeatureCache | None,
    study_folder: Path,
    output: Path,
    device: str = "auto",
    finetune: FinetuneConfig | None = None,
    outer: bool = False,
    weights: Path | None = None,
    anonymous: bool = False,
) -> ModelBundle:
    """Refit the best configuration of a study on all labelled patients, and save it as a bundle.

    All members are fitted side by side. The folder `output` appears when it is complete; an older bundle is
    replaced.

    finetune: also train the backbone, as `finetune_study` does with `outer` and `weights`. The cohort must
        then have its images. The fine-tuned model replaces the frozen one if it is better.
    anonymous: store nothing by which single patients could be recognised: no keys of ids and images, no
        lowest and highest values

    Raises UsageError where `output` holds anything but a bundle and for more than MOST_MEMBERS members,
    DataError where the study has not ended or was made of another cohort or other features, and the errors of
    `finetune_study`.
    """
    check_replaceable(output, "a bundle", foreign_to_bundle)  # before the model is fitted
    study = Study.open(study_folder)
    study.check(cohort, cache)
    scores = verify(study, cohort)
    if finetune is not None and cache is None:
        raise UsageError("--finetune: this study does not look at images. There is no backbone to train.")
    best, members = study.final.read_best(), study.config.members
    if members > MOST_MEMBERS:
        raise UsageError(f"This study has {members} members. A bundle can hold at most {MOST_MEMBERS}.")
    place = pick_device(device)
    patients = Patients.of(cohort.labelled(), cache)
    seed = members_path(study.config.seed, FINAL)
    with fixed_threads(study.config.threads), explain_out_of_memory("Use --device cpu."):
        head = refit(patients, best.config, best.epoch, members, seed, place, training_dtype(place))
    about = _about(cohort, cache, study, best, scores, patients)
    if not anonymous:
        about = _identified(about, study, head, patients, cache)
    bundle = ModelBundle(head, about, scores)
    if finetune is not None and cache is not None:
        bundle = _finetuned(bundle, finetune_study(cohort, cache, study, finetune, place, outer, weights))
    with published_folder(output, "a bundle", foreign_to_bundle) as folder:
        bundle.save(folder)
    return bundle


def _about(
    cohort: Cohort,
    cache: FeatureCache | None,
    study: Study,
    best: Best,
    scores: StudyScores,
    patients: Patients,
) -> About:
    """Return the description of a model, without anything of single patients."""
    negatives, positives = np.bincount(patients.labels, minlength=2).tolist()
    features = _features(study, cache, patients)
    return About(
        study=study.folder.name,
        cohort=cohort.name,
        patients=len(patients),
        class_counts=(negatives, positives),
        images=0 if patients.bags is None else int(patients.bags.sizes.sum()),
        fitted_on=ANONYMOUS,
        class_names=cohort.class_names,
        columns=[declared(column) for column in cohort.columns],
        features=features,
        procedure=study.description.study,
        epoch=best.epoch,
        decision=best.decision,
        versions={name: version(name) for name in PACKAGES},
        items=_items(study, scores),
        microns_per_pixel=training_scales(cohort.labelled(), features),
    )


def _items(study: Study, scores: StudyScores) -> list[Item] | None:
    patients = study.read_patients()
    return None if patients is None else tripod_items(study.description, patients, scores)


def _features(study: Study, cache: FeatureCache | None, patients: Patients) -> BundleFeatures | None:
    features = study.description.features
    if cache is None or features is None:
        return None
    return BundleFeatures(features.name, features.spec, cache.recorded(patients.ids))


def _identified(
    about: About, study: Study, head: FittedHead, patients: Patients, cache: FeatureCache | None
) -> About:
    """Add what training patients are recognised by, and the lowest and highest values among them.

    The salt of the keys is a digest of the heads' tensors: no other model has it, and fitting again gives it
    again.
    """
    salt = digest(save(head_tensors(head)))[: 2 * KEY_BYTES]
    marks = TrainingMarks.of(patients.ids, image_digests(cache, patients.ids), salt)
    features, identity = about.features, study.description.features
    if features is not None and identity is not None:
        features = replace(features, digest=identity.digest)
    ranges = number_ranges(patients.metadata)
    return replace(about, fitted_on=marks, features=features, ranges=ranges)


def _finetuned(frozen: ModelBundle, finetuned: Finetuned) -> ModelBundle:
    """Return the bundle of the model that was kept; its scores describe both."""
    model, scores = finetuned.model, finetuned.scores
    if model is None:
        return replace(frozen, finetuning=scores)
    features = BundleFeatures(model.features.name, model.features.spec, list(model.features.recorded))
    settings = replace(scores.settings, epochs=model.choice.epoch)
    about = replace(frozen.about, features=features, decision=model.choice.tuned, finetuned=settings)
    return ModelBundle(model.head, about, model.scores, model.backbone, scores)
