"""Shortcuts: planted ones are found, and cohorts without any are silent in 95 of 100 audits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from support.audited import LABELS, PATIENTS, embeddings, only, sound
from support.planted import Column, make_cache, make_cohort

from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.study import shortcuts
from mil_toolkit.study.audit import audit
from mil_toolkit.study.by_outcome import check_shortcuts
from mil_toolkit.study.shortcuts import area, column_area


def test_the_area_agrees_with_scikit_learn() -> None:
    values = np.random.default_rng(0).normal(LABELS * 0.5).round(1)  # with ties
    found = area(values, LABELS)
    assert found["value"] == pytest.approx(roc_auc_score(LABELS, values))
    assert found["low"] < found["value"] < found["high"]


def test_resamples_scored_in_parts_give_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(LABELS * 0.5).round(1)
    whole = area(values, LABELS)
    monkeypatch.setattr(shortcuts, "_AT_ONCE", 7 * len(LABELS))
    assert area(values, LABELS) == whole


def test_a_bag_size_that_predicts_the_label_is_a_shortcut(tmp_path: Path) -> None:
    bags = [
        bag[: 10 - 4 * (label and i % 5 != 0)]
        for i, (bag, label) in enumerate(zip(embeddings(), LABELS, strict=True))
    ]
    found = only(audit(sound(), make_cache(tmp_path, sound(), bags)), "bag size")
    assert found.level == "shortcut" and found.figures["high"] < 0.5  # the positive have fewer


def test_a_number_that_predicts_the_label_is_found() -> None:
    strong, weak = LABELS * 5.0, np.random.default_rng(3).normal(LABELS)
    findings = audit(sound(leaked=strong + np.linspace(0, 1, PATIENTS), age=weak), None)
    leaked, age = [each for each in findings if each.kind == "predictive column"]
    assert leaked.where == ("leaked",) and leaked.figures["value"] == 1
    assert "before the diagnosis" in leaked.advice
    assert age.where == ("age",) and age.figures["low"] > 0.5 and "before the diagnosis" not in age.advice


def test_a_number_whose_small_values_are_positive_is_also_found() -> None:
    found = only(audit(sound(count=-LABELS * 5.0 + np.linspace(0, 1, PATIENTS)), None), "predictive column")
    assert found.figures["value"] == 0 and "before the diagnosis" in found.advice


def test_a_category_that_predicts_the_label_is_found() -> None:
    words = [("A", "B", "C")[i % 3] if label else ("D", "E")[i % 2] for i, label in enumerate(LABELS)]
    found = only(audit(sound(ward=words), None), "predictive column")
    assert found.where == ("ward",) and found.figures["value"] > 0.95


def test_rare_categories_do_not_identify_their_own_patients() -> None:
    """Almost every patient has a separate category: its share of positives would be the label itself."""
    areas, naive = [], []
    for seed in range(60):
        words = [f"W{each}" for each in np.random.default_rng(seed).integers(0, 40, PATIENTS)]
        column = pd.Series(words, dtype=object)
        shares = pd.Series(LABELS).groupby(column).transform("mean").to_numpy()
        naive.append(area(shares, LABELS)["value"])
        areas.append((column_area(column, LABELS) or {})["value"])
    assert np.mean(naive) > 0.9 and abs(np.mean(areas) - 0.5) < 0.04


def test_missing_values_associated_with_the_label_are_found() -> None:
    noise = np.random.default_rng(4).normal(size=PATIENTS)
    absent = np.where((LABELS == 1) & (np.arange(PATIENTS) % 4 == 1), np.nan, noise)
    at_random = np.where(np.arange(PATIENTS) % 12 < 2, np.nan, noise)
    findings = audit(sound(test=absent, count=at_random), None)
    found = only(findings, "missingness")
    assert found.level == "shortcut" and found.where == ("test",)
    assert found.figures["positive"] == 0.5 and found.figures["negative"] == 0
    counts = {each.text.partition(" ")[0]: each.count for each in findings if each.kind == "missing values"}
    assert counts == {"test": 12, "count": 8}


def dashed(labels: np.ndarray, dashed: np.ndarray) -> Cohort:
    """Patients with a birth date in one of two formats."""
    age = np.random.default_rng(7).permutation(len(labels)) + 20.5
    ways = np.where(dashed, "%d-%m-%Y", "%m/%d/%Y").astype(object)
    return replace(make_cohort(labels, {"age": age}), spellings={"age": ways})


def test_dates_whose_format_tells_the_label_are_found() -> None:
    labels = np.repeat([1, 0, 1], [3, 26, 71])  # the first 29 dates have dashes
    found = only(audit(dashed(labels, np.arange(100) < 29), None), "way of writing")
    assert (found.level, found.where, found.count) == ("shortcut", ("age",), 29)
    assert "(%d-%m-%Y: 3 of 29 positive, %m/%d/%Y: 71 of 71 positive; p = " in found.text
    assert found.figures["p_value"] < 1e-10 and found.figures["%d-%m-%Y"] == pytest.approx(3 / 29)


def test_dates_whose_format_does_not_tell_the_label_are_silent() -> None:
    findings = audit(dashed(np.arange(100) % 2, np.arange(100) < 29), None)
    assert not [finding for finding in findings if finding.kind == "way of writing"]


def test_only_labelled_patients_count_for_the_way_of_writing() -> None:
    labels = np.repeat([-1, 0, 1], [29, 36, 35])
    findings = audit(dashed(labels, np.arange(100) < 29), None)
    assert not [finding for finding in findings if finding.kind == "way of writing"]


def test_each_of_several_ways_of_writing_is_compared_with_the_others() -> None:
    cohort = sound()
    thirds = np.array(["%d-%m-%Y", "%m/%d/%Y", "%Y-%m-%d"], dtype=object)[np.arange(PATIENTS) // 2 % 3]
    assert audit(replace(cohort, spellings={"noise": thirds}), None) == audit(cohort, None)
    third_and_positive = (np.arange(PATIENTS) % 3 == 0) & (LABELS == 1)
    ways = np.where(third_and_positive, "%d.%m.%Y", thirds).astype(object)
    found = only(audit(replace(cohort, spellings={"noise": ways}), None), "way of writing")
    assert "%d.%m.%Y: 8 of 8 positive" in found.text and found.text.count(" positive") == 4


def test_upper_and_lower_case_that_tells_the_label_is_found(tmp_path: Path) -> None:
    """The words are equally frequent in both classes; only their spelling differs."""
    toml = (
        '[cohort]\nname = "c"\ntable = "t.csv"\nid = "ID"\nlabel = "L"\npositive = 1\nnegative = 0\n'
        '[metadata.sex]\ncolumn = "SEX"\nkind = "category"\n'
    )
    (tmp_path / "cohort.toml").write_text(toml)

    def kinds(*words: str) -> list[str]:
        rows = [f"P{number},{number % 2},{words[number % 4]}" for number in range(40)]
        (tmp_path / "t.csv").write_text("\n".join(["ID,L,SEX", *rows]))
        findings = audit(read_cohort(tmp_path / "cohort.toml", images=False), None)
        return [finding.text for finding in findings if finding.level == "shortcut"]

    (text,) = kinds("f", "F", "m", "M")
    assert "sex is written" in text
    assert "(lower case: 0 of 20 positive, upper case: 20 of 20 positive; p = " in text
    (capitals,) = kinds("Female", "FEMALE", "Male", "MALE")
    assert "(mixed case: 0 of 20 positive, upper case: 20 of 20 positive; p = " in capitals
    assert kinds("F", "F", "M", "M") == [] and kinds("f", "f", "M", "M") == []


# False alarms, and tests of many columns.


def share_of_alarms(cohorts: Sequence[Cohort]) -> float:
    return float(np.mean([bool(list(check_shortcuts(cohort, None))) for cohort in cohorts]))


def unrelated(seed: int, groups: Sequence[str] | None = None) -> Cohort:
    """Return 60 patients with numbers, words and gaps that have nothing to do with the label."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(60) % 3 > 0).astype(int)
    if groups is not None:
        labels = np.repeat(labels[::2], 2)
    columns: dict[str, Column] = {f"words{size}": [f"w{word}" for word in random.integers(0, size, 60)]
                                  for size in (2, 3, 8, 25)}  # fmt: skip
    numbers = np.where(random.random((3, 60)) < 0.2, np.nan, random.normal(size=(3, 60)).round(1))
    columns |= dict(zip("abc", numbers, strict=True))
    return make_cohort(labels, columns, groups)


