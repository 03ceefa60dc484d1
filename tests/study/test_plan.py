"""Plans: inner folds are stratified by age only where this is asked for, and a study keeps its own splits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.planted import make_cohort

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.study.ablation import Data
from mil_toolkit.study.folder import SearchFolder, Study
from mil_toolkit.study.plan import Search, plan_searches, stored_searches

LABELS = np.arange(80) % 2
STRATIFIED_BY_AGE = ("label", "age")


def aged(seed: int, stratify: tuple[str, ...] = ("label",), groups: Sequence[str] | None = None) -> Cohort:
    ages = np.random.default_rng(seed).normal(60, 10, len(LABELS))
    return replace(make_cohort(LABELS, {"age": ages}, groups), stratify=stratify)


def held_out(searches: Sequence[Search]) -> list[list[list[int]]]:
    """Return the held-out patients of every search and of its inner folds."""
    return [[search.test.tolist(), *(split.test.tolist() for split in search.inner)] for search in searches]


def test_by_default_ages_have_no_influence_on_the_folds() -> None:
    config = StudyConfig(outer_folds=4, folds=4)
    (one, splits), (other, _) = (plan_searches(aged(seed), config) for seed in (1, 2))
    assert held_out(one) == held_out(other)
    assert set(splits.age_bins.values()) == {1}
    (by_age, splits), (other, _) = (plan_searches(aged(seed, STRATIFIED_BY_AGE), config) for seed in (1, 2))
    assert held_out(by_age) != held_out(other) and min(splits.age_bins.values()) > 1


@pytest.mark.parametrize(
    "config",
    [
        StudyConfig(outer_folds=3, folds=3, repeats=2),
        StudyConfig(outer_folds=0, folds=1),
        StudyConfig(outer_folds="groups", folds=2),
    ],
)
def test_stored_splits_give_the_same_searches(tmp_path: Path, config: StudyConfig) -> None:
    groups = [f"G{number // 10}" for number in range(len(LABELS))]
    cohort = aged(0, STRATIFIED_BY_AGE, groups if config.outer_folds == "groups" else None)
    planned, splits = plan_searches(cohort, config)
    study = Study.begin(tmp_path, config, cohort, None, splits)
    stored = stored_searches(study.read_splits(), cohort.patient_ids)
    assert held_out(stored) == held_out(planned)
    for one, other in zip(stored, planned, strict=True):
        assert (one.path, one.name, one.digest) == (other.path, other.name, other.digest)
        np.testing.assert_array_equal(one.patients, other.patients)
        for split, expected in zip(one.inner, other.inner, strict=True):
            np.testing.assert_array_equal(split.train, expected.train)


def test_an_ablation_uses_the_splits_of_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if [splits] has been edited since, or scikit-learn would now split the groups otherwise."""
    config = StudyConfig(outer_folds=4, folds=4)
    before = aged(0, STRATIFIED_BY_AGE)
    planned, splits = plan_searches(before, config)
    study = Study.begin(tmp_path, config, before, None, splits)
    monkeypatch.setattr(SearchFolder, "read_best", lambda folder: None)
    data = Data.load(study, replace(before, stratify=("label",)), [None], "cpu")
    assert held_out([fold.search for fold in data.folds]) == held_out(planned[:-1])
