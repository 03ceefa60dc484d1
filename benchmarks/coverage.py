"""Measure whether the 95 % intervals of scores and of differences cover what they promise.

    python benchmarks/coverage.py [--full] [--cohorts N] [--commands N] [--results FOLDER] [--part I/N]
                                  [--summary] [--unwidened] [--json]

Cohorts are drawn from known distributions: two classes of patients with six normal columns, whose first three
and last three columns have the same stated AUC together. Each cohort goes through nested cross-validation
with the toolkit's own splits, threshold and intervals. The model is the metadata logistic regression with
C = 1; all its folds are fitted and calibrated at once, and one decision of every batch is checked against the
toolkit's. The performance of each fitted model on the population is known exactly, so the target of an
interval is its mean over the outer folds of all cohorts: the expected performance of the procedure at the
size of the outer training sets. Where a single model is applied to new patients, the target is the
performance of that model.

Differences: the regression on the first three columns is compared with that on the last three (no
difference), and that on all six with that on the first three (a gain). A claim is an interval above zero.

The percentile bootstrap over patients, drawn within classes, is measured on every 25th cohort, with 400
draws, for comparison: these were the intervals of version 0.1. "sd / error" is the standard deviation of a
score over cohorts by the mean error that its interval assumes. With --unwidened nothing is added for the
variation of training patients: TRAINING of mil_toolkit/evaluation/methods.py is about
n ((sd / error)^2 - 1) of such a run.

The quick run has 100 cohorts for each of six settings; --full has 2,000 for each of 42, and 100 complete
studies by the command mil-tune. Results are saved in --results, and a run that was interrupted goes on where
it stopped; --part shares the work between processes.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.records import read_record
from mil_toolkit.evaluation import methods
from mil_toolkit.evaluation.calibration import FEWEST_FOR_SLOPE, SMALLEST_SLOPE, Decision, fit_decision
from mil_toolkit.evaluation.comparisons import differences
from mil_toolkit.evaluation.intervals import Table, draw_patients, percentile_interval
from mil_toolkit.evaluation.methods import Sample, linear
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.splits import Split, make_splits
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.study.records import StudyScores

BATCH = 50  # cohorts that are saved together
DESIGNS = 50  # labels, groups and splits of a setting, each of which serves several cohorts
FOLDS = 5
PREVALENCE, STATED = 0.63, 0.2  # in the population, and stated to the predictive values
COLUMNS = {"first": slice(0, 3), "last": slice(3, 6), "all": slice(0, 6)}
STRENGTH = 1.0  # C of the regression
ALIKE = 0.5  # share of a column's variance that patients of a group have in common
COMPARED, BOOTSTRAPPED = 4, 25  # every fourth cohort is compared, every 25th is bootstrapped
DRAWS = 400
STATED_METRICS = ("referred", "ppv", "npv")
CLAIMED = ("balanced_accuracy", "auc", "accuracy", "balanced_log_loss", "brier")
PLAIN = tuple(name for name, metric in METRICS.items() if metric.resampled)
NAMES = (*PLAIN, *(f"{name} at {STATED}" for name in STATED_METRICS))
CLASSES = Binary().stratum_names
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
TUNE = "import sys; from mil_toolkit.cli.tune import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Setting:
    """The distribution of the cohorts.

    auc: of three columns in the population; most: patients of the largest group, 1 without groups
    repeats: of the outer folds; 0 for one model that is applied to new patients
    """

    patients: int
    auc: float
    most: int
    repeats: int

    def __str__(self) -> str:
        kind = f"{self.repeats} repeats" if self.repeats else "one model"
        return f"n {self.patients}, AUC {self.auc}, {'groups' if self.most > 1 else 'patients'}, {kind}"


QUICK = (
    *(Setting(90, auc, 1, 1) for auc in (0.75, 0.95, 0.98)),
    Setting(90, 0.95, 4, 1),
    Setting(163, 0.95, 1, 3),
    Setting(90, 0.95, 1, 0),
)
FULL = (
    *(
        Setting(patients, auc, most, repeats)
        for patients, auc, repeats, most in product((90, 163, 400), (0.75, 0.95, 0.98), (1, 3), (1, 4))
    ),
    *(Setting(*values, 1, 0) for values in product((90, 400), (0.75, 0.95, 0.98))),
)


# Cohorts.


@dataclass(frozen=True)
class Fold:
    """An outer fold: inner splits are indices within its training patients."""

    split: Split
    inner: Sequence[Split]


@dataclass(frozen=True)
class Design:
    """Labels and groups (n,) of a cohort, and its outer folds in each repeat."""

    labels: np.ndarray
    groups: np.ndarray | None
    repeats: Sequence[Sequence[Fold]]


@cache
def design(patients: int, most: int, number: int) -> Design:
    """Draw labels and groups until the toolkit can split them, and split them in three repeats."""
    random = np.random.default_rng([17, number, patients, most])
    while True:
        labels, groups = draw_labels(patients, most, random)
        try:
            return Design(labels, groups, [folds_of(labels, groups, number, r) for r in range(3)])
        except DataError:  # a fold lacks a class
            continue


def draw_labels(
    patients: int, most: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return labels and groups; patients of a group have the same label with a higher probability."""
    if most == 1:
        return (random.random(patients) < PREVALENCE).astype(int), None
    sizes = random.integers(1, most + 1, patients)
    groups = np.repeat(np.arange(patients), sizes)[:patients]
    chances = random.beta(2 * PREVALENCE, 2 * (1 - PREVALENCE), groups[-1] + 1)
    return (random.random(patients) < chances[groups]).astype(int), groups


