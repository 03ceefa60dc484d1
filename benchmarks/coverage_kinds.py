"""Measure whether the 95 % intervals of the scores of classes, numbers and survival cover what they promise.

    python benchmarks/coverage_kinds.py [--cohorts N] [--only TEXT] [--unwidened] [--json]

Cohorts of 90 and 160 patients with six normal columns are drawn from known distributions: three classes, four
ordered classes, a number with normal or skewed noise, and survival with about half of the patients censored.
Each cohort is cross-validated in five folds by a linear model (discriminant analysis, ridge regression, Cox
regression), whose predictions become `Predicted` or `SurvivalPredicted`. Each fitted
model is also applied to new patients of the population. The target of an interval is the score on those, mean
over cohorts: the expected performance of the procedure at the size of the training sets.

"sd / error" is the standard deviation of a score over cohorts by the mean error that its interval assumes.

The figures that only the report has are measured beside the scores: the observed risk at the horizon, of all
patients and of the predicted thirds, and the limits of agreement. The last lines say in which share of
cohorts, whose columns are not associated with survival, the log-rank test of the predicted thirds has a
p-value below 0.05: as it is, and halved as in the report.

With --unwidened nothing is added for the variation of training patients: `Measure.training` is about
n ((sd / error)^2 - 1) of such a run. "bootstrap" is the coverage of the percentile bootstrap with 400 draws
within classes, measured on every fourth cohort.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy.special import softmax

from mil_toolkit.evaluation.class_calibration import last_largest
from mil_toolkit.evaluation.class_metrics import OF_EACH_CLASS, ORDERED_METRICS, class_count
from mil_toolkit.evaluation.intervals import draw_patients, percentile_interval
from mil_toolkit.evaluation.measure import Measure
from mil_toolkit.evaluation.measure_intervals import (
    Patients,
    influences,
    measure_interval,
    score_with_interval,
)
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.number_calibration import bland_altman
from mil_toolkit.evaluation.number_metrics import NUMBER_METRICS
from mil_toolkit.evaluation.survival_calibration import groups_of_risk, risk_at, widening_of_groups
from mil_toolkit.evaluation.survival_curves import log_rank
from mil_toolkit.evaluation.survival_groups import cross_validated_log_rank, ranks_within_folds
from mil_toolkit.evaluation.survival_metrics import SURVIVAL_METRICS, SurvivalPredicted, uncensored

SEED = 29  # that of the runs which found `Measure.training` was another one
COLUMNS, FOLDS, NEW = 6, 5, 200  # NEW: patients of the population for each fitted model
SIZES = (90, 160)
DRAWS, BOOTSTRAPPED = 400, 4
HORIZON, GRID = 1.5, 8
SHARES = {3: np.array([0.5, 0.3, 0.2]), 4: np.array([0.35, 0.3, 0.2, 0.15])}
P = TypeVar("P")


@dataclass(frozen=True)
class Row:
    """A score of a cohort, its interval, that of the bootstrap (NaN if not computed), and the target."""

    value: float
    low: float
    high: float
    error: float
    bootstrap: tuple[float, float]
    truth: float


Rows = dict[str, Row]


# Scores of one cohort.


def scored(
    measures: dict[str, Measure[P]],
    predicted: P,
    new: P,
    strata: np.ndarray,
    bootstrapped: bool,
    training: float | None,
) -> Rows:
    """Return the scores of a cohort; strata: (n,), within which patients are drawn."""
    count, rows = len(strata), {}
    draws = draw_patients(strata, draws=DRAWS) if bootstrapped else None
    for name, own in measures.items():
        measure = own if training is None else replace(own, training=training)
        means = strata if measure.balanced else np.zeros_like(strata)
        patients = Patients(np.arange(count), means, cross_validated=count)
        own_score = score_with_interval(measure, [predicted], patients)
        resampled = (np.nan, np.nan)
        if draws is not None:
            resampled = percentile_interval(measure.of(predicted, draws))
        truth = measure.score(new, FOLDS * NEW)
        bounds = own_score.bounds
        rows[name] = Row(own_score.value, bounds.low, bounds.high, bounds.variance**0.5, resampled, truth)
    return rows


def folds_of(strata: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the fold of each patient, (n,); the strata are spread evenly."""
    order = np.lexsort([random.random(len(strata)), strata])
    folds = np.empty(len(strata), dtype=int)
    folds[order] = (np.arange(len(strata)) + random.integers(FOLDS)) % FOLDS
    return folds


