"""The variants of an ablation: the full model with one thing changed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mil_toolkit.config import (
    FUSION_NAMES,
    POOLING_NAMES,
    HeadConfig,
    Settings,
    Value,
    active_fields,
)
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.spec import augmented
from mil_toolkit.search.space import Space, shown_by
from mil_toolkit.training.patients import Patients

if TYPE_CHECKING:
    from mil_toolkit.features.bags import Bags  # imports torch

Change = Mapping[str, Value]  # values of fields of HeadConfig
FULL, METADATA_ONLY = "full", "metadata-only"
PLAIN = "without-augmented-views"  # of features with several orientations
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

    source: index among the feature folders; 0 for the study's own features
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


def variants_of(caches: Sequence[FeatureCache | None]) -> list[Variant]:
    """Return the variants of VARIANTS, and one named after each feature folder except the first.

    Where the study's features have several orientations, one variant is without them.

    Raises UsageError where two feature folders have the same name, or one of several is None.
    """
    names = [None if cache is None else cache.folder.name for cache in caches]
    if None in names[1:] or len(set(names)) < len(names):
        raise UsageError(
            "--features: name the study's own folder first, then others, each once; none cannot be combined"
            " with other folders."
        )
    turned = caches[0] is not None and augmented(caches[0].spec) > 0
    changes = [Variant(name, change) for name, change in VARIANTS.items()]
    changes += [Variant(PLAIN, {"augment": False})] if turned else []
    return changes + [Variant(str(name), source=source) for source, name in enumerate(names) if source]


def thin(bags: "Bags", count: int, random: np.random.Generator) -> "Bags":
    """Draw `count` instances of each bag without replacement; they keep their order."""
    import torch  # to read a study, it is not needed

    drawn = [np.sort(random.permutation(size)[:count]) for size in bags.sizes.tolist()]
    return bags.take_rows([torch.from_numpy(rows) for rows in drawn])
