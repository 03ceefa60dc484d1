"""A validation of the tiny model, and models of all outcomes with cohorts to validate them on."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.other_cohorts import Other, other_outcome
from support.paths import installed
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.validation.validate import Validated, validate


@pytest.fixture(scope="package", name="validated")
def _validated(tiny: Tiny, other: Other) -> Validated:
    """The validation of the tiny model on patients of another place, with two steps refitted together."""
    cohort, cache = read_cohort(other.cohort_toml, images=False), FeatureCache.open(other.features)
    return validate(ModelBundle.load(tiny.bundle), cohort, cache, ("intercept", "threshold"), 0.3)


@pytest.fixture(scope="package", name="case_of")
def _case_of(
    tiny: Tiny,
    other: Other,
    study_of: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[ModelBundle, Cohort]]:
    """Return a function from the kind of an outcome to a model and a cohort of another place."""

    def case(kind: str) -> tuple[ModelBundle, Cohort]:
        if kind == "survival":
            installed("sksurv")
        bundle = ModelBundle.load(study_of(kind) / "model")
        toml = other.cohort_toml
        if kind != "binary":
            toml = other_outcome(tiny, kind, tmp_path_factory.mktemp(kind) / "cohort")
        return bundle, read_cohort(toml, images=False)

    return case
