"""Shortcuts to numbers and to survival: planted ones are found, and columns of noise are silent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.planted import Column, make_cache, make_cohort

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.study.by_outcome import check_shortcuts
from mil_toolkit.study.records import Finding

PATIENTS = 60
TARGETS = np.random.default_rng(1).permutation(PATIENTS) + 0.5
EVENTS = (np.arange(PATIENTS) % 3 > 0).astype(float)  # a third of the patients are censored
HORIZON = 30.0
CENSORED_EARLY = (EVENTS == 0) & (TARGETS < HORIZON)
NOISE = np.random.default_rng(2).normal(size=PATIENTS)


def numbers(**columns: Column) -> Cohort:
    cohort = make_cohort(np.zeros(PATIENTS, dtype=int), columns)
    return replace(cohort, labels=TARGETS, outcome=Number("T"))


def survival(**columns: Column) -> Cohort:
    cohort = make_cohort(np.zeros(PATIENTS, dtype=int), columns)
    return replace(cohort, labels=np.stack([TARGETS, EVENTS], -1), outcome=Survival("T", "E", HORIZON))


COHORTS = {"number": numbers, "survival": survival}


def found(cohort: Cohort, kind: str) -> Finding:
    (finding,) = [finding for finding in check_shortcuts(cohort, None) if finding.kind == kind]
    assert finding.level == "shortcut" and finding.figures["p_value"] < 0.04
    return finding


@pytest.mark.parametrize("kind", COHORTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_column_that_holds_the_outcome_is_found(kind: str, sign: int) -> None:
    finding = found(COHORTS[kind](noise=NOISE, leaked=sign * TARGETS**2), "predictive column")
    assert finding.where == ("leaked",) and "Make sure that it was" in finding.advice
    rising = sign == (1 if kind == "number" else -1)  # a long time is a low risk
    assert finding.figures["value"] == pytest.approx(1 if rising else (-1 if kind == "number" else 0))


@pytest.mark.parametrize("kind", COHORTS)
def test_a_column_that_is_only_associated_is_found_without_a_suspicion(kind: str) -> None:
    finding = found(COHORTS[kind](weak=TARGETS + 18 * NOISE), "predictive column")
    assert "Make sure that it was" not in finding.advice
    assert f"metadata_{'ridge' if kind == 'number' else 'cox'}" in finding.advice


@pytest.mark.parametrize("kind", COHORTS)
def test_words_that_tell_the_outcome_are_found(kind: str) -> None:
    words = np.where(TARGETS < HORIZON, "short", "long")
    assert found(COHORTS[kind](ward=list(words), noise=NOISE), "predictive column").where == ("ward",)


@pytest.mark.parametrize("kind", COHORTS)
def test_values_that_are_missing_by_the_outcome_are_found(kind: str) -> None:
    absent = np.where(TARGETS > 40, np.nan, NOISE)
    assert found(COHORTS[kind](marker=absent), "missingness").where == ("marker",)


@pytest.mark.parametrize("kind", COHORTS)
def test_a_way_of_writing_that_tells_the_outcome_is_found(kind: str) -> None:
    ways = np.where(TARGETS > HORIZON, "%d.%m.%Y", "%Y-%m-%d").astype(object)
    ways[5] = None  # the cell is empty
    cohort = replace(COHORTS[kind](age=NOISE), spellings={"age": ways})
    finding = found(cohort, "way of writing")
    assert finding.where == ("age",) and "%d.%m.%Y: " in finding.text


@pytest.mark.parametrize("kind", COHORTS)
def test_numbers_of_images_that_tell_the_outcome_are_found(kind: str, tmp_path: Path) -> None:
    cohort = COHORTS[kind]()
    random = np.random.default_rng(3)
    bags = [random.normal(size=(2 + int(target // 10), 4)) for target in TARGETS]
    findings = list(check_shortcuts(cohort, make_cache(tmp_path, cohort, bags)))
    assert [finding.kind for finding in findings] == ["bag size"]


@pytest.mark.parametrize("kind", COHORTS)
def test_noise_is_silent(kind: str) -> None:
    random = np.random.default_rng(4)
    alarms = 0
    for _ in range(10):
        gaps = np.where(random.random(PATIENTS) < 0.2, np.nan, random.normal(size=PATIENTS))
        words = random.choice(["a", "b", "c"], PATIENTS).tolist()
        alarms += bool(list(check_shortcuts(COHORTS[kind](gaps=gaps, words=words), None)))
    assert alarms <= 2  # 0.4 are expected; more than 2 have a probability of 0.006


def test_patients_censored_before_the_horizon_do_not_count_for_survival() -> None:
    """A column that only marks them says nothing about the risk."""
    assert CENSORED_EARLY.sum() > 5
    assert list(check_shortcuts(survival(marks=CENSORED_EARLY * 5.0 + NOISE / 100), None)) == []


@pytest.mark.parametrize(
    "cohort",
    [
        replace(numbers(a=NOISE), labels=np.full(PATIENTS, 2.0)),
        replace(survival(a=NOISE), labels=np.stack([TARGETS, 0 * EVENTS], -1)),
    ],
)
def test_outcomes_without_differences_are_not_checked(cohort: Cohort) -> None:
    (finding,) = check_shortcuts(cohort, None)
    assert finding.level == "unchecked" and "were not checked" in finding.text
