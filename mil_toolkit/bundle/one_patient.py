"""`predict_one`: apply a bundle to one patient who is in no cohort.toml."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from mil_toolkit.backbones.requests import check_available
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.checkpoints import Checkpoints, checkpoints_of
from mil_toolkit.bundle.contributions import Contributions, contributions_of
from mil_toolkit.bundle.domain.columns import domain_reasons
from mil_toolkit.bundle.given_values import Given, read_given
from mil_toolkit.bundle.predict import (
    Predictions,
    extraction_config,
    predict_patients,
    recognised_by_images,
    warn_of_other_embeddings,
)
from mil_toolkit.bundle.records import BundleFeatures
from mil_toolkit.bundle.scale import scale_problems, scales_words
from mil_toolkit.cohort.cohort import Cohort, metadata_table
from mil_toolkit.cohort.images import images_of_one
from mil_toolkit.cohort.kinds import KINDS, MetadataColumn
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable
from mil_toolkit.features.in_memory import Embedded, embed_in_memory
from mil_toolkit.features.read_prepared import UnreadableFile, read_prepared
from mil_toolkit.features.spec import scale_of
from mil_toolkit.outcomes.outcome import UNLABELLED
from mil_toolkit.study.records import ColumnRecord
from mil_toolkit.training.group_checks import LEAST_PATIENTS
from mil_toolkit.training.patients import Patients

logger = logging.getLogger(__name__)
NO_FOLDER = "patient"  # the id of a patient without images


@dataclass(frozen=True)
class OnePatient:
    """The description of a patient.

    texts: metadata by column, see `read_given`
    images: folder of the images; None for a model on metadata only
    microns_per_pixel: of the images, if it is known
    reference: the day at which ages are computed from dates of birth
    """

    texts: Mapping[str, str]
    images: Path | None
    reference: date
    microns_per_pixel: float | None = None

    @property
    def patient_id(self) -> str:
        """The name of the folder of images."""
        name = "" if self.images is None else normal_form(self.images.resolve().name)
        return name or NO_FOLDER


@dataclass(frozen=True)
class Computation:
    """How a patient's images are embedded.

    weights: checkpoints of the backbones, see `checkpoints_of`
    device, batch_size: see `embed_in_memory`; any_scale: see `predict`
    """

    weights: Checkpoints = None
    device: str = "auto"
    batch_size: int | None = None
    any_scale: bool = False


@dataclass(frozen=True)
class OnePrediction:
    """The prediction for one patient.

    cohort, patients: the patient, as the only one
    given: the metadata as they were read
    predictions: tables with one row, and with a row for each image; without scores
    reasons: why the patient is unlike the training patients, empty if alike; None where that is not known
    fitted_on: whether the model was, or may have been, fitted on this patient; None where that is not known
    """

    cohort: Cohort
    patients: Patients
    given: Given
    predictions: Predictions
    reasons: list[str] | None
    contributions: Contributions
    fitted_on: bool | None


def predict_one(
    bundle: ModelBundle,
    patient: OnePatient,
    computation: Computation | None = None,
    abstain: float | None = None,
) -> OnePrediction:
    """Apply a bundle to one patient, to the bits of `predict` for a cohort of only this patient.

    Nothing is stored: the embeddings stay in memory. Warns where these were computed in another precision or
    by another decoder than those of the training patients, and where the scale of the images is unknown.

    abstain: error rate of the sets, see `set_columns`

    Raises one DataError with everything that is wrong with the metadata and with the images; UsageError for a
    model that cannot predict one patient, and where the backbone is not at hand.
    """
    computation = computation or Computation()
    check_alone(bundle)
    weights = checkpoints_of(computation.weights, bundle.about.views)
    for view, path in zip(bundle.about.views, weights, strict=True):
        check_available(view.spec, path is not None or bundle.backbone is not None)
    given = read_given(bundle.about, bundle.head.encoder, patient.texts, patient.reference)
    cohort = _cohort(bundle, patient, given, computation.any_scale)
    embedded = _embedded(bundle, cohort, weights, computation)
    warn_of_other_embeddings(bundle, [[one.recorded] for one in embedded.values()])
    patients = Patients.of(cohort, None)
    if embedded:
        patients = patients.with_views({name: one.bags for name, one in embedded.items()})
    predictions = predict_patients(bundle, cohort, patients, bundle.about.features is not None, abstain)
    reasons = domain_reasons(bundle.about, bundle.head, bundle.domain_projection, cohort, patients)
    return OnePrediction(
        cohort,
        patients,
        given,
        predictions,
        None if reasons is None else reasons[0],
        contributions_of(bundle, patients),
        _fitted_on(bundle, cohort, embedded),
    )


def check_alone(bundle: ModelBundle) -> None:
    """Raise UsageError for a model that cannot be applied to one patient without a cohort.

    Whatever makes a model depend on other patients of its site belongs here.
    """
    if bundle.head.by_group:
        raise UsageError(
            "The model standardises embeddings within groups of patients (standardise=group), by the moments"
            f" of at least {LEAST_PATIENTS} patients of the group, so that one patient alone is not enough."
            " Name a COHORT.toml with all patients of the group instead of --images."
        )
    if bundle.about.views and not all(view.has_backbone for view in bundle.about.views):
        raise UsageError(
            "The features of this model were computed by another tool, so that it cannot embed a folder of"
            " images. Import the patient's features with mil-cache import, and name a COHORT.toml and"
            " --features instead of --images."
        )


def _cohort(bundle: ModelBundle, patient: OnePatient, given: Given, any_scale: bool) -> Cohort:
    """Return the cohort of the only patient; raises DataError with all problems."""
    problems, name = Problems(), patient.patient_id
    problems.extend(given.problems)
    problems.extend(_scale_gaps(bundle, patient))
    paths = {} if patient.images is None else images_of_one(patient.images, name, problems)
    values: dict[str, np.ndarray] = {
        column.name: np.array([given.values.get(column.name)], dtype=_dtype(column))
        for column in bundle.about.columns
    }
    cohort = Cohort(
        name=bundle.about.cohort,
        source=patient.images or Path(name),
        patient_ids=(name,),
        labels=np.full(1, UNLABELLED, dtype=np.int8),
        groups=None,
        columns=tuple(map(_declared, bundle.about.columns)),
        metadata=metadata_table([name], values),
        stratify=("label",),
        images={name: tuple(paths.values())} if paths else {},
        image_names={name: tuple(paths)} if paths else {},
        scales={} if patient.microns_per_pixel is None else {name: patient.microns_per_pixel},
    )
    if not any_scale:
        problems.extend(scale_problems(bundle.about, cohort))
    if len(problems):
        problems.extend(_broken_images(bundle, cohort))
    problems.raise_if_any()
    return cohort


def _dtype(column: ColumnRecord) -> type:
    return np.float64 if KINDS[column.kind].numeric else object


def _declared(column: ColumnRecord) -> MetadataColumn:
    return MetadataColumn(column.name, column.name, column.kind, transform=column.transform, unit=column.unit)


def _scale_gaps(bundle: ModelBundle, patient: OnePatient) -> Iterator[str]:
    """Yield that the model needs the scale of the images; warn where it would have been checked."""
    if patient.images is None or patient.microns_per_pixel is not None:
        return
    trained = bundle.about.microns_per_pixel
    if any(map(_needs_scale, bundle.about.views)):
        yield (
            "The model needs the scale of the images. Give --microns-per-pixel, the micrometres that a pixel"
            " of their files covers, such as 0.25."
        )
    elif trained is not None:
        logger.warning(
            "The model was fitted on images of %s, and --microns-per-pixel is not given. Images of another"
            " scale would be predicted wrongly.",
            scales_words(trained),
        )


def _needs_scale(view: BundleFeatures) -> bool:
    return "crop_um" in view.spec or scale_of(view.spec) is not None


def _broken_images(bundle: ModelBundle, cohort: Cohort) -> Iterator[str]:
    """Yield which images cannot be decoded, so that they are named beside the other problems."""
    if not bundle.about.views:
        return
    spec = bundle.about.views[0].spec
    whole = ExtractionConfig(spec["backbone"], spec["weights"], spec["image_size"])
    for path in (path for paths in cohort.images.values() for path in paths):
        file = read_prepared(whole, spec.get("colour"), path)
        if isinstance(file, UnreadableFile):
            yield f"{printable(path)}: {file.reason}"


def _embedded(
    bundle: ModelBundle, cohort: Cohort, weights: Sequence[Path | None], computation: Computation
) -> dict[str, Embedded]:
    """Return the embeddings of each view by its name; none for a model on metadata only."""
    embedded = {}
    for place, view in enumerate(bundle.about.views):
        config, colour = extraction_config(view.spec, weights[place]), view.spec.get("colour")
        backbone = bundle.build_backbone(weights[place], place)
        device, size = computation.device, computation.batch_size
        embedded[view.name] = embed_in_memory(cohort, config, backbone, colour, device, size)
    return embedded


def _fitted_on(bundle: ModelBundle, cohort: Cohort, embedded: Mapping[str, Embedded]) -> bool | None:
    if not cohort.images:  # a patient without a folder has no id
        return None
    digests = next((one.digests for one in embedded.values()), (frozenset(),))
    recognised = recognised_by_images(bundle.about, cohort.patient_ids, lambda: digests)
    return None if recognised is None else bool(recognised.any())
