"""Evidence, on the real pipeline: held-out patients have no influence on the fit, and noise scores chance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp, ttest_rel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from support.planted import make_cache, make_cohort

from mil_toolkit.config.study import StudyConfig
from mil_toolkit.evaluation.calibration import fit_decision
from mil_toolkit.evaluation.intervals import Table
from mil_toolkit.evaluation.metrics import METRICS, Predicted
from mil_toolkit.evaluation.splits import age_bins
from mil_toolkit.search.storage import MemoryStorage
from mil_toolkit.study import conclusion, rivals
from mil_toolkit.study.by_outcome import OUTCOME_STUDIES
from mil_toolkit.study.conclusion import predictions_of
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import Search, plan_searches
from mil_toolkit.study.progress import no_progress
from mil_toolkit.study.records import CohortIdentity, StudyDescription
from mil_toolkit.study.run import run_searches, search_runs
from mil_toolkit.study.scores import rival_tables
from mil_toolkit.study.tracker import NoTracker
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training import inputs as inputs_module
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients

COUNT = 36
SETTINGS = {"epochs": (4,), "hidden": (32,), "components": (0, 16), "pooling": ("attention", "mean")}
CONFIG = StudyConfig(trials=3, folds=2, outer_folds=2, members=2, sampler="random", settings=SETTINGS)


def draw(folder: Path, seed: int = 0, count: int = COUNT, width: int = 20) -> tuple[Patients, list[Search]]:
    """Return patients of pure noise, with missing values and words, and their searches."""
    random = np.random.default_rng(seed)
    labels = random.permutation(count) % 2
    numbers = np.where(random.random(count) < 0.1, np.nan, random.normal(size=count))
    words = list(random.choice(["A", "B", "C"], count))
    cohort = make_cohort(labels, {"number": numbers, "word": words})
    bags = [random.normal(size=(size, width)) for size in random.integers(1, 5, count)]
    config = replace(CONFIG, seed=seed)
    return Patients.of(cohort, make_cache(folder, cohort, bags)), plan_searches(cohort, config)[0]


def outer(
    patients: Patients, searches: Sequence[Search], folder: Path, config: StudyConfig = CONFIG
) -> pd.DataFrame:
    """Run some searches of a study, and return the predictions of their held-out patients."""
    cohort = CohortIdentity("planted", "", len(patients))
    study = Study(folder, config, StudyDescription(1, config, {}, cohort, None))
    workspace = Workspace.of(study, patients, "cpu")
    run_searches(search_runs(workspace, searches, MemoryStorage(), NoTracker(study)), no_progress)
    return pd.concat([predictions_of(study, search) for search in searches])


# Held-out patients have no influence on the fit.


@dataclass(frozen=True)
class Fold:
    """What one outer fold fits and predicts: files, weights, and rows of the held-out patients."""

    patients: Patients
    search: Search
    folder: Path

    @cached_property
    def _heads_and_rows(self) -> tuple[FittedHead, pd.DataFrame]:
        heads: list[FittedHead] = []
        fit = conclusion.refit

        def recorded(*arguments: Any) -> FittedHead:
            heads.append(fit(*arguments))
            return heads[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conclusion, "refit", recorded)
            rows = outer(self.patients, [self.search], self.folder)
        return heads[0], rows

    @property
    def head(self) -> FittedHead:
        return self._heads_and_rows[0]

    @property
    def rows(self) -> pd.DataFrame:
        return self._heads_and_rows[1].set_index("patient_id")

    def file(self, name: str) -> bytes:
        return (self.folder / "outer" / self.search.name / name).read_bytes()

    def baseline(self, name: str) -> dict[str, float]:
        table = rival_tables(CONFIG, self.patients, [self.search])[name]
        return dict(zip(table.patient_ids, table.probabilities[0], strict=True))


def assert_same_fit(one: Fold, other: Fold, kept: list[str]) -> None:
    """Compare bit for bit everything that was fitted, and the predictions of unchanged held-out patients."""
    assert len(one.rows) == len(other.rows)
    for name in ("best.json", "trials.csv", "out_of_fold.csv"):
        assert one.file(name) == other.file(name), name
    weights, others = one.head.model.state_dict(), other.head.model.state_dict()
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name
    assert one.head.encoder == other.head.encoder, "encoder"
    assert (one.head.projection is None) == (other.head.projection is None)
    if one.head.projection is not None and other.head.projection is not None:
        for name, value in vars(one.head.projection).items():
            same = vars(other.head.projection)[name]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same, name
    assert one.rows["threshold"].tolist() == other.rows["threshold"].tolist(), "threshold"
    columns = ["probability", "prediction", "member1", "member2"]
    assert one.rows.loc[kept, columns].equals(other.rows.loc[kept, columns]), "predictions"
    for name in OUTCOME_STUDIES["binary"].rivals:
        mine, theirs = one.baseline(name), other.baseline(name)
        assert [mine[patient] for patient in kept] == [theirs[patient] for patient in kept], name


def other_labels(patients: Patients, places: np.ndarray) -> Patients:
    labels = patients.labels.copy()
    labels[places] = 1 - labels[places]
    return replace(patients, labels=labels)


def other_metadata(patients: Patients, places: np.ndarray) -> Patients:
    metadata = patients.metadata.copy()
    metadata.iloc[places, 0] = 1e3 + np.arange(len(places))
    metadata.iloc[places, 1] = pd.Series(["NEW", None] * len(places), dtype=object).to_numpy()[: len(places)]
    return replace(patients, metadata=metadata)


def other_embeddings(patients: Patients, places: np.ndarray) -> Patients:
    bags = patients.bags
    assert bags is not None
    instances = bags.instances.clone()
    instances[bags.rows(torch.from_numpy(places))] *= 30
    return replace(patients, bags=replace(bags, instances=instances))


Change = Callable[[Patients, np.ndarray], Patients]
CHANGES: dict[str, Change] = {
    "labels": other_labels,
    "metadata": other_metadata,
    "embeddings": other_embeddings,
}


@pytest.fixture(scope="module", name="original")
def _original(tmp_path_factory: pytest.TempPathFactory) -> Fold:
    patients, searches = draw(tmp_path_factory.mktemp("cache"))
    return Fold(patients, searches[0], tmp_path_factory.mktemp("original"))


def changed(original: Fold, change: Change, folder: Path) -> tuple[Fold, list[str]]:
    """Return the fold with all held-out patients changed except the first three, and the ids of these."""
    patients = change(original.patients, original.search.test[3:])
    kept = [original.patients.ids[place] for place in original.search.test[:3]]
    return replace(original, patients=patients, folder=folder), kept


@pytest.mark.parametrize("name", CHANGES)
def test_held_out_patients_have_no_influence_on_the_fit(name: str, original: Fold, tmp_path: Path) -> None:
    other, kept = changed(original, CHANGES[name], tmp_path)
    assert_same_fit(original, other, kept)
    if name != "labels":  # the change is visible to the model
        rest = original.rows.index.difference(kept)
        assert not original.rows.loc[rest, "probability"].equals(other.rows.loc[rest, "probability"])


@pytest.mark.parametrize("name", CHANGES)
def test_training_patients_have_an_influence_on_the_fit(name: str, original: Fold, tmp_path: Path) -> None:
    other = replace(
        original, patients=CHANGES[name](original.patients, original.search.patients[:4]), folder=tmp_path
    )
    with pytest.raises(AssertionError):
        assert_same_fit(original, other, original.rows.index.tolist()[:3])


# The same check with planted leaks.


def scale_on_all(fold: Fold, patch: pytest.MonkeyPatch) -> None:
    everyone = SimpleNamespace(fit=lambda _, log: MetadataEncoder.fit(fold.patients.metadata, log))
    patch.setattr(inputs_module, "MetadataEncoder", everyone)


def project_on_all(fold: Fold, patch: pytest.MonkeyPatch) -> None:
    bags = fold.patients.bags
    assert bags is not None
    everyone = inputs_module.fold_moments(bags, [np.arange(len(fold.patients))])
    patch.setattr(inputs_module, "fold_moments", lambda _, trains, *device: everyone * len(trains))


def decide_on_held_out(fold: Fold, patch: pytest.MonkeyPatch) -> None:
    predict = conclusion.outer_predictions

    def leaking(search: Search, test: Patients, logits: np.ndarray, decision: object) -> pd.DataFrame:
        return predict(search, test, logits, fit_decision(logits.mean(0), test.labels, "balanced"))

    patch.setattr(conclusion, "outer_predictions", leaking)


def train_on_held_out(fold: Fold, patch: pytest.MonkeyPatch) -> None:
    fit = conclusion.refit
    patch.setattr(conclusion, "refit", lambda train, *options: fit(fold.patients, *options))


def _on_everyone(columns: rivals.Columns, everyone: np.ndarray, patients: Patients, _: object) -> Any:
    return columns(patients, everyone)


def fit_baselines_on_all(fold: Fold, patch: pytest.MonkeyPatch) -> None:
    everyone = np.arange(len(fold.patients))
    for name, rival in OUTCOME_STUDIES["binary"].rivals.items():
        columns = partial(_on_everyone, rival.columns, everyone)
        patch.setitem(OUTCOME_STUDIES["binary"].rivals, name, replace(rival, columns=columns))


LEAKS: dict[str, tuple[Callable[[Fold, pytest.MonkeyPatch], None], str, str | None]] = {
    "scaler and encoder fitted on everyone": (scale_on_all, "metadata", None),
    "projection fitted on everyone": (project_on_all, "embeddings", None),
    "threshold chosen on held-out patients": (decide_on_held_out, "labels", "threshold"),
    "trained on held-out patients": (train_on_held_out, "labels", None),
    "a baseline's encoder fitted on everyone": (fit_baselines_on_all, "metadata", "metadata_logistic"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_detected(
    leak: str, original: Fold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, change, found = LEAKS[leak]
    other, kept = changed(original, CHANGES[change], tmp_path / "changed")
    leaky = replace(original, folder=tmp_path / "leaky")
    for fold in (leaky, other):
        with monkeypatch.context() as patch:
            plant(fold, patch)
            assert len(fold.rows)  # runs the fold
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match=found):
        if plant is fit_baselines_on_all:
            # The baselines are fitted while they are compared, each fold with its own patients.
            patch.setattr(Fold, "baseline", baseline_on_all)
        assert_same_fit(leaky, other, kept)


def baseline_on_all(fold: Fold, name: str) -> dict[str, float]:
    with pytest.MonkeyPatch.context() as patch:
        fit_baselines_on_all(fold, patch)
        table = rival_tables(CONFIG, fold.patients, [fold.search])[name]
    return dict(zip(table.patient_ids, table.probabilities[0], strict=True))


# Noise.

DATA_SETS = 20


def test_noise_scores_chance_on_outer_folds_and_more_on_inner_folds(tmp_path: Path) -> None:
    """On noise the mean outer score is at chance; the mean inner score, which chose, lies above it."""
    names = ("auc", "balanced_accuracy")
    outside: dict[str, list[float]] = {name: [] for name in names}
    inner: dict[str, list[float]] = {name: [] for name in names}
    config = replace(CONFIG, trials=8, members=1, objective="auc", settings=SETTINGS | {
        "epochs": (6,), "logistic_start": (False,), "pooling": ("attention", "mean", "max"),
        "metadata_branch": ("mlp", "none"),
    })  # fmt: skip
    for seed in range(DATA_SETS):
        patients, searches = draw(tmp_path / f"cache{seed}", seed, count=48, width=8)
        folder = tmp_path / f"study{seed}"
        scored = outer(patients, searches[:-1], folder, replace(config, seed=seed))
        chose = [pd.read_csv(folder / "outer" / each.name / "out_of_fold.csv") for each in searches[:-1]]
        for name in names:
            outside[name].append(score(scored, name))
            inner[name].append(float(np.mean([score(each, name) for each in chose])))
    for name in names:
        mean, error = np.mean(outside[name]), np.std(outside[name], ddof=1) / np.sqrt(DATA_SETS)
        assert error < 0.03, name  # small enough to distinguish chance from a leak
        assert ttest_1samp(outside[name], 0.5).pvalue > 0.05, (name, mean)
        assert ttest_1samp(inner[name], 0.5, alternative="greater").pvalue < 0.01, (name, inner[name])
        assert ttest_rel(inner[name], outside[name], alternative="greater").pvalue < 0.02, name


def score(predictions: pd.DataFrame, name: str) -> float:
    table = Table.of(predictions)
    return float(table.scores(METRICS[name], np.ones((1, len(table.labels))))[0])


def chance(strata: Callable[[np.ndarray, np.ndarray], np.ndarray], draws: int = 40) -> float:
    """Return the mean AUC within folds of a logistic regression on age, which is independent of the label."""
    random, scores = np.random.default_rng(0), []
    for seed in range(draws):
        labels, ages = np.repeat([0, 1], [28, 62]), random.normal(0, 1, 90)
        logits, folds = np.zeros(90), np.zeros(90)
        splits = StratifiedKFold(5, shuffle=True, random_state=seed).split(ages, strata(labels, ages))
        for fold, (train, test) in enumerate(splits):
            fitted = LogisticRegression(class_weight="balanced").fit(ages[train, None], labels[train])
            logits[test], folds[test] = fitted.decision_function(ages[test, None]), fold
        scores.append(float(METRICS["auc"].of(Predicted(labels, logits, logits > 0, folds), np.ones(90))))
    return float(np.mean(scores))


def test_strata_of_age_would_raise_chance_scores() -> None:
    """This is why plan_searches stratifies the outer folds on the label only."""
    assert chance(lambda labels, ages: 4 * labels + age_bins(labels, ages, 5)[0]) > 0.52
    assert 0.48 < chance(lambda labels, ages: labels) < 0.51


def test_ages_influence_only_the_inner_folds() -> None:
    labels = [0, 1] * 40
    plans = []
    for seed in (1, 2):
        ages = np.random.default_rng(seed).normal(60, 10, 80)
        cohort = replace(make_cohort(labels, {"age": ages}), stratify=("label", "age"))
        plans.append(plan_searches(cohort, StudyConfig(outer_folds=4, folds=4))[0])
    for one, other in zip(*plans, strict=True):
        np.testing.assert_array_equal(one.test, other.test)
        inner = [np.concatenate([split.test for split in each.inner]) for each in (one, other)]
        assert not np.array_equal(*inner)
