"""`fit`: refit the best configuration of a study on all labelled patients, as a bundle."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save

from mil_toolkit.bundle.bundle import ModelBundle, declared
from mil_toolkit.bundle.domain.fit import FittedDomain, fit_domain
from mil_toolkit.bundle.domain.records import Domain
from mil_toolkit.bundle.extrapolation import number_ranges
from mil_toolkit.bundle.files import foreign_to_bundle
from mil_toolkit.bundle.membership import ANONYMOUS, KEY_BYTES, TrainingMarks, image_digests
from mil_toolkit.bundle.records import MOST_MEMBERS, About, BundleFeatures
from mil_toolkit.bundle.scale import training_scales
from mil_toolkit.bundle.tensors import head_tensors
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.head import BY_GROUP, view_names
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import digest
from mil_toolkit.core.outputs import check_replaceable, published_folder
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.run_log import log_into, stage
from mil_toolkit.core.seeds import FINAL, members_path
from mil_toolkit.core.text import printable
from mil_toolkit.core.threads import fixed_threads
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.abstention import calibrate
from mil_toolkit.study.finetuning import Finetuned, finetune_study
from mil_toolkit.study.folder import Study
from mil_toolkit.study.records import Best, StudyScores, one_or_all
from mil_toolkit.study.tripod import Item, tripod_items
from mil_toolkit.study.verification import verify
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Features, Patients, caches_of
from mil_toolkit.training.procedure import refit

PACKAGES = ("mil_toolkit", "torch", "numpy", "pillow")  # whose versions a bundle records


def fit(
    cohort: Cohort,
    cache: Features,
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

    cache: the features of the study: one cache, those of all its folders, or None
    finetune: also train the backbone, as `finetune_study` does with `outer` and `weights`. The cohort must
        then have its images. The fine-tuned model replaces the frozen one if it is better.
    anonymous: store nothing of single patients, by which they could be recognised: no keys of ids and images,
        no lowest and highest values, and no scores of held-out patients, so that the model cannot abstain

    Raises UsageError where `output` holds anything but a bundle and for more than MOST_MEMBERS members,
    DataError where the study has not ended or was made of another cohort or other features, and the errors of
    `finetune_study`.
    """
    check_replaceable(output, "a bundle", foreign_to_bundle)  # before the model is fitted
    study = Study.open(study_folder)
    study.check(cohort, cache)
    scores = verify(study, cohort)
    caches = caches_of(cache)
    if finetune is not None:
        _check_finetuning(caches, study.config)
    place, best = pick_device(device), study.final.read_best()
    log_into(study_folder)
    patients = Patients.of(cohort.labelled(), caches)
    head, used = _refit(study, best, patients, place), _used(caches, best)
    about = _about(cohort, used, study, best, scores, patients)
    fitted = _domain(study, patients, head)
    about = replace(about, domain=fitted and fitted.domain)
    if not anonymous:
        about = replace(about, calibration=calibrate(study, bool(scores.outer)))
        about = _identified(about, study, head, patients, used)
    bundle = ModelBundle(head, about, scores, domain_projection=fitted and fitted.projection)
    if finetune is not None:
        tuned = finetune_study(cohort, caches[0], study, finetune, place, outer, weights)
        plain = _domain(study, patients, head, embeddings=False)
        bundle = _finetuned(bundle, tuned, plain and plain.domain)
    with published_folder(output, "a bundle", foreign_to_bundle) as folder:
        bundle.save(folder)
    return bundle


@stage("Fitting the head")
def _refit(study: Study, best: Best, patients: Patients, device: torch.device) -> FittedHead:
    """Fit all members on all labelled patients; raises UsageError for more than MOST_MEMBERS."""
    seed, members = members_path(study.config.seed, FINAL), study.config.members
    if members > MOST_MEMBERS:
        raise UsageError(f"This study has {members} members. A bundle can hold at most {MOST_MEMBERS}.")
    dtype = training_dtype(device)
    with (
        fixed_threads(study.config.threads),
        explain_out_of_memory("Use --device cpu."),
        ProgressBar(best.epoch, "epoch", "fitting") as bar,
    ):
        return refit(patients, best.config, best.epoch, members, seed, device, dtype, bar.update)


