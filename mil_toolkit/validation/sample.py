"""`read_sample`: the patients of a cohort on whom a model is validated, with their predictions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.column_checks import column_problems
from mil_toolkit.bundle.domain.columns import IN_DOMAIN, REASONS, domain_columns
from mil_toolkit.bundle.outcome_checks import outcome_problems
from mil_toolkit.bundle.predict import check_results, checked_patients, one_model_table, recognised
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import count_of, printable, some
from mil_toolkit.evaluation.scoring import Predictions
from mil_toolkit.evaluation.table import Table
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.description import patients_of
from mil_toolkit.study.records import PatientsRecord
from mil_toolkit.training.patients import Features, Patients, caches_of
from mil_toolkit.validation.records import Flow


@dataclass(frozen=True)
class Sample:
    """The scored patients.

    flow: how they were selected; in_training, without_images: ids of patients who are left out
    checked: whether the bundle says whom it was fitted on
    patients, record: their data; cache: of the first view, None without images
    outputs: of the heads, averaged over members, (n,) or (n, C); table: their predictions as the model stands
    domain: the columns `in_domain` and `reasons`, in the order of `patients`
    """

    flow: Flow
    in_training: tuple[str, ...]
    without_images: tuple[str, ...]
    checked: bool
    patients: Patients
    record: PatientsRecord
    cache: FeatureCache | None
    outputs: np.ndarray
    table: Table
    domain: pd.DataFrame


def with_outcome(bundle: ModelBundle, cohort: Cohort) -> Cohort:
    """Return the patients whose outcome is known.

    Raises DataError where the cohort declares no outcome, another one than the model's or other metadata,
    and where no outcome is known.
    """
    source = printable(cohort.source)
    if not cohort.outcome.table_columns:
        raise DataError(
            f"{source} declares no outcome, and validation needs one. Declare that of the model"
            f" ({bundle.about.predicted.kind}) under [cohort]; mil-predict does without."
        )
    if problems := [*outcome_problems(bundle, cohort), *column_problems(bundle, cohort)]:
        raise DataError(problems)
    labelled = cohort.labelled()
    if not len(labelled):
        raise DataError(f"{source}: the outcome of none of its {count_of(len(cohort), 'patient')} is known.")
    return labelled


def seen_patients(bundle: ModelBundle, cohort: Cohort) -> Cohort:
    """Return the patients that the model has to see: those whose outcome is known.

    A model that standardises embeddings within groups sees all patients, since the moments of a group are
    those of all its patients, as in `predict`. Raises as `with_outcome`.
    """
    labelled = with_outcome(bundle, cohort)
    return cohort if bundle.head.by_group else labelled


def with_images(seen: Cohort) -> Cohort:
    """Return the patients who have images; raises DataError if nobody with a known outcome has."""
    return _present(seen, [patient for patient, paths in seen.images.items() if paths])


def _imageless(cohort: Cohort) -> set[str]:
    """Return who has no images any more, although a cache may still hold embeddings of former ones.

    Nobody is known to lack images in a cohort that was read without them.
    """
    if not cohort.images:
        return set()
    return {patient for patient in cohort.patient_ids if not cohort.images.get(patient)}


def _present(seen: Cohort, present: Collection[str]) -> Cohort:
    inside, labelled = set(present), seen.labelled()
    if inside.isdisjoint(labelled.patient_ids):
        raise DataError(
            f"{printable(seen.source)}: none of the {count_of(len(labelled), 'patient')} with a known"
            " outcome has images, and the model needs them."
        )
    return seen.select([patient for patient in seen.patient_ids if patient in inside])


def read_sample(bundle: ModelBundle, cohort: Cohort, features: Features, any_scale: bool = False) -> Sample:
    """Apply a model to the patients of a cohort who can validate it.

    cohort: read without images, or else patients without any are left out even if a cache has them
    features: the caches of the model's views, which may lack patients; None for a model on metadata only
    any_scale: see `predict`, as for the errors that are raised

    Raises DataError also where no patient is left, and where those who are left cannot be scored.
    """
    seen = seen_patients(bundle, cohort)
    caches = caches_of(features)
    if bundle.about.views and caches:
        stored = set.intersection(*(set(cache.patient_ids) for cache in caches))
        seen = _present(seen, stored - _imageless(seen))
    patients, cache = checked_patients(bundle, seen, features, any_scale)
    present, places = seen.labelled(), np.flatnonzero(patients.outcome.known(patients.labels))
    fitted = recognised(bundle.about, present.patient_ids, cache)
    new = np.ones(len(places), dtype=bool) if fitted is None else ~fitted
    _check_left(cohort, patients.take(places), new)
    outputs, domain = _applied(bundle, seen, patients, places[new])
    patients = patients.take(places[new])
    predicted = bundle.decision.predict(outputs)
    check_results(patients, predicted.values, np.zeros_like(predicted.values))
    labelled = cohort.labelled()
    return Sample(
        _flow(cohort, labelled, present, new),
        _others(present.patient_ids, patients.ids),
        _others(labelled.patient_ids, present.patient_ids),
        fitted is not None,
        patients,
        patients_of(present.select(patients.ids), features),
        cache,
        outputs,
        table_of(bundle, patients, predicted),
        domain,
    )


def _flow(cohort: Cohort, labelled: Cohort, present: Cohort, new: np.ndarray) -> Flow:
    """Count the patients; present: labelled ones with images; new: which of these are not in training."""
    excluded = sum(cohort.excluded.values())
    return Flow(
        table=len(cohort) + excluded,
        excluded=excluded,
        without_outcome=len(cohort) - len(labelled),
        without_images=len(labelled) - len(present),
        in_training=int((~new).sum()),
        scored=int(new.sum()),
    )


def _applied(
    bundle: ModelBundle, seen: Cohort, patients: Patients, places: np.ndarray
) -> tuple[np.ndarray, pd.DataFrame]:
    """Apply the head and the domain to all patients; return the rows at these places (n,) of both."""
    outputs = bundle.head.apply(patients, attention=False).logits.mean(0)
    columns = domain_columns(bundle.about, bundle.head, bundle.domain_projection, seen, patients)
    domain = pd.DataFrame({"patient_id": patients.ids, **columns})[["patient_id", IN_DOMAIN, REASONS]]
    return outputs[places], domain.iloc[places].reset_index(drop=True)


def _others(ids: Sequence[str], kept: Sequence[str]) -> tuple[str, ...]:
    inside = set(kept)
    return tuple(patient for patient in ids if patient not in inside)


def _check_left(cohort: Cohort, patients: Patients, new: np.ndarray) -> None:
    """Raise DataError where nobody is left, or where those who are left cannot be scored."""
    source = printable(cohort.source)
    if not new.any():
        named = some([printable(patient) for patient in patients.ids])
        raise DataError(
            f"{source}: all {count_of(len(patients), 'patient')} that could be scored ({named}) have ids or"
            " images that the model was, or may have been, fitted or recalibrated on. External validation"
            " needs other patients. If these are others with the same ids, such as P1, give them new ones."
        )
    lack = patients.outcome.lack(patients.labels[new])
    if lack is not None:
        left = count_of(int(new.sum()), "patient")
        raise DataError(
            f"{source}: the {left} left to be scored cannot show how well the model predicts, since there are"
            f" {lack.what}."
        )


def table_of(bundle: ModelBundle, patients: Patients, predicted: Predictions) -> Table:
    """Return predictions of labelled patients as one model's, as mil-predict scores them."""
    scoring = bundle.scoring
    columns = {"patient_id": patients.ids, **scoring.target_columns(patients.labels)}
    table = pd.DataFrame({**columns, **scoring.prediction_columns(predicted)})
    return one_model_table(bundle, table if patients.groups is None else table.assign(group=patients.groups))
