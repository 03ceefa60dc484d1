"""`maps_of`: how much each place of the images in a report counts for the study's final model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.checkpoints import Checkpoints, checkpoints_of
from mil_toolkit.bundle.saliency import Saliency, SalientImage
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.report.contents import Contents, Key
from mil_toolkit.report.gallery import Case
from mil_toolkit.training.patients import Patients


def maps_of(contents: Contents, cases: Sequence[Case], weights: Checkpoints) -> dict[Key, SalientImage]:
    """Return the images of highest attention as the network of the mapped view sees them, with their maps.

    weights: checkpoints of the backbones, see `checkpoints_of`

    Raises UsageError for a study without a model, whose model was fine-tuned, standardises embeddings within
    groups or does not look at images, or whose images or weights are not at hand; DataError for a model or
    features that cannot be read.
    """
    bundle, cohort, caches = _opened(contents)
    saliency = Saliency.of(bundle, cohort, checkpoints_of(weights, bundle.about.views))
    names, maps = [view.name for view in bundle.about.views], dict[Key, SalientImage]()
    for case in cases:
        images = _images(case)
        if images and case.stored in cohort.images:
            patients = Patients.of(cohort.select([case.stored]), caches, names)
            decided = np.asarray(bundle.apply(patients, attention=False)[0].decisions)[0]
            decision = None if bundle.scoring.decision is None else int(decided)
            for name, image in saliency.images(patients, decision, images).items():
                maps[case.stored, name] = image
    return maps


def _images(case: Case) -> list[str]:
    """Return the images of highest attention, of all classes that have their own."""
    if case.attention is None:
        return []
    images = [*case.attention.highest]
    images += [image for of_class in case.attention.classes for image in of_class.images]
    return list(dict.fromkeys(image.stored for image in images))


def _opened(contents: Contents) -> tuple[ModelBundle, Cohort, list[FeatureCache]]:
    """Return the final model of a study, its cohort and the features of the model's views."""
    sources = contents.sources
    if not contents.fitted or sources is None:
        raise UsageError("--saliency: the study has no model. Run mil-fit first.")
    bundle = ModelBundle.load(contents.study.model)
    if not bundle.has_backbone:
        raise UsageError("--saliency: the model has no network that sees images.")
    if bundle.head.by_group:
        raise UsageError(
            "--saliency: the model standardises embeddings within groups of patients (standardise=group), and"
            " maps are computed for one patient at a time, without the group."
        )
    if bundle.backbone is not None:
        raise UsageError(
            "--saliency: the network of the model was fine-tuned, so that the study's features are not those"
            " of the model. Use mil-predict --images --page --saliency for single patients."
        )
    working = Path(sources.working_folder)
    cohort = read_cohort(working / sources.cohort, log=False)
    folders = {Path(folder).name: working / folder for folder in sources.feature_folders}
    missing = [view.name for view in bundle.about.views if view.name not in folders]
    if missing:
        raise UsageError(f"--saliency: the study does not know the features {printable(missing[0])}.")
    return bundle, cohort, [FeatureCache.open(folders[view.name]) for view in bundle.about.views]