def test_columns_that_tell_nothing_are_silent_in_about_95_of_100_audits() -> None:
    """At most 12 of 150 audits, if 6 are expected; benchmarks/audit_alarms.py draws many more."""
    assert share_of_alarms([unrelated(seed) for seed in range(150)]) <= 0.08


def test_twins_in_groups_do_not_count_as_independent_patients() -> None:
    """Both patients of a group have the same words and the same label, independently of each other."""
    groups = [f"G{number // 2}" for number in range(60)]

    def twins(seed: int, groups: list[str] | None) -> Cohort:
        random = np.random.default_rng(seed)
        labels = np.repeat(random.permutation(np.arange(30) % 2), 2)
        words = np.repeat(random.integers(0, 5, 30), 2)
        numbers = np.repeat(random.normal(size=30), 2)
        columns: dict[str, Column] = {"ward": [f"w{word}" for word in words], "count": numbers}
        return make_cohort(labels, columns, groups)

    assert share_of_alarms([twins(seed, groups) for seed in range(100)]) <= 0.09
    assert share_of_alarms([twins(seed, None) for seed in range(100)]) > 0.15


def test_a_shortcut_is_found_among_many_columns_that_tell_nothing() -> None:
    random = np.random.default_rng(8)
    noise: dict[str, Column] = {f"noise{number}": random.normal(size=PATIENTS) for number in range(30)}
    findings = list(
        check_shortcuts(sound(None, shortcut=LABELS * 2 + random.normal(size=PATIENTS), **noise), None)
    )
    assert [finding.where for finding in findings] == [("shortcut",)]
    assert "permutation test adjusted for 32 tests (Holm)" in findings[0].text
    assert findings[0].figures["p_value"] < 0.01


def test_a_strong_shortcut_is_found_among_hundreds_of_columns() -> None:
    """The number of draws grows with the number of tests, or no p-value could be small enough."""
    random = np.random.default_rng(9)
    noise: dict[str, Column] = {f"noise{number}": random.normal(size=PATIENTS) for number in range(500)}
    findings = list(
        check_shortcuts(sound(None, shortcut=LABELS * 1.0 + random.normal(0, 0.1, PATIENTS), **noise), None)
    )
    assert ("shortcut",) in [finding.where for finding in findings] and len(findings) < 3


def test_a_shortcut_that_whole_groups_share_is_found() -> None:
    groups = [f"G{number // 2}" for number in range(PATIENTS)]
    labels = np.arange(PATIENTS) // 2 % 2
    ward = ["ICU" if label and number % 8 else "normal" for number, label in enumerate(labels)]
    found = only(
        list(check_shortcuts(make_cohort(labels, {"ward": ward}, groups), None)), "predictive column"
    )
    assert "permutation test)" in found.text  # not Fisher's, for which patients are independent
