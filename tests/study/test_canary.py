"""The canary: passes for a sound procedure, fails for one that leaks, and leaves the study unchanged."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t
from support.commands import Command
from support.planted import make_cache, make_cohort

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.cohort.official_folds import OfficialFolds
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.config.study import GROUPS, OFFICIAL, StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.progress import LineTimes
from mil_toolkit.evaluation.table import Table
from mil_toolkit.evaluation.words import metric_words
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.ordered import Ordered
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.study import canary as module
from mil_toolkit.study.canary import RUNS, run_canary, small
from mil_toolkit.study.canary_result import Canary
from mil_toolkit.study.folder import Study
from mil_toolkit.study.tune import tune
from mil_toolkit.training.patients import Patients

LABELS = np.arange(30) % 2
SETTINGS = {"epochs": (4,), "hidden": (32,), "components": (0,)}
CONFIG = StudyConfig(trials=2, folds=2, outer_folds=0, members=1, settings=SETTINGS)


@pytest.fixture(name="data")
def _data(tmp_path: Path) -> tuple[Cohort, FeatureCache]:
    """Noise of 16 columns, which a model can memorise for few patients."""
    cohort = make_cohort(LABELS, {"noise": np.random.default_rng(0).normal(size=30)})
    return cohort, make_cache(
        tmp_path / "cache", cohort, list(np.random.default_rng(1).normal(size=(30, 2, 16)))
    )


# The test.


def test_the_test_is_a_t_test_of_the_mean() -> None:
    aucs = list(np.random.default_rng(0).normal(0.53, 0.08, RUNS))
    canary = Canary.of(aucs)
    statistic = (np.mean(aucs) - 0.5) / (np.std(aucs, ddof=1) / np.sqrt(RUNS))
    assert canary.p_value == pytest.approx(2 * t.sf(abs(statistic), RUNS - 1))
    assert (canary.mean, canary.deviation) == pytest.approx((np.mean(aucs), np.std(aucs, ddof=1)))


@pytest.mark.parametrize(("mean", "passed"), [(0.5, True), (0.52, True), (0.6, False), (0.4, False)])
def test_it_passes_for_means_around_one_half(mean: float, passed: bool) -> None:
    spread = np.linspace(-0.12, 0.12, RUNS)  # a standard deviation of 0.075
    canary = Canary.of(list(mean + spread))
    assert canary.passed is passed
    assert ("CANARY FAILED" in str(canary)) is not passed
    assert f"{mean:.3f}" in str(canary) and "t-test" in str(canary)


def test_equal_runs_have_no_p_value() -> None:
    assert Canary.of([0.5] * 20).passed and not Canary.of([1.0] * 20).passed
    assert Canary.of([1.0] * 20).p_value is None


def test_few_sound_procedures_fail() -> None:
    random = np.random.default_rng(0)
    failed = [not Canary.of(list(random.normal(0.5, 0.08, RUNS))).passed for _ in range(1000)]
    assert 0 < np.mean(failed) < 0.02  # the level is 0.01


def test_the_interval_is_that_of_the_mean() -> None:
    aucs = list(np.random.default_rng(1).normal(0.5, 0.08, RUNS))
    canary = Canary.of(aucs)
    expected = t.interval(0.95, RUNS - 1, np.mean(aucs), np.std(aucs, ddof=1) / np.sqrt(RUNS))
    assert (canary.low, canary.high) == pytest.approx(expected)
    assert f"95 % interval {canary.low:.3f} to {canary.high:.3f}" in str(canary)


def test_a_pass_says_what_it_does_not_show() -> None:
    spread = np.linspace(-0.12, 0.12, RUNS)
    passed, failed = str(Canary.of(list(0.5 + spread))), str(Canary.of(list(0.6 + spread)))
    for words in ("does not show that the patients are independent", "entered twice", "easily missed"):
        assert words in passed and words not in failed
    assert "does not show" in str(Canary.of([0.5] * RUNS)) and "None" not in str(Canary.of([0.5] * RUNS))


def test_the_detectable_auc_fails_in_four_of_five_canaries() -> None:
    random = np.random.default_rng(0)
    detectable = np.mean([Canary.of(list(random.normal(0.5, 0.1, RUNS))).detectable for _ in range(500)])
    assert 0.57 < detectable < 0.6
    failed = [not Canary.of(list(random.normal(detectable, 0.1, RUNS))).passed for _ in range(1000)]
    assert np.mean(failed) == pytest.approx(0.8, abs=0.05)


# The runs.


def test_a_run_is_small_and_has_the_same_search_space() -> None:
    config = StudyConfig(
        trials=50, repeats=3, sampler="random", settings={"pooling": ("mean",), "epochs": (50, 5)}
    )
    fewer = small(config)
    assert (fewer.trials, fewer.folds, fewer.outer_folds, fewer.repeats, fewer.members) == (2, 3, 3, 1, 1)
    assert fewer.settings == {"pooling": ("mean",), "epochs": (20, 5)} and fewer.sampler == "random"
    assert small(replace(config, repeats=1, outer_folds=GROUPS)).outer_folds == GROUPS


def test_every_run_has_other_labels_with_the_same_class_counts(
    data: tuple[Cohort, FeatureCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def outer_auc(study: Study, cohort: Cohort, patients: Patients, device: str) -> float:
        assert np.array_equal(cohort.labels, patients.labels)
        seen.append(tuple(patients.labels))
        return 0.4 + 0.01 * len(seen)

    monkeypatch.setattr(module, "_outer_auc", outer_auc)
    canary = run_canary(*data, tmp_path / "study", CONFIG)
    assert len(canary.aucs) == RUNS >= 20 and len(set(seen)) == RUNS
    assert tuple(LABELS) not in seen and {sum(labels) for labels in seen} == {15}
    run_canary(*data, tmp_path / "again", CONFIG)
    assert seen[:RUNS] == seen[RUNS:]
    run_canary(*data, tmp_path / "other", replace(CONFIG, seed=1))
    assert not set(seen[:RUNS]) & set(seen[2 * RUNS :])


def seen_labels(
    cohort: Cohort, folder: Path, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> list[np.ndarray]:
    """Return the labels of every run on a cohort without images."""
    seen: list[np.ndarray] = []

    def outer_auc(study: Study, cohort: Cohort, patients: Patients, device: str) -> float:
        assert np.array_equal(cohort.labels, patients.labels)
        seen.append(patients.labels)
        return 0.4 + 0.01 * len(seen)

    monkeypatch.setattr(module, "_outer_auc", outer_auc)
    run_canary(cohort, None, folder, config)
    return seen


def test_the_two_entries_of_a_patient_have_one_shuffled_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patients who were entered twice, in one group: nothing else would notice folds that divide them."""
    labels = np.tile(np.arange(30) % 2, 2)
    groups = [f"G{number % 30}" for number in range(60)]
    cohort = make_cohort(labels, {"noise": np.random.default_rng(0).normal(size=60)}, groups)
    seen = seen_labels(cohort, tmp_path, CONFIG, monkeypatch)
    assert len({tuple(each) for each in seen}) == RUNS
    for shuffled in seen:
        assert np.array_equal(shuffled[:30], shuffled[30:]) and shuffled.sum() == 30
        assert not np.array_equal(shuffled, labels)