def _check_finetuning(caches: Sequence[FeatureCache], config: StudyConfig) -> None:
    """Raise UsageError unless there is exactly one backbone to train, on embeddings that are its own."""
    if BY_GROUP in config.settings.get("standardise", ()):
        raise UsageError(
            "--finetune: searches of this study could standardise embeddings within groups"
            " (standardise=group), whose moments would change with every step of the backbone. Leave out"
            " --finetune, or run mil-tune without standardise=group and with another --study."
        )
    if not caches:
        raise UsageError("--finetune: this study does not look at images. There is no backbone to train.")
    if len(caches) > 1:
        names = ", ".join(printable(cache.folder.name) for cache in caches)
        raise UsageError(
            f"--finetune: this study has {len(caches)} feature folders ({names}), and fine-tuning trains one"
            " backbone on one view. Run mil-tune with --features and one of them, then mil-fit --finetune."
        )


def _used(caches: Sequence[FeatureCache], best: Best) -> list[FeatureCache]:
    """Return the caches of the views that the chosen configuration uses, in the order of its columns.

    A study with a single folder keeps it in the bundle, even where its model does not look at images.
    """
    if len(caches) < 2:
        return list(caches)
    by_name = {cache.folder.name: cache for cache in caches}
    return [by_name[name] for name in view_names(best.config.features)] or list(caches)


def _about(
    cohort: Cohort,
    caches: Sequence[FeatureCache],
    study: Study,
    best: Best,
    scores: StudyScores,
    patients: Patients,
) -> About:
    """Return the description of a model, without anything of single patients."""
    counts = [int((patients.labels == number).sum()) for number in range(len(cohort.class_names))]
    features = _features(study, caches, patients)
    return About(
        study=study.folder.name,
        cohort=cohort.name,
        patients=len(patients),
        class_counts=tuple(counts),
        images=0 if patients.bags is None else int(patients.bags.sizes.sum()),
        fitted_on=ANONYMOUS,
        class_names=cohort.class_names,
        columns=[declared(column) for column in cohort.columns],
        features=one_or_all(features),
        procedure=study.description.study,
        epoch=best.epoch,
        decision=best.decision,
        versions={name: version(name) for name in PACKAGES},
        items=_items(study, scores),
        microns_per_pixel=training_scales(cohort.labelled(), features),
        outcome=study.description.outcome,
    )


def _items(study: Study, scores: StudyScores) -> list[Item] | None:
    patients = study.read_patients()
    return None if patients is None else tripod_items(study.description, patients, scores)


def _features(study: Study, caches: Sequence[FeatureCache], patients: Patients) -> list[BundleFeatures]:
    specs = {identity.name: identity.spec for identity in study.description.all_features}
    return [
        BundleFeatures(cache.folder.name, specs[cache.folder.name], cache.recorded(patients.ids))
        for cache in caches
    ]


def _identified(
    about: About, study: Study, head: FittedHead, patients: Patients, caches: Sequence[FeatureCache]
) -> About:
    """Add what training patients are recognised by, and the lowest and highest values among them.

    The salt of the keys is a digest of the heads' tensors: no other model has it, and fitting again gives it
    again.
    """
    salt = digest(save(head_tensors(head)))[: 2 * KEY_BYTES]
    marks = TrainingMarks.of(patients.ids, image_digests(next(iter(caches), None), patients.ids), salt)
    digests = {identity.name: identity.digest for identity in study.description.all_features}
    views = [replace(view, digest=digests[view.name]) for view in about.views]
    ranges = number_ranges(patients.metadata)
    return replace(about, fitted_on=marks, features=one_or_all(views), ranges=ranges)


@stage("Describing the training patients")
def _domain(
    study: Study, patients: Patients, head: FittedHead, embeddings: bool = True
) -> FittedDomain | None:
    with fixed_threads(study.config.threads):
        return fit_domain(patients, head, study.config.seed, embeddings)


def _finetuned(frozen: ModelBundle, finetuned: Finetuned, domain: Domain | None) -> ModelBundle:
    """Return the bundle of the model that was kept; its scores describe both.

    domain: of the fine-tuned model, whose embeddings of held-out patients are not known
    """
    model, scores = finetuned.model, finetuned.scores
    if model is None:
        return replace(frozen, finetuning=scores)
    features = BundleFeatures(model.features.name, model.features.spec, list(model.features.recorded))
    settings = replace(scores.settings, epochs=model.choice.epoch)
    about = replace(frozen.about, features=features, decision=model.choice.tuned, finetuned=settings)
    about = replace(about, domain=domain, calibration=None)
    return ModelBundle(model.head, about, model.scores, model.backbone, scores)