def new_folds() -> np.ndarray:
    """Return the model that predicts each new patient."""
    return np.repeat(np.arange(FOLDS), NEW)


# Classes.


def class_means(classes: int, strength: float, ordered: bool) -> np.ndarray:
    """Return the mean of each column in each class, (C, columns)."""
    if ordered:
        return strength * np.outer(np.arange(classes), np.ones(COLUMNS)) / np.sqrt(COLUMNS)
    return strength * np.eye(classes, COLUMNS) * np.sqrt(2)


def discriminant(x: np.ndarray, labels: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Fit linear discriminant analysis; return the function from columns to probabilities (n, C)."""
    means = np.stack([x[labels == label].mean(0) for label in range(classes)])
    within = x - means[labels]
    covariance = within.T @ within / (len(x) - classes) + 0.1 * np.eye(COLUMNS)
    directions = np.linalg.solve(covariance, means.T)  # (columns, C)
    shares = np.bincount(labels, minlength=classes) / len(labels)
    intercepts = -0.5 * (means.T * directions).sum(0) + np.log(shares)
    return lambda new: softmax(new @ directions + intercepts, axis=1)


def class_cohort(
    patients: int, classes: int, strength: float, ordered: bool, random: np.random.Generator
) -> tuple[Predicted, Predicted]:
    """Return the cross-validated predictions of a cohort, and those of new patients."""
    means = class_means(classes, strength, ordered)
    labels = np.zeros(0, dtype=int)
    while len(labels) == 0 or np.bincount(labels, minlength=classes).min() < 2 * FOLDS:
        labels = random.choice(classes, patients, p=SHARES[classes])
    x = random.normal(size=(patients, COLUMNS)) + means[labels]
    folds, later = folds_of(labels, random), random.choice(classes, FOLDS * NEW, p=SHARES[classes])
    new_x = random.normal(size=(FOLDS * NEW, COLUMNS)) + means[later]
    own, new = np.empty((patients, classes)), np.empty((FOLDS * NEW, classes))
    decided, new_decided = np.empty(patients, dtype=int), np.empty(FOLDS * NEW, dtype=int)
    for fold in range(FOLDS):
        train, test, ours = folds != fold, folds == fold, new_folds() == fold
        model = discriminant(x[train], labels[train], classes)
        own[test], new[ours] = model(x[test]), model(new_x[ours])
        shares = np.bincount(labels[train], minlength=classes) / train.sum()
        decided[test] = last_largest(own[test] / shares)
        new_decided[ours] = last_largest(new[ours] / shares)
    return (
        Predicted(labels, own, decided, folds),
        Predicted(later, new, new_decided, new_folds()),
    )


def class_measures() -> dict[str, Measure[Predicted]]:
    """Return the metrics of ordered classes."""
    return ORDERED_METRICS


def of_each_class(predicted: Predicted, new: Predicted, training: float | None) -> Rows:
    """Return the scores of the last class, the rarest one."""
    label, count, rows = class_count(predicted) - 1, len(predicted.labels), {}
    counted = {
        "sensitivity": predicted.labels == label,
        "specificity": predicted.labels != label,
        "ppv": predicted.decisions == label,
    }
    for name, own in OF_EACH_CLASS.items():
        measure = own if training is None else replace(own, training=training)
        value = float(measure.of(predicted, np.ones(count))[label])
        influence = influences(lambda weights, of=measure.of: of(predicted, weights)[:, label], count)  # type: ignore[misc]
        patients = Patients(np.arange(count), np.zeros(count, dtype=int), count)
        bounds = measure_interval(measure, value, influence, patients, float(counted[name].sum()))
        truth = float(measure.of(new, np.ones(FOLDS * NEW))[label])
        nothing = (np.nan, np.nan)
        rows[f"{name} (rarest)"] = Row(value, bounds.low, bounds.high, bounds.variance**0.5, nothing, truth)
    return rows


# Numbers.


def number_cohort(
    patients: int, explained: float, skewed: bool, random: np.random.Generator
) -> tuple[Predicted, Predicted]:
    """Return the cross-validated predictions of a cohort, and those of new patients."""

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = random.normal(size=(count, COLUMNS))
        noise = random.exponential(size=count) - 1 if skewed else random.normal(size=count)
        return x, np.sqrt(explained / COLUMNS) * x.sum(1) + np.sqrt(1 - explained) * noise

    (x, targets), (new_x, later) = draw(patients), draw(FOLDS * NEW)
    folds = folds_of(np.argsort(np.argsort(targets)) // FOLDS, random)
    own, new = np.empty(patients), np.empty(FOLDS * NEW)
    for fold in range(FOLDS):
        train, test, ours = folds != fold, folds == fold, new_folds() == fold
        centre = targets[train].mean()
        origin = x[train].mean(0)
        z = x[train] - origin
        slopes = np.linalg.solve(z.T @ z + np.eye(COLUMNS), z.T @ (targets[train] - centre))
        own[test], new[ours] = (centre + (part - origin) @ slopes for part in (x[test], new_x[ours]))
    return _numbers(targets, own, folds), _numbers(later, new, new_folds())


# Survival.


def cox(
    x: np.ndarray, times: np.ndarray, events: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Fit Cox regression with a small penalty; return the function from columns and grid to survival."""
    slopes = np.zeros(COLUMNS)
    risk = (times >= times[events][:, None]).astype(float)  # (events, n)
    for _ in range(6):  # Newton's method
        shares = risk * np.exp(x @ slopes)
        shares /= shares.sum(1, keepdims=True)
        centres = shares @ x
        gradient = (x[events] - centres).sum(0) - slopes
        second = np.einsum("en,nc,nd->cd", shares, x, x) - centres.T @ centres + np.eye(COLUMNS)
        slopes = slopes + np.linalg.solve(second, gradient)
    steps = 1 / (risk @ np.exp(x @ slopes))  # of the cumulative hazard (Breslow)

    def survival(new: np.ndarray, grid: np.ndarray) -> np.ndarray:
        hazard = steps @ (times[events][:, None] <= grid)
        return np.exp(-np.exp(new @ slopes)[:, None] * hazard)

    return survival


def survival_cohort(
    patients: int, strength: float, random: np.random.Generator
) -> tuple[SurvivalPredicted, SurvivalPredicted]:
    """Return the cross-validated predictions of a cohort, and those of new patients without censoring."""

    def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = random.normal(size=(count, COLUMNS))
        times = random.exponential(size=count) * np.exp(-strength * x.sum(1) / np.sqrt(COLUMNS))
        return x, times, np.minimum(random.exponential(size=count) * 1.5, random.uniform(1, 5, count))

    grid = np.linspace(HORIZON / GRID, HORIZON, GRID)
    (x, when, until), (new_x, later, _) = draw(patients), draw(FOLDS * NEW)
    times, events = np.minimum(when, until), when <= until
    folds = folds_of(events.astype(int), random)
    own, new = np.empty((patients, GRID)), np.empty((FOLDS * NEW, GRID))
    for fold in range(FOLDS):
        train, test, ours = folds != fold, folds == fold, new_folds() == fold
        model = cox(x[train], times[train], events[train])
        own[test], new[ours] = model(x[test], grid), model(new_x[ours], grid)
    chances = uncensored(times, events, folds, grid)
    predicted = SurvivalPredicted(
        times, events, folds, 1 - own[:, -1], grid, own, chances.then, chances.on_grid
    )
    everyone = np.ones(FOLDS * NEW)
    return predicted, SurvivalPredicted(
        later,
        everyone.astype(bool),
        new_folds(),
        1 - new[:, -1],
        grid,
        new,
        everyone,
        np.ones((FOLDS * NEW, GRID)),
    )


def censored_truth(predicted: SurvivalPredicted, random: np.random.Generator) -> SurvivalPredicted:
    """Return new patients with the censoring of the cohorts, on which Harrell's concordance depends."""
    count = len(predicted.times)
    until = np.minimum(random.exponential(size=count) * 1.5, random.uniform(1, 5, count))
    return replace(predicted, times=np.minimum(predicted.times, until), events=predicted.times <= until)


# Settings.


@dataclass(frozen=True)
class Setting:
    """A distribution of cohorts."""

    name: str
    rows: Callable[[np.random.Generator, bool, float | None], Rows]


def of_classes(patients: int, classes: int, strength: float, ordered: bool) -> Setting:
    """Return a setting of classes."""

    def rows(random: np.random.Generator, bootstrapped: bool, training: float | None) -> Rows:
        predicted, new = class_cohort(patients, classes, strength, ordered, random)
        own = scored(class_measures(), predicted, new, predicted.labels, bootstrapped, training)
        return own | of_each_class(predicted, new, training)

    kind = "ordered classes" if ordered else "classes"
    return Setting(f"{classes} {kind}, n {patients}, strength {strength}", rows)


def _numbers(targets: np.ndarray, values: np.ndarray, folds: np.ndarray) -> Predicted:
    return Predicted(targets, values, np.zeros_like(values), folds)


def agreement_rows(predicted: Predicted, new: Predicted) -> Rows:
    """Return the mean difference and the limits of agreement of Bland and Altman."""
    own, later = (bland_altman(each.probabilities, each.labels) for each in (predicted, new))
    pairs = {
        "mean difference": (own.bias, later.bias),
        "lower limit": (own.lower, later.lower),
        "upper limit": (own.upper, later.upper),
    }
    return {
        name: plain_row(limits.value, limits.low, limits.high, truth.value)
        for name, (limits, truth) in pairs.items()
    }


def plain_row(value: float, low: float, high: float, truth: float) -> Row:
    """Return the row of an interval that was not compared with the bootstrap."""
    return Row(value, low, high, (high - low) / 3.92, (np.nan, np.nan), truth)


def of_numbers(patients: int, explained: float, skewed: bool) -> Setting:
    """Return a setting of numbers."""

    def rows(random: np.random.Generator, bootstrapped: bool, training: float | None) -> Rows:
        predicted, new = number_cohort(patients, explained, skewed, random)
        strata = np.zeros(patients, dtype=int)
        own = scored(NUMBER_METRICS, predicted, new, strata, bootstrapped, training)
        return own | agreement_rows(predicted, new)

    noise = "skewed" if skewed else "normal"
    return Setting(f"number, n {patients}, R2 {explained}, {noise} noise", rows)


def risk_rows(predicted: SurvivalPredicted, new: SurvivalPredicted) -> Rows:
    """Return the observed risk at the horizon of all patients and of the thirds of the predicted risk."""
    groups, later = thirds_of(predicted), thirds_of(new)
    rows = {}
    for name, group in {"all": None, "low": 0, "middle": 1, "high": 2}.items():
        inside = np.ones_like(groups, dtype=bool) if group is None else groups == group
        beyond = np.ones_like(later, dtype=bool) if group is None else later == group
        widening = 1.0 if group is None else widening_of_groups(len(groups))
        risk = risk_at(predicted.times[inside], predicted.events[inside], HORIZON, widening)
        truth = float((new.times[beyond] <= HORIZON).mean())
        rows[f"observed risk ({name})"] = plain_row(risk.value, risk.low, risk.high, truth)
    return rows


def thirds_of(predicted: SurvivalPredicted) -> np.ndarray:
    """Return the third of the predicted risk within folds of each patient, (n,)."""
    return groups_of_risk(ranks_within_folds(predicted.risks[None], predicted.folds[None]), 3)


def log_rank_levels(patients: int, cohorts: int) -> tuple[float, float]:
    """Return the shares of p-values below 0.05 where no column is associated with survival."""
    tests = []
    for number in range(cohorts):
        predicted, _ = survival_cohort(patients, 0.0, np.random.default_rng([SEED, number]))
        tests.append(log_rank(predicted.times, predicted.events, thirds_of(predicted)))
    corrected = [cross_validated_log_rank(test) for test in tests]
    plain, halved = (
        float(np.mean([test.p_value is not None and test.p_value < 0.05 for test in part]))
        for part in (tests, corrected)
    )
    return plain, halved


def of_survival(patients: int, strength: float) -> Setting:
    """Return a setting of survival."""

    def rows(random: np.random.Generator, bootstrapped: bool, training: float | None) -> Rows:
        predicted, new = survival_cohort(patients, strength, random)
        strata = predicted.events.astype(int)
        own = scored(SURVIVAL_METRICS, predicted, new, strata, bootstrapped, training)
        harrell = SURVIVAL_METRICS["concordance_harrell"]
        truth = harrell.score(censored_truth(new, random), FOLDS * NEW)
        own |= {"concordance_harrell": replace(own["concordance_harrell"], truth=truth)}
        return own | risk_rows(predicted, new)

    return Setting(f"survival, n {patients}, strength {strength}", rows)


def settings() -> Iterator[Setting]:
    """Yield every setting."""
    for patients in SIZES:
        for strength in (0.7, 1.5, 2.5):
            yield of_classes(patients, 3, strength, ordered=False)
        for strength in (0.7, 1.5):
            yield of_classes(patients, 4, strength, ordered=True)
        for explained, skewed in ((0.2, False), (0.6, False), (0.9, False), (0.5, True)):
            yield of_numbers(patients, explained, skewed)
        for strength in (0.5, 1.5):
            yield of_survival(patients, strength)


# Tables.


@dataclass(frozen=True)
class Coverage:
    """Coverage of a metric in a setting, of the toolkit's interval and of the bootstrap's."""

    covered: float
    above: float
    error: float
    bootstrap: float
    width: float


def coverage(rows: list[Row]) -> Coverage:
    """Return the coverage of one metric; scores of NaN are left out."""
    known = [row for row in rows if np.isfinite(row.value)]
    target = float(np.nanmean([row.truth for row in rows]))
    low, high = np.array([row.low for row in known]), np.array([row.high for row in known])
    values, errors = np.array([row.value for row in known]), np.array([row.error for row in known])
    drawn = np.array([row.bootstrap for row in known])
    with_draws = ~np.isnan(drawn[:, 0])
    drawn = drawn[with_draws]
    inside = (drawn[:, 0] <= target) & (target <= drawn[:, 1])
    wider = (high - low)[with_draws].mean() / (drawn[:, 1] - drawn[:, 0]).mean() if len(drawn) else np.nan
    return Coverage(
        float(((low <= target) & (target <= high)).mean()),
        float((low > target).mean()),
        float(values.std() / np.sqrt((errors**2).mean())),
        float(inside.mean()) if len(drawn) else np.nan,
        float(wider),
    )


def run(setting: Setting, cohorts: int, training: float | None) -> dict[str, Coverage]:
    """Return the coverage of each metric in a setting."""
    found: dict[str, list[Row]] = {}
    for number in range(cohorts):
        random = np.random.default_rng([SEED, number])
        for name, row in setting.rows(random, number % BOOTSTRAPPED == 0, training).items():
            found.setdefault(name, []).append(row)
    return {name: coverage(rows) for name, rows in found.items()}


def print_table(name: str, of_metrics: dict[str, Coverage]) -> None:
    """Print the coverage of each metric in a setting."""
    print(f"\n{name}\n| metric | coverage | above | sd / error | bootstrap | width ratio |")
    print("|---" * 6 + "|")
    for metric, own in of_metrics.items():
        cells = (own.covered, own.above, own.error, own.bootstrap, own.width)
        print(f"| `{metric}` | {' | '.join(f'{cell:.3f}' for cell in cells)} |", flush=True)


def main() -> None:
    """Run, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohorts", type=int, default=400, help="of each setting")
    parser.add_argument("--only", default="", help="run the settings whose name contains this text")
    parser.add_argument("--unwidened", action="store_true", help="add nothing for the training patients")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    worst: dict[str, float] = {}
    for setting in settings():
        if arguments.only in setting.name:
            of_metrics = run(setting, arguments.cohorts, 0.0 if arguments.unwidened else None)
            if not arguments.json:
                print_table(setting.name, of_metrics)
            for metric, own in of_metrics.items():
                worst[metric] = min(worst.get(metric, 1.0), round(own.covered, 4))
    for patients in SIZES:
        name = f"log-rank test, n {patients}, strength 0"
        if arguments.only in name and not arguments.json:
            plain, halved = log_rank_levels(patients, arguments.cohorts)
            print(f"\n{name}: p < 0.05 in {plain:.3f} of the cohorts as it is, in {halved:.3f} halved")
    print(json.dumps(worst))


if __name__ == "__main__":
    main()
