"""`open_study_features`: the features that a study was made with, found by the study's own record."""

import logging
from collections.abc import Sequence
from pathlib import Path

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable
from mil_toolkit.features.cache import FeatureCache, named_cache, open_features
from mil_toolkit.features.spec import holds_spec
from mil_toolkit.study.folder import Study
from mil_toolkit.study.records import FeaturesIdentity
from mil_toolkit.training.patients import Features, caches_of

NONE = "none"  # instead of a folder: metadata only
logger = logging.getLogger(__name__)


def open_study_features(features: str | Sequence[str] | None, folder: Path, cohort_name: str) -> Features:
    """Open the caches that `--features` names, by default those that the study was made with.

    folder: of the study
    Returns None for metadata only. Raises UsageError if a cache of the study is not where it was, and
    DataError if the folder does not hold a finished study.
    """
    if features is not None:
        named = [features] if isinstance(features, str) else features
        return _in_order(open_folders(named, cohort_name), folder)
    study = Study.open(folder)
    identities = study.description.all_features
    if not identities:
        logger.info("Using metadata only, as %s does (no --features given).", printable(folder))
        return None
    recorded = _recorded_folders(study)
    places = [_recorded_cache(study, each, recorded.get(each.name), cohort_name) for each in identities]
    listed = ", ".join(map(printable, places))
    logger.info("Using the features of %s: %s (no --features given).", printable(folder), listed)
    return _one_or_several([FeatureCache.open(place) for place in places])


def open_folders(features: Sequence[str], cohort_name: str) -> Features:
    """Open the caches in these folders; the only word `none` is metadata only.

    Raises UsageError where a folder is named twice or `none` beside a folder, DataError where a folder is not
    a cache.
    """
    if len(features) > 1 and (NONE in features or len(set(map(Path, features))) < len(features)):
        raise UsageError(
            f"--features: name each folder once; {NONE} cannot be combined with folders, not"
            f" {', '.join(map(printable, features))}."
        )
    caches = [open_features(folder, cohort_name) for folder in features]
    return _one_or_several([cache for cache in caches if cache is not None])


def _one_or_several(caches: Sequence[FeatureCache]) -> Features:
    return caches if len(caches) > 1 else next(iter(caches), None)


def _in_order(features: Features, folder: Path) -> Features:
    """Return several caches in the order in which the study in a folder names them, if they are the same."""
    caches = caches_of(features)
    if len(caches) < 2:
        return features
    by_name = {cache.folder.name: cache for cache in caches}
    names = [identity.name for identity in Study.open(folder).description.all_features]
    return [by_name[name] for name in names] if by_name.keys() == set(names) else caches


def _recorded_folders(study: Study) -> dict[str, str]:
    """Return the folders of the study's features as they were named, by the name of the features."""
    sources = study.read_sources()
    folders = [] if sources is None else sources.feature_folders
    return dict(zip((each.name for each in study.description.all_features), folders, strict=False))


def _recorded_cache(study: Study, features: FeaturesIdentity, recorded: str | None, cohort_name: str) -> Path:
    """Return the study's cache folder: where it was, in the working folder, or in the cohort's folder."""
    sources = study.read_sources()
    places = [named_cache(cohort_name, features.name)]
    if sources is not None and recorded is not None:
        named = Path(recorded)
        here = sources.working_folder == str(Path.cwd())
        places = [named if here else sources.working_folder / named, named, *places]
    for place in places:
        if holds_spec(place):
            return place
    looked = "".join(f"\n  {printable(place)}" for place in dict.fromkeys(places))
    raise UsageError(
        f"{printable(study.folder)} was made with the features {features.name}, which are in none of these"
        f" folders. Name their folder with --features:{looked}"
    )