def test_hospitals_of_different_size_exchange_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = np.repeat(list("ABCDEF"), [30, 14, 6, 6, 4, 2])
    labels = np.array([0] * 27 + [1] * 3 + [1] * 11 + [0] * 3 + [0, 1] * 9)
    cohort = make_cohort(labels, {"noise": np.random.default_rng(0).normal(size=62)}, list(groups))
    for outer_folds in (GROUPS, 0):
        config = replace(CONFIG, outer_folds=outer_folds)
        seen = seen_labels(cohort, tmp_path / str(outer_folds), config, monkeypatch)
        assert len({tuple(shuffled) for shuffled in seen}) == RUNS
        assert len({int(shuffled.sum()) for shuffled in seen}) > 2  # of the same groups
        shares = np.array([[shuffled[groups == name].mean() for name in "ABCDEF"] for shuffled in seen])
        assert ((shares < 0.2).any(1) | (shares > 0.7).any(1)).mean() > 0.7  # as unequal as before


def test_patients_are_permuted_where_whole_groups_leave_no_folds_to_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of one class that are held out one at a time have no AUC."""
    groups = [f"G{number // 5}" for number in range(30)]
    cohort = make_cohort(np.arange(30) // 5 % 2, {"noise": np.random.default_rng(0).normal(size=30)}, groups)
    seen = seen_labels(cohort, tmp_path, replace(CONFIG, outer_folds=GROUPS), monkeypatch)
    assert all(shuffled.sum() == 15 for shuffled in seen)
    assert all(shuffled.reshape(6, 5).std(1).any() for shuffled in seen)


def with_official_folds(labels: np.ndarray, *sizes: int) -> Cohort:
    """Return a cohort of noise whose official folds are its first, next, ... patients."""
    cohort = make_cohort(labels, {"noise": np.random.default_rng(0).normal(size=len(labels))})
    parts = np.split(np.array(cohort.patient_ids), np.cumsum(sizes)[:-1])
    return replace(cohort, folds=OfficialFolds((tuple(frozenset(part.tolist()) for part in parts),)))


def test_labels_are_shuffled_until_the_official_folds_can_be_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Official folds are not drawn again for the shuffled labels, which may leave none for training."""
    cohort = with_official_folds((np.arange(30) % 6 == 0).astype(int), 18, 6, 6)
    config = replace(CONFIG, outer_folds=OFFICIAL)
    seen = seen_labels(cohort, tmp_path, config, monkeypatch)
    assert len({tuple(shuffled) for shuffled in seen}) == RUNS
    for shuffled in seen:
        searches, _ = module.plan_searches(replace(cohort, labels=shuffled), small(config))
        assert shuffled.sum() == 5 and any(shuffled[search.test].any() for search in searches[:-1])


