"""The features of a study: one folder, several to choose among, or several views that are used together."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mil_toolkit.backbones.spec import sampling_of
from mil_toolkit.config.head import VIEW_SEPARATOR, view_names
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable, some
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.training.patients import Features, caches_of


def with_features(config: StudyConfig, features: Features) -> StudyConfig:
    """Return a study's options with the feature folders that its searches choose among.

    Where there are several and the options say nothing about them, they are views that are used together.
    Raises UsageError for folders whose names do not tell them apart, and for unknown names in the options.
    """
    caches = caches_of(features)
    names = [cache.folder.name for cache in caches]
    if len(names) > 1:
        config = replace(config, settings={"features": (VIEW_SEPARATOR.join(names),), **config.settings})
    if problems := [*_name_problems(caches), *_setting_problems(config, names)]:
        raise UsageError("\n".join(problems))
    return config


def _name_problems(caches: Sequence[FeatureCache]) -> Iterator[str]:
    names = [cache.folder.name for cache in caches]
    for name in dict.fromkeys(names):
        folders = [printable(cache.folder) for cache in caches if cache.folder.name == name]
        if len(folders) > 1:
            yield f"Feature folders must have different names; {some(folders)} have the same."
        if len(names) > 1 and VIEW_SEPARATOR in name:
            yield f"The name of a feature folder must not contain {VIEW_SEPARATOR}: rename {folders[0]}."


def _setting_problems(config: StudyConfig, names: Sequence[str]) -> Iterator[str]:
    """Yield why `features` in the settings does not name feature folders of the study, each once."""
    for value in config.settings.get("features", ()):
        chosen = view_names(str(value))
        unknown = [printable(name) for name in chosen if name not in names]
        if unknown or len(set(chosen)) < len(chosen):
            known = some([*map(printable, names)]) if names else "none"
            named = printable(str(value))
            yield f"features={named} must name feature folders of the study, each once: {known}."


def features_setting(single: Sequence[str], together: Sequence[str]) -> tuple[str, ...]:
    """Return the values of `features` that a search chooses among.

    single: names of the folders that are used alone; together: names of the views that are used together

    >>> features_setting(["whole", "crop"], []), features_setting([], ["whole", "crop"])
    (('whole', 'crop'), ('whole+crop',))
    """
    return (*single, *([VIEW_SEPARATOR.join(together)] if together else []))


def audited_view(features: Features) -> FeatureCache | None:
    """Return the view that the audit compares images by: one of whole images if possible, else the first."""
    caches = caches_of(features)
    whole = [cache for cache in caches if _shows_whole_images(cache)]
    return next(iter([*whole, *caches]), None)


def _shows_whole_images(cache: FeatureCache) -> bool:
    spec = cache.spec
    is_squashed = sampling_of(spec).mode == "squash"
    return is_squashed and not spec["crop"] and spec["preprocess"] == "none"
