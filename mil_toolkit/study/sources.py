"""`open_study_features`: the features that a study was made with, found by the study's own record."""

import logging
from pathlib import Path

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable
from mil_toolkit.features.cache import FeatureCache, named_cache, open_features
from mil_toolkit.features.spec import FILE_NAME
from mil_toolkit.study.folder import Study, is_there
from mil_toolkit.study.records import FeaturesIdentity

logger = logging.getLogger(__name__)


def open_study_features(features: str | None, folder: Path, cohort_name: str) -> FeatureCache | None:
    """Open the cache that `--features` names, by default the one that the study was made with.

    folder: of the study
    Returns None for metadata only. Raises UsageError if the study's cache is not where it was, and DataError
    if the folder does not hold a finished study.
    """
    if features is not None:
        return open_features(features, cohort_name)
    study = Study.open(folder)
    if study.description.features is None:
        logger.info("Using metadata only, as %s does (no --features given).", printable(folder))
        return None
    path = _recorded_cache(study, study.description.features, cohort_name)
    logger.info("Using the features of %s: %s (no --features given).", printable(folder), printable(path))
    return FeatureCache.open(path)


def _recorded_cache(study: Study, features: FeaturesIdentity, cohort_name: str) -> Path:
    """Return the study's cache folder: where it was, in the working folder, or in the cohort's folder."""
    sources = study.read_sources()
    places = [named_cache(cohort_name, features.name)]
    if sources is not None and sources.features is not None:
        named = Path(sources.features)
        here = sources.working_folder == str(Path.cwd())
        places = [named if here else sources.working_folder / named, named, *places]
    for place in places:
        if is_there(place / FILE_NAME):
            return place
    looked = "".join(f"\n  {printable(place)}" for place in dict.fromkeys(places))
    raise UsageError(
        f"{printable(study.folder)} was made with the features {features.name}, which are in none of these"
        f" folders. Name their folder with --features:{looked}"
    )
