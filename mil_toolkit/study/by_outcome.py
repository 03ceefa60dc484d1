"""`OUTCOME_STUDIES`: the baselines and the search for shortcuts in a study of each kind of outcome."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.number_shortcuts import check_number
from mil_toolkit.study.records import Finding
from mil_toolkit.study.rivals import (
    Regression,
    Rival,
    bag_size,
    bag_statistics,
    logistic,
    mean_embeddings,
    metadata_columns,
    multinomial,
    ordered_multinomial,
    ridge,
)
from mil_toolkit.study.shortcuts import check_several_classes, check_survival, check_two_classes
from mil_toolkit.study.survival_rivals import cox, linear_hazards


@dataclass(frozen=True)
class OutcomeStudy:
    """A study of a kind of outcome.

    rivals: the baselines by name; the first one sees only the metadata
    check_shortcuts: finds what predicts the outcome without a model of the images
    """

    rivals: dict[str, Rival]
    check_shortcuts: Callable[[Cohort, FeatureCache | None], Iterator[Finding]]


_METADATA, _METADATA_C1 = "Metadata only", "Metadata only, C = 1"
_SIZE, _MEAN, _STATISTICS = "Number of images only", "Mean embedding", "Mean, max and min"
_AT_1 = (1.0,)  # a search of the strength can make a baseline worse


def _of_classes(regression: Regression, name: str) -> dict[str, Rival]:
    """Return the baselines of classes by a kind of regression, such as `logistic`."""
    searched, at_1 = f"{name} regressions, C searched", f"{name} regressions, C = 1"
    return {
        f"metadata_{name}": Rival(metadata_columns, regression, title=_METADATA, version=searched),
        f"metadata_{name}_c1": Rival(metadata_columns, regression, _AT_1, _METADATA_C1, at_1),
        "bag_size": Rival(bag_size, regression, title=_SIZE),
        f"mean_{name}": Rival(mean_embeddings, regression, title=_MEAN),
        f"mean_max_min_{name}": Rival(bag_statistics, regression, title=_STATISTICS),
    }


_check_classes = partial(check_several_classes, baseline="metadata_multinomial")
OUTCOME_STUDIES = {
    "binary": OutcomeStudy(_of_classes(logistic, "logistic"), check_two_classes),
    "ordered": OutcomeStudy(_of_classes(ordered_multinomial, "multinomial"), _check_classes),
    "classes": OutcomeStudy(_of_classes(multinomial, "multinomial"), _check_classes),
    "number": OutcomeStudy(
        {
            "metadata_ridge": Rival(metadata_columns, ridge, title=_METADATA),
            "bag_size": Rival(bag_size, ridge, title=_SIZE),
            "mean_ridge": Rival(mean_embeddings, ridge, title=_MEAN),
            "mean_max_min_ridge": Rival(bag_statistics, ridge, title=_STATISTICS),
        },
        check_number,
    ),
    "survival": OutcomeStudy(
        {
            "metadata_cox": Rival(
                metadata_columns, cox, title="Metadata only (Cox)", version="Cox regressions, C searched"
            ),
            "metadata_cox_c1": Rival(
                metadata_columns, cox, _AT_1, "Metadata (Cox), C = 1", "Cox regressions, C = 1"
            ),
            "bag_size": Rival(bag_size, cox, title=_SIZE),
            "mean_hazards": Rival(mean_embeddings, linear_hazards, title=_MEAN),
            "mean_max_min_hazards": Rival(bag_statistics, linear_hazards, title=_STATISTICS),
        },
        partial(check_survival, baseline="metadata_cox"),
    ),
}
"""The studies of each kind of outcome."""


def metadata_rivals(kind: str) -> list[str]:
    """Return the names of the baselines that see only the metadata."""
    rivals = OUTCOME_STUDIES[kind].rivals
    return [name for name, rival in rivals.items() if rival.columns is metadata_columns]


METADATA = {kind: metadata_rivals(kind)[0] for kind in OUTCOME_STUDIES}  # the first of them, by kind
ALL_RIVALS: Mapping[str, Rival] = {
    name: rival for study in OUTCOME_STUDIES.values() for name, rival in study.rivals.items()
}
"""The baselines of all kinds; those of the same name differ only in their regression."""


def check_shortcuts(cohort: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    """Find what predicts the outcome of the labelled patients without a model of the images."""
    return OUTCOME_STUDIES[cohort.outcome.kind].check_shortcuts(cohort, cache)