def test_official_folds_that_no_shuffle_can_be_scored_on_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every training part of the study has two positive patients, which hardly any shuffle keeps."""
    labels = np.array([1, 1, 0, 0, 1, 1] + [0] * 34)
    cohort, config = with_official_folds(labels, 4, 36), replace(CONFIG, outer_folds=OFFICIAL)
    module.plan_searches(cohort, config)
    with pytest.raises(module.NoShuffle, match=r"No canary: .* planted\.toml with both classes"):
        seen_labels(cohort, tmp_path, config, monkeypatch)


def test_noise_passes_and_the_study_is_unchanged(
    data: tuple[Cohort, FeatureCache],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LineTimes, "is_due", lambda _: True)
    with caplog.at_level(logging.INFO, "mil_toolkit"):
        canary = run_canary(*data, tmp_path / "with", CONFIG, "cpu", runs=6)
    assert canary.passed and len(set(canary.aucs)) > 1
    estimates = [message.split(" after ")[0] for message in caplog.messages if message.endswith(" left.")]
    assert estimates == [f"canary: {done} of 6 runs" for done in range(1, 6)]
    assert "Canary passed" in caplog.text
    assert sorted(path.name for path in (tmp_path / "with").iterdir()) == [
        ".claim",
        ".lock",
        "canary.json",
        "config.json",
    ]
    for name in ("with", "without"):
        tune(*data, tmp_path / name, CONFIG, "cpu")
    for name in ("scores.json", "best.json", "config.json", "trials.csv"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def test_a_procedure_that_trains_on_held_out_patients_fails(
    data: tuple[Cohort, FeatureCache],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = module.plan_searches

    def leaking(cohort: Cohort, config: StudyConfig) -> object:
        searches, saved = plan(cohort, config)
        final = searches[-1]
        return [replace(each, patients=final.patients, inner=final.inner) for each in searches], saved

    monkeypatch.setattr(module, "plan_searches", leaking)
    canary = run_canary(*data, tmp_path / "study", CONFIG, "cpu", runs=10)
    assert not canary.passed and canary.mean > 0.6
    assert [record.levelname for record in caplog.records if "CANARY FAILED" in record.message] == ["ERROR"]


def test_the_result_of_an_older_version_is_read(tmp_path: Path, data: tuple[Cohort, FeatureCache]) -> None:
    aucs = list(np.linspace(0.4, 0.6, RUNS))
    new = Canary.of(aucs)
    Study.begin(tmp_path, CONFIG, *data)
    old = {name: getattr(new, name) for name in ("aucs", "mean", "deviation", "p_value", "level", "passed")}
    (tmp_path / "canary.json").write_text(json.dumps(old))
    assert run_canary(*data, tmp_path, CONFIG) == new


def test_an_existing_result_is_read(
    data: tuple[Cohort, FeatureCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_outer_auc", lambda *_: 0.5)
    first = run_canary(*data, tmp_path, CONFIG)
    monkeypatch.setattr(module, "_outer_auc", lambda *_: 1.0)
    assert run_canary(*data, tmp_path, CONFIG) == first
    with pytest.raises(DataError, match="another study"):
        run_canary(*data, tmp_path, replace(CONFIG, seed=3))


# Other outcomes than two classes.


OUTCOMES = {
    "classes": Classes("DX", ("a", "b", "c")),
    "ordered": Ordered("DX", ("1", "2", "3")),
    "number": Number("N"),
    "survival": Survival("T", "E", 0.6),
}
every_outcome = pytest.mark.parametrize("kind", OUTCOMES)


def cohort_of(kind: str, patients: int = 36) -> Cohort:
    """Return patients whose metadata are noise."""
    random = np.random.default_rng(3)
    labels: np.ndarray = np.arange(patients) % 3
    if kind == "number":
        labels = random.normal(size=patients)
    elif kind == "survival":
        labels = np.stack([random.exponential(1, patients) + 0.01, np.arange(patients) % 4 > 0], 1)
    cohort = make_cohort(np.zeros(patients, dtype=int), {"noise": random.normal(size=patients)})
    return replace(cohort, labels=labels, outcome=OUTCOMES[kind])


def chance(kind: str, table: Table) -> float:
    """Return the primary metric of predictions that do not depend on the patient."""
    if kind == "number":
        return float(np.abs(table.labels - np.median(table.labels)).mean())
    return 0.5 if kind == "survival" else 1 / 3


@every_outcome
def test_shuffled_outcomes_score_chance(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the metric that is tested, whose chance is 0.5, and in the primary metric of the outcome."""
    tables, outer_table = list[Table](), module._outer_table

    def remembered(study: Study, cohort: Cohort, patients: Patients, device: str) -> Table:
        tables.append(outer_table(study, cohort, patients, device))
        return tables[-1]

    monkeypatch.setattr(module, "_outer_table", remembered)
    cohort = cohort_of(kind)
    config = replace(CONFIG, trials=1)
    with caplog.at_level(logging.INFO, "mil_toolkit"):
        canary = run_canary(cohort, None, tmp_path, config, "cpu", runs=6)
    primary = OUTCOME_METRICS[kind].primary
    assert canary.passed and len(set(canary.aucs)) > 1
    assert canary.metric == cohort.outcome.scoring.discrimination
    assert f"runs on shuffled outcomes: outer {metric_words(canary.metric)}" in caplog.text
    assert len({table.labels.tobytes() for table in tables}) == len(tables) == 6
    excess = [table.score(table.scoring.metrics[primary]) / chance(kind, table) - 1 for table in tables]
    error = np.std(excess, ddof=1) / np.sqrt(len(excess))
    worse = 0.25 if kind == "number" else 0.0  # a fitted line is worse than a constant, on noise
    assert -3 * error < np.mean(excess) < worse + 3 * error
    again = run_canary(cohort, None, tmp_path, config, "cpu", runs=6)
    assert again == canary and str(again) == str(canary)  # as it was stored


