"""What identifies a study: options, search space, and digests of cohort and features."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest_json
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.core.text import SOME, some
from mil_toolkit.features.spec import augmented
from mil_toolkit.outcomes.kinds import record_of
from mil_toolkit.search.space import Space
from mil_toolkit.study.records import (
    CohortIdentity,
    ColumnRecord,
    FeaturesIdentity,
    PatientRecord,
    PatientsRecord,
    Sources,
    Statements,
    StudyDescription,
    one_or_all,
)
from mil_toolkit.training.patients import Features, caches_of

SCHEMA = 1


def describe(config: StudyConfig, cohort: Cohort, features: Features) -> StudyDescription:
    """Return what identifies a study: options, search space, digests of labelled patients and bags."""
    labelled = cohort.labelled()
    identities = [
        FeaturesIdentity(cache.folder.name, cache.digest(labelled.patient_ids), cache.spec)
        for cache in caches_of(features)
    ]
    has_orientations = any(augmented(identity.spec) for identity in identities)
    has_metadata, classes = not cohort.metadata.empty, cohort.outcome.has_class_logits
    space = Space(config.settings, bool(identities), has_metadata, has_orientations, classes)
    identity = CohortIdentity(cohort.name, labelled.digest(), len(labelled))
    outcome = record_of(cohort.outcome)
    return StudyDescription(SCHEMA, config, space.described(), identity, one_or_all(identities), outcome)


def sources_of(folder: Path, cohort: Cohort, features: Features) -> Sources:
    """Return where a study's data are, as they were named."""
    folders = [str(cache.folder) for cache in caches_of(features)]
    return Sources(str(Path.cwd()), str(folder), str(cohort.source), one_or_all(folders))


def patients_of(cohort: Cohort, features: Features) -> PatientsRecord:
    """Return the labelled patients with metadata and bag sizes, and how the metadata were declared."""
    labelled = cohort.labelled()
    bags = [bag for cache in caches_of(features)[:1] for bag in cache.winners(labelled.patient_ids)]
    sizes: list[int | None] = [bag.size for bag in bags] or [None] * len(labelled)
    known = labelled.metadata.astype(object).where(labelled.metadata.notna(), None)
    metadata = [{str(name): value for name, value in row.items()} for row in known.to_dict("records")]
    groups: list[str | None] = [None] * len(labelled)
    if labelled.groups is not None:
        groups = [str(group) for group in labelled.groups]
    rows = zip(labelled.patient_ids, labelled.labels.tolist(), sizes, metadata, groups, strict=True)
    return PatientsRecord(
        cohort.class_names,
        len(cohort) - len(labelled),
        [ColumnRecord(each.name, each.kind, each.transform, each.unit) for each in cohort.columns],
        [PatientRecord(*row) for row in rows],
        grouped=labelled.groups is not None,
        excluded=dict(cohort.excluded),
        statements=Statements(**asdict(cohort.study)),
    )


def patients_digest(record: PatientsRecord) -> str:
    """Return the digest of the stored patients: `Cohort.digest` of their cohort."""
    patients = record.patients
    columns = [[patient.metadata[column.name] for patient in patients] for column in record.columns]
    return digest_json(
        {
            "patient_ids": [patient.id for patient in patients],
            "labels": [patient.label for patient in patients],
            "groups": [patient.group for patient in patients] if record.grouped else None,
            "metadata": columns,
        }
    )


def with_defaults(stored: Json) -> Json:
    """Return a stored description as JSON with the defaults of options that older versions lack."""
    options, given = to_json(StudyConfig()), stored.get("study") if isinstance(stored, dict) else None
    if not isinstance(stored, dict) or not isinstance(given, dict) or not isinstance(options, dict):
        return stored
    return {**stored, "study": {**options, **given}}


def refuse_other(source: object, stored: Json, asked: Json) -> None:
    """Raise DataError with every difference between a stored description, as JSON, and the one asked for now.

    source: where the stored one is, for the message
    """
    there, here = _flat(stored), _flat(asked)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if names:
        lines = [f"{name}: {_difference(there.get(name), here.get(name))}" for name in names]
        advice = "Use another --study, or the cohort, features and options that it was made with."
        raise DataError([f"{source} describes another study:", *lines, advice])


def _flat(nested: Json, prefix: str = "") -> dict[str, Json]:
    """Return every value under the dotted path of keys that leads to it; folds and views have numbers."""
    if isinstance(nested, list) and nested and isinstance(nested[0], list | dict):
        kind = "fold" if isinstance(nested[0], list) else "view"
        nested = {f"{kind}{number}": item for number, item in enumerate(nested, 1)}
    if not isinstance(nested, dict):
        return {prefix: nested}
    parts = (_flat(value, f"{prefix}.{name}" if prefix else name) for name, value in nested.items())
    return {name: value for part in parts for name, value in part.items()}


def _difference(there: Json, here: Json) -> str:
    """Return two values as text; of long lists, such as patients, only the items that the other lacks."""
    if isinstance(there, list) and isinstance(here, list) and len(there) + len(here) > 2 * SOME:
        only_there, only_here = (some(_missing_from(two, one)) for one, two in ((there, here), (here, there)))
        return f"{only_there} there, {only_here} now."
    return f"{there!r} there, {here!r} now."


def _missing_from(other: Sequence[Json], items: Sequence[Json]) -> list[Json]:
    return [item for item in items if item not in other]