def folds_of(labels: np.ndarray, groups: np.ndarray | None, number: int, repeat: int) -> list[Fold]:
    """Return the outer folds of a repeat by the toolkit's own splits."""
    outer = make_splits(labels, FOLDS, 1000 * number + repeat, groups=groups, names=CLASSES)[0]
    return [
        Fold(split, inner_splits(labels[split.train], None if groups is None else groups[split.train], place))
        for place, split in enumerate(outer)
    ]


def inner_splits(labels: np.ndarray, groups: np.ndarray | None, seed: int) -> list[Split]:
    """Return the inner splits of training patients."""
    return make_splits(labels, FOLDS, seed, groups=groups, names=CLASSES)[0]


def means(auc: float) -> np.ndarray:
    """Return the mean of each of six columns in the positive class; the others are zero, all variances 1."""
    return np.full(6, ndtri(auc) * np.sqrt(2 / 3))


def draw_columns(auc: float, drawn: Design, random: np.random.Generator) -> np.ndarray:
    """Return the six columns of a cohort, (n, 6)."""
    noise = random.normal(size=(len(drawn.labels), 6))
    if drawn.groups is not None:
        shared = random.normal(size=(drawn.groups.max() + 1, 6))
        noise = np.sqrt(1 - ALIKE) * noise + np.sqrt(ALIKE) * shared[drawn.groups]
    return noise + drawn.labels[:, None] * means(auc)


# The model.


