"""Near-identical patients: copies are found by embeddings and by the table; clean cohorts are silent."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.planted import Column, make_cache, make_cohort

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.audit import audit
from mil_toolkit.study.records import Finding
from mil_toolkit.study.similar_patients import FEWEST, check_similar_patients, number_ranks, similar_pairs

Draw = Callable[[np.random.Generator], dict[str, np.ndarray]]
NOISE = 0.05  # of a column's standard deviation


def pairs_of(found: Sequence[Finding]) -> set[tuple[str, str]]:
    """Return the patients of all pairs that were found."""
    pairs = [place.split(" ~ ") for finding in found for place in finding.where]
    assert all(finding.level == "leak" and finding.count == len(finding.where) for finding in found)
    return {(one, other) for one, other in pairs}


def clinic(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Return age in whole years, a skewed count, haemoglobin, which depends on both, and sex."""
    age = random.normal(62, 14, count).round()
    lymphocytes = np.exp(random.normal(2.5, 0.8, count)).round(1)
    haemoglobin = (150 - 0.3 * age - 4 * np.log(lymphocytes) + random.normal(0, 12, count)).round()
    return {
        "age": age,
        "lymphocytes": lymphocytes,
        "haemoglobin": haemoglobin,
        "sex": np.array(["F", "M"])[random.integers(0, 2, count)],
    }


