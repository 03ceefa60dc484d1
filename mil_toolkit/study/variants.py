"""The variants of an ablation: the full model with one thing changed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mil_toolkit.config.head import (
    BY_GROUP,
    FUSION_NAMES,
    POOLING_NAMES,
    VIEW_FUSION_NAMES,
    VIEW_SEPARATOR,
    HeadConfig,
    active_fields,
    view_names,
)
from mil_toolkit.config.tunable import Settings, Value
from mil_toolkit.core.errors import UsageError
from mil_toolkit.search.space import Space, shown_by
from mil_toolkit.training.patients import Patients

if TYPE_CHECKING:
    from mil_toolkit.features.bags import Bags  # imports torch

Change = Mapping[str, Value]  # values of fields of HeadConfig
FULL, METADATA_ONLY = "full", "metadata-only"
PLAIN = "without-augmented-views"  # of features with several orientations
GROUPED: dict[str, Change] = {
    "standardise-cohort": {"standardise": True},
    "standardise-group": {"standardise": BY_GROUP},
}
"""Variants of a study with images whose outer folds are groups, if they differ from the full model."""
EQUAL_BAGS = "equal-bags"  # the full model, scored on the same number of images of each patient
VARIANTS: dict[str, Change] = {
    FULL: {},
    "images-only": {"metadata_branch": "none"},
    METADATA_ONLY: {"image_branch": False},
    "metadata-direct": {"metadata_branch": "direct"},
    "metadata-mlp": {"metadata_branch": "mlp"},
    **{f"pooling-{name}": {"pooling": name} for name in POOLING_NAMES},
    **{f"fusion-{name}": {"fusion": name} for name in FUSION_NAMES},
}


@dataclass(frozen=True)
class Variant:
    """The full model with one thing changed: hyperparameters, or the features.

    source: which features; 0 for the study's own, then the other feature folders
    """

    name: str
    change: Change = field(default_factory=dict)
    source: int = 0

    def configure(self, best: HeadConfig, settings: Settings, patients: Patients) -> HeadConfig:
        """Return a fold's best configuration with the change; fields without effect keep their defaults.

        A field that has an effect only because of the change takes the first value that the study's
        `settings` allow.
        """
        allowed = {name: values[0] for name, values in settings.items()}
        values = asdict(best) | allowed | active_fields(best) | dict(self.change)
        fixed = {name: (value,) for name, value in values.items()}
        return Space(fixed, *shown_by(patients)).config_of({})


def uses_nothing(config: HeadConfig) -> bool:
    """Return whether a configuration uses neither images nor metadata."""
    return not config.image_branch and config.metadata_branch == "none"


def variants_of(
    settings: Settings,
    own: Sequence[str | None],
    others: Sequence[str | None],
    turned: bool = False,
    by_group: bool = False,
) -> list[Variant]:
    """Return the variants of VARIANTS, those of the study's views, and one named after each other folder.

    settings: of the study; own, others: names of its feature folders and of others, None for none
    turned: whether the study's images have several orientations
    by_group: whether its outer folds are groups

    Raises UsageError where two feature folders have the same name, or one of the others is None.
    """
    names = [*own, *others]
    if None in others or len(set(names)) < len(names):
        raise UsageError(
            "--features: name the study's own folders first, then others, each once; none cannot be combined"
            " with other folders."
        )
    changes = {**VARIANTS, **_view_variants(settings), **({PLAIN: {"augment": False}} if turned else {})}
    changes |= GROUPED if by_group and None not in own else {}
    single: Change = {"features": ""} if len(own) > 1 else {}
    return [
        *(Variant(name, change) for name, change in changes.items()),
        *(Variant(str(name), single, source) for source, name in enumerate(others, 1)),
    ]


def _view_variants(settings: Settings) -> dict[str, Change]:
    """Return the variants that drop a view, fuse views otherwise, or fix the features that a search chose."""
    options = [view_names(str(value)) for value in settings.get("features", ())]
    together = max(options, key=len, default=[])
    changes: dict[str, Change] = {}
    if len(together) > 1:
        for dropped in together:
            left = [name for name in together if name != dropped]
            changes[f"without-{dropped}"] = {"features": VIEW_SEPARATOR.join(left)}
        changes |= {f"views-{fusion}": {"view_fusion": fusion} for fusion in VIEW_FUSION_NAMES}
    if len(options) > 1:
        known = [change.get("features") for change in changes.values()]
        singles = [names[0] for names in options if len(names) == 1 and names[0] not in known]
        changes |= {f"features-{name}": {"features": name} for name in singles}
    return changes


def thin(bags: "Bags", count: int, random: np.random.Generator) -> "Bags":
    """Draw `count` instances of each bag without replacement; they keep their order."""
    import torch  # to read a study, it is not needed

    drawn = [np.sort(random.permutation(size)[:count]) for size in bags.sizes.tolist()]
    return bags.take_rows([torch.from_numpy(rows) for rows in drawn])