@every_outcome
def test_a_leak_fails_for_every_outcome(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that follows the shuffled outcome, as if it were recorded after it."""
    original = module._outer_table

    def outer_table(study: Study, cohort: Cohort, patients: Patients, device: str) -> Table:
        known = patients.labels if patients.labels.ndim == 1 else patients.labels[:, 0]
        metadata = patients.metadata.assign(noise=known.astype(float))
        return original(study, cohort, replace(patients, metadata=metadata), device)

    monkeypatch.setattr(module, "_outer_table", outer_table)
    canary = run_canary(cohort_of(kind), None, tmp_path, replace(CONFIG, trials=1), "cpu", runs=3)
    assert not canary.passed and canary.mean > 0.7
    assert "predicted meaningless outcomes" in str(canary)


def test_times_are_shuffled_until_all_training_patients_reach_the_horizon() -> None:
    """Hardly any shuffle has them by itself."""
    late = replace(cohort_of("survival"), outcome=Survival("T", "E", 1.5))
    for seed in range(3):
        shuffled = module._shuffled(late, replace(CONFIG, outer_folds=3), np.random.default_rng(seed))
        searches, _ = module.plan_searches(shuffled, replace(CONFIG, outer_folds=3))
        assert len(searches) == 4


def test_outcomes_whose_shuffles_leave_no_folds_are_reported(tmp_path: Path) -> None:
    cohort = cohort_of("classes")
    parts = np.split(np.array(cohort.patient_ids), [35])
    folds = OfficialFolds((tuple(frozenset(part.tolist()) for part in parts),))
    with pytest.raises(
        module.NoShuffle,
        match=r"left no folds .* that can be scored, in 20 attempts\. In the last one: .* class has 1",
    ):
        module._shuffled(
            replace(cohort, labels=np.array([0] * 34 + [1, 2]), folds=folds),
            replace(CONFIG, outer_folds=OFFICIAL),
            np.random.default_rng(0),
        )


@pytest.mark.parametrize("first", [0, 20])
def test_the_advice_does_not_depend_on_the_first_patient(first: int) -> None:
    """Here, only the follow-up of the folds is too short, whoever comes first in the table."""
    cohort, outcome = cohort_of("survival"), Survival("T", "E", 5.0)
    times, events = np.linspace(0.1, 4.9, len(cohort)), np.arange(len(cohort)) % 2
    times[-1] = 6.0
    labels = np.roll(np.stack([times, events], axis=1), first, axis=0)
    parts = np.split(np.array(cohort.patient_ids), [18])
    folds = OfficialFolds((tuple(frozenset(part.tolist()) for part in parts),))
    with pytest.raises(module.NoShuffle) as caught:
        module._shuffled(
            replace(cohort, labels=labels, folds=folds, outcome=outcome),
            replace(CONFIG, outer_folds=OFFICIAL),
            np.random.default_rng(0),
        )
    assert "followed up to" in str(caught.value) and "Choose an earlier horizon" in str(caught.value)
    assert "Choose a later horizon" not in str(caught.value) and "censored" not in str(caught.value)


# The command.


@pytest.mark.parametrize(("auc", "code"), [(0.5, 0), (0.9, 3)])
def test_the_command_runs_the_study_and_reports_a_failure(
    auc: float, code: int, tiny_options: Sequence[object], tmp_path: Path, command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "_outer_auc", lambda *_: auc)
    monkeypatch.setattr(module, "run_canary", partial(run_canary, runs=3))
    options = (*tiny_options, "--trials", 1, "--outer-folds", 0, "--study", tmp_path)
    done = command("tune", *options, "--canary")
    assert done.code == code and (tmp_path / "DONE").exists()
    for text in (done.out, done.err):
        assert ("CANARY FAILED" in text) == (code == 3) and "3 runs on shuffled labels" in text
    again = command("tune", *options, "--canary", "--json")
    assert again.code == code
    assert again.json["canary"] == json.loads((tmp_path / "canary.json").read_text())
    without = command("tune", *options, "--json")  # the same study without --canary
    assert without.code == 0 and without.json["canary"] is None


def test_the_command_runs_the_study_without_a_canary_that_is_not_possible(
    tiny_options: Sequence[object], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(*_: object) -> None:
        raise module.NoShuffle("No canary: why.")

    monkeypatch.setattr(module, "_shuffled", impossible)
    options = (*tiny_options, "--trials", 1, "--outer-folds", 0, "--study", tmp_path)
    done = command("tune", *options, "--canary", "--json")
    assert done.code == 0 and (tmp_path / "DONE").exists() and not (tmp_path / "canary.json").exists()
    assert done.json["canary"] is None and "No canary: why." in done.err