def twice(columns: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the columns with every patient entered again, the numbers with noise."""
    return {
        name: np.append(values, values if values.dtype.kind == "U" else values + NOISE * values.std() * noise)
        for (name, values), noise in zip(columns.items(), random.normal(size=(4, 45)), strict=True)
    }


def planted(
    seed: int, folder: Path | None, images: bool, table: bool, groups: bool = False
) -> tuple[Cohort, FeatureCache | None]:
    """Return 45 patients, each entered twice under two ids; the labels are independent of everything."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(90) % 2)
    columns: dict[str, Column] = dict(twice(clinic(random, 45), random)) if table else {}
    named = [f"G{number % 45}" for number in range(90)] if groups else None
    cohort = make_cohort(labels, columns or {"noise": random.normal(size=90)}, named)
    if not images:
        return cohort, None
    assert folder is not None
    first = [random.normal(random.normal(size=24), 1, (4, 24)) for _ in range(45)]
    bags = [*first, *(bag + NOISE * random.normal(size=bag.shape) for bag in first)]
    return cohort, make_cache(folder, cohort, bags)


TWINS = {(f"P{number:03d}", f"P{number + 45:03d}") for number in range(45)}


def test_patients_entered_twice_are_found_by_their_embeddings(tmp_path: Path) -> None:
    cohort, cache = planted(0, tmp_path, images=True, table=False)
    (found,) = check_similar_patients(cohort, cache)
    assert (found.kind, found.level) == ("near-identical patients", "leak")
    assert "mean embeddings" in found.text and pairs_of([found]) == TWINS


def test_patients_entered_twice_are_found_by_the_table() -> None:
    """With three numbers, some chance neighbours are as near as the copies; most pairs are copies."""
    cohorts = [planted(seed, None, images=False, table=True)[0] for seed in range(10)]
    found = [pairs_of(list(check_similar_patients(cohort, None))) for cohort in cohorts]
    assert sum(map(bool, found)) >= 9
    assert sum(len(pairs & TWINS) for pairs in found) > 3 * sum(len(pairs - TWINS) for pairs in found)


def test_a_few_copies_are_found_by_their_embeddings(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    cohort = make_cohort(np.arange(60) % 2, {"noise": random.normal(size=60)})
    bags = list(random.normal(size=(60, 1, 24)) + random.normal(size=(60, 3, 24)))
    bags[41] = bags[7] + NOISE * random.normal(size=(3, 24))
    bags[55] = bags[23] + NOISE * random.normal(size=(3, 24))
    found = list(check_similar_patients(cohort, make_cache(tmp_path, cohort, bags)))
    assert pairs_of(found) == {("P007", "P041"), ("P023", "P055")}


def test_a_patient_entered_four_times_is_found() -> None:
    random = np.random.default_rng(2)
    points = np.tile(random.normal(size=(20, 8)), (4, 1))
    pairs = similar_pairs(points + NOISE * random.normal(size=points.shape), None)
    assert {(one % 20, other % 20) for one, other in pairs} == {(patient, patient) for patient in range(20)}
    assert len(pairs) > 100  # of 6 pairs of each patient


def test_exact_copies_are_found() -> None:
    points = np.random.default_rng(3).normal(size=(60, 6))
    points[50], points[51] = points[1], points[2]
    assert similar_pairs(points, None) == [(1, 50), (2, 51)]


def test_copies_within_a_declared_group_are_no_alarm(tmp_path: Path) -> None:
    cohort, cache = planted(0, tmp_path, images=True, table=True, groups=True)
    assert list(check_similar_patients(cohort, cache)) == []


def test_few_persons_entered_several_times_within_groups_are_no_alarm() -> None:
    for persons, entries in ((16, 2), (25, 3), (40, 2)):
        groups = np.tile([f"G{number}" for number in range(persons)], entries)
        alarms = 0
        for seed in range(20):
            random = np.random.default_rng(seed)
            points = np.tile(random.normal(size=(persons, 3)), (entries, 1))
            alarms += bool(similar_pairs(points + NOISE * random.normal(size=points.shape), groups))
        assert alarms <= 1


def test_copies_across_groups_are_found() -> None:
    random = np.random.default_rng(4)
    points = random.normal(size=(90, 8))
    points[80:] = points[:10] + NOISE * random.normal(size=(10, 8))
    expected = [(number, number + 80) for number in range(10)]
    families = np.array([f"G{number // 2}" for number in range(90)])
    near = similar_pairs(points, families)  # the nearest patients of each two families
    assert set(near) <= set(expected) and [one // 2 for one, _ in near] == [0, 1, 2, 3, 4]
    hospitals = np.array([f"H{number // 30}" for number in range(90)])  # too few to be compared as a whole
    assert similar_pairs(points, hospitals) == expected
    assert similar_pairs(points, np.array(["H"] * 90)) == []


def test_patients_of_the_same_numbers_but_other_words_are_no_pair() -> None:
    random = np.random.default_rng(5)
    numbers = {
        name: np.append(part, part) for name, part in zip("abcdef", random.normal(size=(6, 30)), strict=True)
    }
    same = make_cohort(np.arange(60) % 2, {**numbers, "sex": ["F", "M"] * 30})
    assert len(pairs_of(list(check_similar_patients(same, None)))) == 30
    other = make_cohort(np.arange(60) % 2, {**numbers, "sex": ["F"] * 30 + ["M"] * 30})
    assert list(check_similar_patients(other, None)) == []
    rare = make_cohort(np.arange(60) % 2, {**numbers, "ward": [f"W{number}" for number in range(60)]})
    assert list(check_similar_patients(rare, None)) == []


def test_few_patients_and_single_columns_are_not_compared() -> None:
    points = np.tile(np.random.default_rng(6).normal(size=(FEWEST // 2 - 1, 5)), (2, 1))
    assert similar_pairs(points, None) == []
    assert similar_pairs(np.ones((50, 0)), None) == [] and similar_pairs(np.ones((50, 3)), None) == []
    ages = np.tile(np.arange(30) + 0.5, 2)
    assert list(check_similar_patients(make_cohort(np.arange(60) % 2, {"age": ages}), None)) == []


def test_ties_and_missing_values_do_not_make_patients_alike() -> None:
    random = np.random.default_rng(7)
    grades = {name: random.integers(0, 3, 60).astype(float) for name in "abcd"}
    gaps = {name: np.where(np.arange(60) % 12 == 0, np.nan, random.normal(size=60)) for name in "ef"}
    cohort = make_cohort(np.arange(60) % 2, {**grades, **gaps, "empty": [np.nan] * 60})
    ranks = number_ranks(cohort)
    assert ranks.shape == (60, 6) and len(np.unique(ranks[:, 0])) == 60
    assert (np.argsort(ranks[:, 0])[np.argsort(cohort.metadata["a"], kind="stable")] >= 0).all()
    assert (np.diff(cohort.metadata["a"].to_numpy()[np.argsort(ranks[:, 0])]) >= 0).all()
    assert list(check_similar_patients(cohort, None)) == []


def rounded(random: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: random.integers(0, 5, 90).astype(float) for name in "abcd"}


def clustered(random: np.random.Generator) -> dict[str, np.ndarray]:
    centre = random.normal(0, 4, (3, 5))[random.integers(0, 3, 90)]
    return dict(zip("abcde", (centre + random.normal(size=(90, 5))).T, strict=True))


def correlated(random: np.random.Generator) -> dict[str, np.ndarray]:
    return dict(zip("abcdef", random.normal(size=(6, 90)) + 1.5 * random.normal(size=90), strict=True))


@pytest.mark.parametrize("draw", [lambda random: clinic(random, 90), rounded, clustered, correlated])
def test_clean_tables_are_silent(draw: Draw) -> None:
    """Of 40 clean cohorts of a kind, two alarms or fewer; benchmarks/audit_alarms.py draws many more."""
    alarms = [
        bool(
            list(
                check_similar_patients(
                    make_cohort(np.arange(90) % 2, draw(np.random.default_rng(seed))), None
                )
            )
        )
        for seed in range(40)
    ]
    assert np.mean(alarms) <= 0.05


@pytest.mark.parametrize("kind", ["independent", "few directions", "two classes", "bags of unequal size"])
def test_clean_embeddings_are_silent(kind: str) -> None:
    def points(random: np.random.Generator) -> np.ndarray:
        noise = random.normal(size=(90, 32))
        if kind == "few directions":
            return random.normal(size=(90, 5)) @ random.normal(size=(5, 32)) + 0.2 * noise
        if kind == "two classes":
            return noise + 3 * (np.arange(90) % 2)[:, None]
        if kind == "bags of unequal size":
            return noise / np.sqrt(random.integers(2, 100, 90))[:, None]
        return noise

    alarms = [bool(similar_pairs(points(np.random.default_rng(seed)), None)) for seed in range(40)]
    assert np.mean(alarms) <= 0.05


def test_the_audit_reports_copies_first(tmp_path: Path) -> None:
    cohort, cache = planted(3, tmp_path, images=True, table=True)
    findings = [finding for finding in audit(cohort, cache) if finding.level == "leak"]
    assert {finding.kind for finding in findings} == {"near-identical patients"}
    assert any("mean embeddings" in finding.text for finding in findings)
