"""What identifies a study: options, search space, and digests of cohort and features."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import SOME, some
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.search.space import Space

SCHEMA = 1
_TOLD = ("name", "kind", "transform", "unit")  # of a metadata column


def describe(config: StudyConfig, cohort: Cohort, cache: FeatureCache | None) -> dict[str, Any]:
    """All that fixes a study, as JSON: the options, the search space, digests of labelled patients and embeddings."""
    labelled = cohort.labelled()
    features = None
    if cache is not None:
        features = {
            "name": cache.folder.name,
            "digest": cache.digest(labelled.patient_ids),
            "spec": cache.spec,
        }
    settings = {name: list(values) for name, values in config.settings.items()}
    return {
        "schema": SCHEMA,
        "study": asdict(config) | {"settings": settings},
        "space": Space(config.settings, cache is not None, not cohort.metadata.empty).described(),
        "cohort": {"name": cohort.name, "digest": labelled.digest(), "patients": len(labelled)},
        "features": features,
    }


def sources_record(folder: Path, cohort: Cohort, cache: FeatureCache | None) -> dict[str, Any]:
    """Where a study's data lie, as they were named, and the folder that relative names start from."""
    return {
        "working_folder": str(Path.cwd()),
        "study": str(folder),
        "cohort": str(cohort.source),
        "features": None if cache is None else str(cache.folder),
    }


def patients_record(cohort: Cohort, cache: FeatureCache | None) -> dict[str, Any]:
    """The labelled patients with their metadata and numbers of images, and how the metadata were declared."""
    labelled = cohort.labelled()
    bags = [] if cache is None else cache.winners(labelled.patient_ids)
    sizes: list[int | None] = [len(bag.image_names) for bag in bags] or [None] * len(labelled)
    metadata = labelled.metadata.astype(object).where(labelled.metadata.notna(), None).to_dict("records")
    rows = zip(labelled.patient_ids, labelled.labels.tolist(), sizes, metadata, strict=True)
    return {
        "class_names": list(cohort.class_names),
        "unlabelled": len(cohort) - len(labelled),
        "columns": [{name: asdict(column)[name] for name in _TOLD} for column in cohort.columns],
        "patients": [dict(zip(("id", "label", "images", "metadata"), row, strict=True)) for row in rows],
    }


def refuse_other(where: object, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise DataError that names each difference between what a study was told and what it is told now."""
    there, here = _flat(found), _flat(asked)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if names:
        lines = [f"{name}: {_difference(there.get(name), here.get(name))}" for name in names]
        advice = "Use another --study, or the cohort, features and options that it was made with."
        raise DataError([f"{where} describes another study:", *lines, advice])


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    """Every value by the names that lead to it; folds by their number."""
    if isinstance(nested, list) and nested and isinstance(nested[0], list):
        nested = {f"fold{number}": each for number, each in enumerate(nested, 1)}
    if not isinstance(nested, Mapping):
        return {prefix: nested}
    parts = (_flat(value, f"{prefix}.{name}" if prefix else name) for name, value in nested.items())
    return {name: value for part in parts for name, value in part.items()}


def _difference(there: Any, here: Any) -> str:
    """Of long lists, such as patients, what one of them alone has."""
    if isinstance(there, list) and isinstance(here, list) and len(there) + len(here) > 2 * SOME:
        there, here = [some(_alone(one, other)) for one, other in ((there, here), (here, there))]
        return f"{there} there, {here} now."
    return f"{there!r} there, {here!r} now."


def _alone(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    return [each for each in one if each not in other]