def fit_all(x: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Fit the logistic regression of the metadata baseline to several sets of training patients at once.

    x: (n, C); masks: (F, n), the training patients of each fit; returns the coefficients (F, C + 1) of the
    columns as they are, and the intercept last
    """
    weights = masks.astype(float)
    counts = weights.sum(1, keepdims=True)
    centre = weights @ x / counts
    scale = np.sqrt(weights @ x**2 / counts - centre**2)
    positive = weights @ labels[:, None] / counts
    balanced = weights * np.where(labels == 1, 0.5 / positive, 0.5 / (1 - positive))
    z = np.concatenate([(x - centre[:, None]) / scale[:, None], np.ones((len(masks), len(x), 1))], axis=2)
    penalty = np.diag([1 / STRENGTH] * x.shape[1] + [0.0])
    found = np.zeros((len(masks), x.shape[1] + 1))
    for _ in range(10):  # Newton's method
        chances = expit(np.einsum("fnc,fc->fn", z, found))
        slope = np.einsum("fnc,fn->fc", z, balanced * (chances - labels)) + found @ penalty
        curve = np.matmul(z.transpose(0, 2, 1) * (balanced * chances * (1 - chances))[:, None], z) + penalty
        found = found - np.linalg.solve(curve, slope[..., None])[..., 0]
    coefficients = found[:, :-1] / scale
    intercepts = found[:, -1] - (coefficients * centre).sum(1)
    return np.concatenate([coefficients, intercepts[:, None]], axis=1)


@dataclass(frozen=True)
class Model:
    """A linear model with its decision: the logit is x @ coefficients[:-1] + coefficients[-1]."""

    coefficients: np.ndarray
    decision: Decision

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, (n,)."""
        return self.decision.probabilities(x @ self.coefficients[:-1] + self.coefficients[-1])

    def normals(self, mean: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the means of the calibrated logit in the negative and positive class, and its deviation."""
        slope, weights = self.decision.slope, self.coefficients[:-1]
        middle = slope * self.coefficients[-1] + self.decision.intercept
        rise = slope * float(weights @ mean[: len(weights)])
        return np.array([middle, middle + rise]), slope * float(np.linalg.norm(weights))


def learn(x: np.ndarray, labels: np.ndarray, folds: Sequence[Fold]) -> list[Model]:
    """Fit the models of outer folds: inner out-of-fold logits give the decision, a refit gives the model."""
    masks = np.zeros((len(folds), FOLDS + 1, len(x)), dtype=bool)
    for place, fold in enumerate(folds):
        masks[place, :, fold.split.train] = True
        for number, split in enumerate(fold.inner):
            masks[place, number, fold.split.train[split.test]] = False
    fitted = fit_all(x, labels, masks.reshape(-1, len(x))).reshape(len(folds), FOLDS + 1, -1)
    logits = np.einsum("nc,fkc->fkn", x, fitted[..., :-1]) + fitted[..., -1:]
    trained = masks[:, -1]
    held_out = trained[:, None] & ~masks[:, :-1]  # (folds, inner folds, n)
    calibrations = calibrate_all((logits[:, :-1] * held_out).sum(1), labels, trained)
    shares = trained @ labels / trained.sum(1)
    return [
        Model(own, Decision(slope, intercept, float(share)))
        for own, (slope, intercept), share in zip(fitted[:, -1], calibrations.tolist(), shares, strict=True)
    ]


def calibrate_all(logits: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Fit the calibration of several folds at once by Newton's method, as `fit_calibration` does one by one.

    logits: (F, n); masks: (F, n), the patients that count; returns slope and intercept, (F, 2)
    """
    positives, negatives = (masks & (labels == 1)).sum(1), (masks & (labels == 0)).sum(1)
    targets = np.where(
        labels == 1, ((positives + 1) / (positives + 2))[:, None], (1 / (negatives + 2))[:, None]
    )
    free = np.minimum(positives, negatives) >= FEWEST_FOR_SLOPE
    found = _newton(logits, targets, masks, np.ones(len(masks)), free)
    flat = free & (found[:, 0] < SMALLEST_SLOPE)
    if flat.any():
        slopes = np.where(flat, SMALLEST_SLOPE, 1.0)
        found = np.where(flat[:, None], _newton(logits, targets, masks, slopes, free & ~flat), found)
    return found


def _newton(
    logits: np.ndarray, targets: np.ndarray, masks: np.ndarray, slopes: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Return slope and intercept of each fold, (F, 2); where the slope is not free it stays as it is."""
    found = np.stack([slopes, np.zeros(len(slopes))], 1)
    for _ in range(25):
        chances = expit(found[:, :1] * logits + found[:, 1:])
        error, weight = (chances - targets) * masks, chances * (1 - chances) * masks
        a, b, c = ((weight * logits**power).sum(1) for power in (2, 1, 0))
        by_slope, by_intercept = (error * logits).sum(1) * free, error.sum(1)
        b = b * free
        scale = np.maximum(a * c - b * b, 1e-12)
        step = (
            np.stack([c * by_slope - b * by_intercept, a * by_intercept - b * by_slope], 1) / scale[:, None]
        )
        found = found - np.clip(step, -1, 1)  # short steps, for classes that are almost separated
    return found


def check_calibration(
    x: np.ndarray, labels: np.ndarray, folds: Sequence[Fold], models: Sequence[Model]
) -> None:
    """Check that the decision of the first fold is the one of `fit_decision`, to four digits."""
    train, model = folds[0].split.train, models[0]
    logits = np.zeros(len(train))
    for split in folds[0].inner:
        mask = np.zeros((1, len(x)), dtype=bool)
        mask[0, train[split.train]] = True
        fitted = fit_all(x, labels, mask)[0]
        logits[split.test] = x[train[split.test]] @ fitted[:-1] + fitted[-1]
    decision = fit_decision(logits, labels[train], "share")
    np.testing.assert_allclose(astuple(model.decision), astuple(decision), atol=2e-3)


def nested(x: np.ndarray, drawn: Design, repeats: int) -> tuple[Table, list[list[Model]]]:
    """Return the outer predictions of so many repeats, and the models that made them."""
    shape = repeats, len(x)
    numbers, probabilities, decisions = np.zeros(shape, int), np.zeros(shape), np.zeros(shape, bool)
    models = [learn(x, drawn.labels, folds) for folds in drawn.repeats[:repeats]]
    for repeat, folds in enumerate(drawn.repeats[:repeats]):
        for number, (fold, model) in enumerate(zip(folds, models[repeat], strict=True)):
            test = fold.split.test
            probabilities[repeat, test] = model.probabilities(x[test])
            decisions[repeat, test] = probabilities[repeat, test] >= model.decision.threshold
            numbers[repeat, test] = number + 1
    ids = tuple(f"P{place:04d}" for place in range(len(x)))
    return Table(ids, drawn.labels, numbers, probabilities, decisions, groups=drawn.groups), models


def one_model(setting: Setting, batch: int) -> Model:
    """Return a model that was fitted on a cohort of 90 patients."""
    drawn = design(90, 1, batch % DESIGNS)
    x = draw_columns(setting.auc, drawn, np.random.default_rng([18, batch, setting.patients]))
    return learn(x[:, COLUMNS["first"]], drawn.labels, drawn.repeats[0])[0]


def applied(setting: Setting, model: Model, random: np.random.Generator) -> Table:
    """Return the predictions of one model for new patients."""
    labels, groups = draw_labels(setting.patients, setting.most, random)
    drawn = Design(labels, groups, [])
    probabilities = model.probabilities(draw_columns(setting.auc, drawn, random)[:, COLUMNS["first"]])[None]
    decisions = probabilities >= model.decision.threshold
    ids = tuple(f"P{place:04d}" for place in range(len(labels)))
    return Table(ids, labels, np.ones(probabilities.shape), probabilities, decisions, groups=groups)


# The truth.

Truth = dict[str, float]


def truth_of(models: Sequence[Model], mean: np.ndarray) -> Truth:
    """Return the performance on the population of models of the same outer folds.

    Predictive values are returned as numerator and denominator, whose means are divided.
    """
    normals = [model.normals(mean) for model in models]
    middles, deviations = np.array([own for own, _ in normals]), np.array([own for _, own in normals])
    cuts = logit(np.array([model.decision.threshold for model in models]))
    sensitivity = float(ndtr((middles[:, 1] - cuts) / deviations).mean())
    specificity = float(ndtr((cuts - middles[:, 0]) / deviations).mean())
    gaps = middles[:, None, 1] - middles[None, :, 0]
    areas = ndtr(gaps / np.sqrt(deviations[:, None] ** 2 + deviations**2))
    losses, squares = expected_losses(middles, deviations)
    rates = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "accuracy": PREVALENCE * sensitivity + (1 - PREVALENCE) * specificity,
        "auc": float(np.diag(areas).mean()),
        "auc_pooled": float(areas.mean()),
        "balanced_log_loss": float(losses.mean()),
        "log_loss": float(losses @ [1 - PREVALENCE, PREVALENCE]),
        "brier": float(squares @ [1 - PREVALENCE, PREVALENCE]),
    }
    return rates


def expected_losses(middles: np.ndarray, deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected log-loss and squared error in the negative and the positive class."""
    losses, squares = [], []
    for label in (0, 1):
        logits = middles[:, label, None] + deviations[:, None] * NODES
        own = WEIGHTS / WEIGHTS.sum()
        losses.append(float((np.logaddexp(0, np.where(label, -logits, logits)) @ own).mean()))
        squares.append(float(((expit(logits) - label) ** 2 @ own).mean()))
    return np.array(losses), np.array(squares)


def with_predictive_values(rates: Truth) -> Truth:
    """Return expected rates with the predictive values that follow, at both prevalences."""
    values = dict(rates)
    for prevalence, suffix in ((PREVALENCE, ""), (STATED, f" at {STATED}")):
        true, false = prevalence * rates["sensitivity"], (1 - prevalence) * (1 - rates["specificity"])
        values[f"referred{suffix}"] = true + false
        values[f"ppv{suffix}"] = true / (true + false)
        values[f"npv{suffix}"] = (1 - prevalence - false) / (1 - true - false)
    return values


# Batches.

Rows = dict[str, np.ndarray]  # what is measured, by name, with one row for each cohort


def run_batch(setting: Setting, batch: int) -> Rows:
    """Return the intervals of a batch of cohorts, and the true performance of their models."""
    random = np.random.default_rng([batch, setting.patients, round(1000 * setting.auc), setting.most])
    model = None if setting.repeats else one_model(setting, batch)
    cohorts = [run_cohort(setting, batch * BATCH + place, random, model) for place in range(BATCH)]
    names = {name for cohort in cohorts for name in cohort}
    return {name: np.array([cohort[name] for cohort in cohorts if name in cohort]) for name in names}


def run_cohort(
    setting: Setting, number: int, random: np.random.Generator, model: Model | None
) -> dict[str, np.ndarray]:
    """Return intervals (metrics, 4), the truth and, of some cohorts, comparisons and bootstrap intervals."""
    rows: dict[str, np.ndarray] = {}
    if model is not None:
        table, models = applied(setting, model, random), [[model]]
    else:
        drawn = design(setting.patients, setting.most, number % DESIGNS)
        x = draw_columns(setting.auc, drawn, random)
        table, models = nested(x[:, COLUMNS["first"]], drawn, setting.repeats)
        if number % BATCH == 0:
            check_calibration(x[:, COLUMNS["first"]], drawn.labels, drawn.repeats[0], models[0])
        if number % BATCH % COMPARED == 0:
            rows |= compared(table, x, drawn)
    truths = [truth_of(own, means(setting.auc)) for own in models]
    rows["truth"] = np.array([np.mean([own[name] for own in truths]) for name in sorted(truths[0])])
    rows["intervals"] = intervals(table)
    if number % BOOTSTRAPPED == 0:
        rows["bootstrap"] = bootstrap(table)
    return rows


def intervals(table: Table) -> np.ndarray:
    """Return the score, bounds and assumed error of each of NAMES, (metrics, 4); NaN where there are none."""
    plain, stated = Sample(table), Sample(replace(table, prevalence=STATED))
    rows = [_interval(plain, name) for name in PLAIN] + [_interval(stated, name) for name in STATED_METRICS]
    return np.array(rows)


def _interval(sample: Sample, name: str) -> tuple[float, float, float, float]:
    value = sample.table.score(METRICS[name])
    found = linear(sample, name, value)
    if found is None:
        return value, np.nan, np.nan, np.nan
    return value, found.bounds.low, found.bounds.high, float(np.sqrt(found.bounds.variance))


def bootstrap(table: Table) -> np.ndarray:
    """Return the bounds of each of NAMES by the percentile bootstrap over patients, drawn within classes."""
    weights, stated = draw_patients(table.labels, draws=DRAWS), replace(table, prevalence=STATED)
    drawn = [table.scores(METRICS[name], weights) for name in PLAIN]
    drawn += [stated.scores(METRICS[name], weights) for name in STATED_METRICS]
    return np.array([percentile_interval(values) for values in drawn])


def compared(table: Table, x: np.ndarray, drawn: Design) -> dict[str, np.ndarray]:
    """Return the bounds of the differences of CLAIMED, without and with a true gain, (metrics, 2) each."""
    repeats = len(table.folds)
    last, every = (nested(x[:, COLUMNS[name]], drawn, repeats)[0] for name in ("last", "all"))
    return {"null": _bounds(table, last), "gain": _bounds(every, table)}


def _bounds(one: Table, other: Table) -> np.ndarray:
    found = differences(one, other, CLAIMED)
    bounds = np.array([[found[name].low, found[name].high] for name in CLAIMED], dtype=float)
    lower_is_better = [not METRICS[name].higher_is_better for name in CLAIMED]
    bounds[lower_is_better] = -bounds[lower_is_better][:, ::-1]
    return bounds


def run(settings: Sequence[Setting], cohorts: int, folder: Path, part: tuple[int, int]) -> None:
    """Run the batches of the settings of a part that are not saved yet, the first of each setting first."""
    folder.mkdir(parents=True, exist_ok=True)
    for batch, setting in product(range(-(-cohorts // BATCH)), settings[part[0] :: part[1]]):
        path = file_of(folder, setting, batch)
        if not path.exists():
            temporary = path.with_suffix(".part.npz")
            temporary.write_bytes(packed(run_batch(setting, batch)))
            temporary.rename(path)


def packed(rows: Rows) -> bytes:
    """Return rows as the content of an .npz file."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **rows)
    return file.getvalue()


def file_of(folder: Path, setting: Setting, batch: int) -> Path:
    """Return where a batch is saved."""
    return folder / f"{setting}-{batch:03d}.npz".replace(" ", "_").replace(",", "")


# The summary.


@dataclass(frozen=True)
class Summary:
    """A setting's figures by metric.

    coverage: of the intervals; above: share that lies wholly above the target
    error: standard deviation of the score over cohorts by the mean error that the interval assumes
    before, ratio: coverage of the percentile bootstrap, and how many times as wide the intervals are
    claims, power: share of differences whose interval lies above zero, without and with a gain
    """

    cohorts: int
    coverage: dict[str, float]
    above: dict[str, float]
    error: dict[str, float]
    before: dict[str, float]
    ratio: dict[str, float]
    claims: dict[str, float]
    power: dict[str, float]


def read_batches(folder: Path, setting: Setting, cohorts: int) -> Rows:
    """Return the rows of all batches of a setting that are saved."""
    paths = [file_of(folder, setting, batch) for batch in range(-(-cohorts // BATCH))]
    batches = [dict(np.load(path)) for path in paths if path.exists()]
    names = {name for batch in batches for name in batch}
    return {name: np.concatenate([batch[name] for batch in batches if name in batch]) for name in names}


def summary(setting: Setting, rows: Rows) -> Summary:
    """Return the figures of a setting."""
    truth = (
        rows["truth"] if not setting.repeats else np.broadcast_to(rows["truth"].mean(0), rows["truth"].shape)
    )
    names = sorted(set(NAMES[: len(PLAIN)]) - set(STATED_METRICS))
    values = [with_predictive_values(dict(zip(names, own, strict=True))) for own in truth]
    target = np.array([[own[name] for name in NAMES] for own in values])  # (cohorts, metrics)
    value, bounds, errors = rows["intervals"][..., 0], rows["intervals"][..., 1:3], rows["intervals"][..., 3]
    covered, above = judged(bounds, target)
    before = judged(rows["bootstrap"], target[::BOOTSTRAPPED])[0]
    widths = [np.nanmean(np.diff(own)[..., 0], 0) for own in (bounds[::BOOTSTRAPPED], rows["bootstrap"])]
    error = np.sqrt(np.nanmean((value - target) ** 2, 0) / np.nanmean(errors**2, 0))
    columns = (covered, above, error, before, widths[0] / widths[1])
    coverage, high, ratios, earlier, wider = (dict(zip(NAMES, own.tolist(), strict=True)) for own in columns)
    claims, power = ({}, {}) if not setting.repeats else (claimed(rows["null"], True), claimed(rows["gain"]))
    return Summary(len(truth), coverage, high, ratios, earlier, wider, claims, power)


def judged(bounds: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of intervals that cover the target and that lie above it; without those of NaN."""
    known = ~np.isnan(bounds[..., 0])
    low, high = bounds[..., 0] > target, bounds[..., 1] < target
    counts = known.sum(0)
    return 1 - ((low | high) & known).sum(0) / counts, (low & known).sum(0) / counts


def claimed(bounds: np.ndarray, either: bool = False) -> dict[str, float]:
    """Return the share of differences that lie above zero; either: the mean of both directions."""
    above = (bounds[..., 0] > 0).mean(0)
    if either:
        above = (above + (bounds[..., 1] < 0).mean(0)) / 2
    return dict(zip(CLAIMED, above.tolist(), strict=True))


def figures(summaries: dict[str, Summary]) -> dict[str, float | int]:
    """Return the figures of --json, over all settings."""
    all_of = list(summaries.values())
    worst = min(
        coverage + 2 * np.sqrt(coverage * (1 - coverage) / own.cohorts)
        for own in all_of
        for coverage in own.coverage.values()
    )
    nested_only = [own for own in all_of if own.claims]
    return {
        "cohorts_least": min(own.cohorts for own in all_of),
        "coverage_auc": mean_of([own.coverage["auc"] for own in all_of]),
        "coverage_balanced_accuracy": mean_of([own.coverage["balanced_accuracy"] for own in all_of]),
        "coverage_worst": round(float(worst), 4),
        "false_gain": mean_of([own.claims["balanced_accuracy"] for own in nested_only]),
        "false_gain_worst": round(max(max(own.claims.values()) for own in nested_only), 4),
        "power_balanced_accuracy": mean_of([own.power["balanced_accuracy"] for own in nested_only]),
        "width_ratio": mean_of([ratio for own in all_of for ratio in own.ratio.values()]),
        "bootstrap_coverage_auc": mean_of([own.before["auc"] for own in all_of]),
        "bootstrap_coverage_balanced_accuracy": mean_of([own.before["balanced_accuracy"] for own in all_of]),
    }


def mean_of(values: Sequence[float]) -> float:
    """Return a mean with four decimals."""
    return round(float(np.mean(values)), 4)


def print_tables(summaries: dict[str, Summary]) -> None:
    """Print the coverage of each metric in each setting, then the figures over all settings."""
    for name, own in summaries.items():
        print(f"\n{name}: {own.cohorts} cohorts")
        print("| metric | coverage | above | sd / error | bootstrap | width ratio | claims | power |")
        print("|---" * 8 + "|")
        for metric in NAMES:
            columns = (own.coverage, own.above, own.error, own.before, own.ratio, own.claims, own.power)
            cells = [f"{column[metric]:.3f}" if metric in column else "" for column in columns]
            print(f"| {metric} | {' | '.join(cells)} |")


# Complete studies.


def run_commands(count: int, folder: Path) -> dict[str, float]:
    """Run complete studies, and return how often their intervals cover the mean score of all of them.

    The mean over the studies estimates the expected score of the procedure, because an outer score has no
    bias.
    """
    found = []
    for number in range(count):
        path = folder / f"command-{number:03d}.json"
        if not path.exists():
            run_command(number, path)
        found.append(read_record(path, StudyScores).outer or {})
    covered = {}
    for name in ("auc", "balanced_accuracy", "balanced_log_loss", "sensitivity", "specificity"):
        mean = np.mean([scores[name].value for scores in found])
        hits = [(scores[name].low or 0) <= mean <= (scores[name].high or np.inf) for scores in found]
        covered[f"commands_{name}"] = round(float(np.mean(hits)), 4)
    return {"commands": count} | covered


def run_command(number: int, path: Path) -> None:
    """Run `mil-tune --features none` on a cohort of 90 patients with an AUC of 0.95; keep its scores."""
    random = np.random.default_rng([19, number])
    labels, _ = draw_labels(90, 1, random)
    x = draw_columns(0.95, Design(labels, None, []), random)[:, COLUMNS["first"]]
    with tempfile.TemporaryDirectory() as name:
        toml = write_cohort(Path(name), x, labels)
        options = [
            "--features",
            "none",
            "--trials",
            "2",
            "--members",
            "1",
            "--epochs",
            "20",
            "--device",
            "cpu",
        ]
        study = Path(name) / "study"
        command = [
            sys.executable,
            "-c",
            TUNE,
            str(toml),
            *options,
            "--study",
            str(study),
            "--seed",
            str(number),
        ]
        subprocess.run(command, check=True, capture_output=True)
        (study / "scores.json").replace(path)


def write_cohort(folder: Path, x: np.ndarray, labels: np.ndarray) -> Path:
    """Write a cohort of metadata columns without images; return its cohort.toml."""
    with (folder / "patients.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "LABEL", "A", "B", "C"])
        writer.writerows(
            [f"P{place:03d}", label, *row] for place, (label, row) in enumerate(zip(labels, x, strict=True))
        )
    columns = "\n".join(f'[metadata.{name.lower()}]\ncolumn = "{name}"\nkind = "number"\n' for name in "ABC")
    toml = folder / "cohort.toml"
    toml.write_text(
        '[cohort]\nname = "simulated"\ntable = "patients.csv"\nid = "ID"\nlabel = "LABEL"\n'
        f"positive = 1\nnegative = 0\n\n{columns}"
    )
    return toml


def part_of(text: str) -> tuple[int, int]:
    """Return which part of how many, from 0, of text such as 1/2."""
    number, count = map(int, text.split("/"))
    return number - 1, count


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="all settings, 2,000 cohorts each")
    parser.add_argument("--cohorts", type=int, help="cohorts of each setting")
    parser.add_argument("--commands", type=int, help="complete studies; 100 with --full, otherwise 0")
    parser.add_argument("--results", type=Path, help="folder of the results; a temporary one if left out")
    parser.add_argument("--part", type=part_of, default=(0, 1), metavar="I/N", help="run part I of N only")
    parser.add_argument("--summary", action="store_true", help="only summarise what --results holds")
    parser.add_argument("--unwidened", action="store_true", help="add nothing for the training patients")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run, and print the figures."""
    arguments = parse()
    if arguments.unwidened:
        methods.TRAINING, methods.TRAINING_OF = 0.0, {}
    settings = FULL if arguments.full else QUICK
    cohorts = arguments.cohorts or (2000 if arguments.full else 100)
    commands = (100 if arguments.full else 0) if arguments.commands is None else arguments.commands
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.results or Path(temporary)
        if not arguments.summary:
            run(settings, cohorts, folder, arguments.part)
        summaries = dict(summarised(settings, folder, cohorts))
        totals = figures(summaries) | (run_commands(commands, folder) if commands else {})
    if not arguments.json:
        print_tables(summaries)
    print(json.dumps(totals) if arguments.json else "\n".join(f"{k}: {v}" for k, v in totals.items()))


def summarised(settings: Sequence[Setting], folder: Path, cohorts: int) -> Iterator[tuple[str, Summary]]:
    """Yield name and figures of the settings that have results."""
    for setting in settings:
        rows = read_batches(folder, setting, cohorts)
        if rows:
            yield str(setting), summary(setting, rows)


if __name__ == "__main__":
    main()
