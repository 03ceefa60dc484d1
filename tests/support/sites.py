"""Cohorts of several sites, whose embeddings are shifted and stretched by the site."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import Value
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, StoredImage
from support.planted import make_cohort
from support.stored_bags import RECORDED, SPEC

WIDTH, PATIENTS, IMAGES = 6, 12, 4  # patients of each site, images of each patient


def sites_cohort(positives: Sequence[int]) -> Cohort:
    """Return a cohort with a site for each number of positive patients, of its PATIENTS."""
    labels = [int(place < count) for count in positives for place in range(PATIENTS)]
    groups = [f"S{site}" for site in range(len(positives)) for _ in range(PATIENTS)]
    noise = np.random.default_rng(0).normal(size=len(labels))
    return make_cohort(labels, {"noise": noise}, groups)


def sites_cache(folder: Path, cohort: Cohort, shift: float, seed: int = 1) -> FeatureCache:
    """Return embeddings whose first column tells positive patients.

    shift: standard deviation between sites of the columns, and of the logarithm of their factors
    """
    random = np.random.default_rng(seed)
    assert cohort.groups is not None
    names = np.unique(cohort.groups)
    moves = dict(zip(names, shift * random.normal(size=(len(names), WIDTH)), strict=True))
    factors = dict(zip(names, np.exp(shift * random.normal(size=(len(names), WIDTH))), strict=True))
    cache = FeatureCache.create(folder, cohort.name, {**SPEC, "backbone": "resnet18", "width": WIDTH})
    bags = []
    for patient, label, site in zip(cohort.patient_ids, cohort.labels, cohort.groups, strict=True):
        embeddings = random.normal(size=(IMAGES, WIDTH))
        embeddings[:, 0] += 1.5 * label
        images = tuple(StoredImage(f"{row}.png", random.bytes(32), row, row) for row in range(IMAGES))
        bags.append(
            EmbeddedBag(patient, images, (factors[site] * embeddings + moves[site]).astype(np.float16))
        )
    cache.publish(bags, RECORDED)
    cache.refresh()
    return cache


class Sites(NamedTuple):
    """A cohort of four sites with shifted embeddings, and a finished study; tests only read them.

    study: of heads that standardise embeddings within the sites, with the sites as outer folds
    """

    cohort: Cohort
    cache: FeatureCache
    study: Path


def sites_study(folder: Path) -> Sites:
    """Tune on a cohort whose sites have equal shares of positive patients."""
    from mil_toolkit.study.tune import tune

    cohort = sites_cohort([6, 6, 6, 6])
    cache = sites_cache(folder / "cache", cohort, shift=2.0)
    fixed: dict[str, Value] = {"components": 0, "pooling": "mean", "metadata_branch": "none"}
    fixed |= {
        "learning_rate": 0.02,
        "embedding_dropout": 0.0,
        "instance_dropout": 0.0,
        "epochs": 20,
        "patience": 20,
    }
    settings = {"standardise": ("group",), **{name: (value,) for name, value in fixed.items()}}
    config = StudyConfig(trials=1, folds=2, outer_folds="groups", members=1, settings=settings)
    tune(cohort, cache, folder / "study", config, "cpu")
    return Sites(cohort, cache, folder / "study")
