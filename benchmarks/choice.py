"""Simulate how often a trial replaces the defaults of a search: by chance, and where one trial is better.

    python benchmarks/choice.py [--cohorts 100] [--json]

Each simulated cohort has 69 % positive patients, as the lymphocytosis challenge, and 50 trials, the first of
which is the defaults. The logit of a patient is the sum of the label's part, an error that all trials share,
and an error of the trial; `correlation` is the share of the former in the variance of both. The function of
the toolkit that chooses in a search, `best_or_defaults`, gets the logits of all trials. In a search on 90
patients of the lymphocytosis challenge, the correlation was 0.97, the standard deviation of the errors 2.5.

- Equal trials: any of them replaces the defaults by chance. `every patient twice`: with the same label and
  almost the same logits, declared as a group.
- One is better by 0.05 nats of balanced log-loss: a trial replaces the defaults, and it is this one.
- One standard error: the rule of earlier versions, for comparison: the best trial replaces the defaults if
  its lead exceeds its standard error.
- Adaptive: the sampler proposes each trial from the values of those before it, in a space of four
  hyperparameters that change the predictions but not how good they are.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import optuna
from scipy.optimize import brentq

from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.multiplicity import max_t
from mil_toolkit.search.samplers import SAMPLERS
from mil_toolkit.search.trials import FinishedTrial, encode_logits
from mil_toolkit.study.selection import HeldOut, best_or_defaults

OBJECTIVE = "balanced_log_loss"
TRIALS, FOLDS = 50, 5
POSITIVES = 0.69
SIGNAL, ERROR = 2.4, 2.4  # size of the label's part of a logit, and standard deviation of the errors
GAIN = 0.05  # nats by which the better trial is better
SIZES, CORRELATIONS = (90, 163, 400), (0.97, 0.9, 0.8)
SHARED = 0.9  # the correlation where only one is simulated


@dataclass(frozen=True)
class Setting:
    """A population of cohorts: number of patients, correlation of the trials' errors, and what else applies.

    better: whether trial 1 is better by GAIN; twice: whether each patient is entered twice
    """

    patients: int
    correlation: float
    better: bool = False
    twice: bool = False


@dataclass(frozen=True)
class Outcome:
    """Shares of the simulated cohorts in which a trial replaced the defaults, and in which trial 1 did."""

    replaced: float
    best: float
    one_error: float
    cohorts: int


def expected_loss(signal: float) -> float:
    """Return the expected balanced log-loss of logits `signal` plus a normal error, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(np.sum(weights * np.logaddexp(0, -(signal + ERROR * nodes))) / np.sqrt(2 * np.pi))


def better_signal() -> float:
    """Return the signal of a trial that is better than the others by GAIN."""
    return float(
        brentq(lambda signal: expected_loss(SIGNAL) - expected_loss(signal) - GAIN, SIGNAL, SIGNAL + 2)
    )


def draw(setting: Setting, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits (TRIALS, n), labels (n,) and groups (n,) of a cohort."""
    distinct = setting.patients // (2 if setting.twice else 1)
    labels = (np.arange(distinct) < round(POSITIVES * distinct)).astype(int)
    shared, own = random.normal(size=distinct), random.normal(size=(TRIALS, distinct))
    signals = np.full((TRIALS, 1), SIGNAL)
    if setting.better:
        signals[1] = better_signal()
    errors = np.sqrt(setting.correlation) * shared + np.sqrt(1 - setting.correlation) * own
    logits, groups = signals * (2 * labels - 1) + ERROR * errors, np.arange(distinct)
    if setting.twice:
        logits, labels, groups = np.tile(logits, 2), np.tile(labels, 2), np.tile(groups, 2)
        logits = logits + 0.05 * random.normal(size=logits.shape)
    return logits, labels, groups


def finished(number: int, logits: np.ndarray, held_out: HeldOut) -> FinishedTrial:
    """Return a complete trial with these logits."""
    value = score(logits, held_out)
    return FinishedTrial(number, "COMPLETE", value, {}, 1, None, None, encode_logits(logits))


def score(logits: np.ndarray, held_out: HeldOut) -> float:
    """Return the objective of a trial."""
    return float(METRICS[OBJECTIVE].of(held_out.predicted(logits), np.ones(len(logits))))


def choose(logits: np.ndarray, held_out: HeldOut) -> tuple[int, bool]:
    """Return the chosen trial, and whether the rule of one standard error would replace the defaults."""
    trials = [finished(number, row, held_out) for number, row in enumerate(logits)]
    best = min(trials, key=lambda trial: trial.value or 0.0)
    chosen, _ = best_or_defaults(trials, best, OBJECTIVE, held_out)
    return chosen.number, exceeds_one_error(logits[0], logits[best.number], held_out)


def exceeds_one_error(defaults: np.ndarray, best: np.ndarray, held_out: HeldOut) -> bool:
    """Return whether the lead of one trial exceeds its standard error."""
    one, other = held_out.predicted(defaults), held_out.predicted(best)
    result = max_t(METRICS[OBJECTIVE], one, [other], held_out.groups)
    return bool(result.leads[0] > result.errors[0])


def simulate(setting: Setting, cohorts: int, seed: int = 0) -> Outcome:
    """Return how often a trial replaces the defaults in independent cohorts of a setting."""
    random = np.random.default_rng(seed)
    chosen, one_error = [], []
    for _ in range(cohorts):
        logits, labels, groups = draw(setting, random)
        held_out = HeldOut(labels, np.arange(len(labels)) % FOLDS, groups if setting.twice else None)
        number, exceeds = choose(logits, held_out)
        chosen.append(number)
        one_error.append(exceeds)
    numbers = np.array(chosen)
    return Outcome(
        float(np.mean(numbers > 0)), float(np.mean(numbers == 1)), float(np.mean(one_error)), cohorts
    )


def simulate_adaptive(patients: int, cohorts: int, seed: int = 0) -> Outcome:
    """Return the same where the sampler proposes every trial from the values of those before it.

    The errors of a trial are waves over the hyperparameters, which differ between patients and have mean zero
    over them: near trials have similar errors, and all trials are equally good.
    """
    random, replaced, one_error = np.random.default_rng(seed), 0, 0
    for cohort in range(cohorts):
        labels = (np.arange(patients) < round(POSITIVES * patients)).astype(int)
        held_out = HeldOut(labels, np.arange(patients) % FOLDS)
        predict = partial(wave_logits, labels, *draw_waves(patients, random))
        logits = adaptive_search(predict, held_out, seed=1000 * seed + cohort)
        number, exceeds = choose(logits, held_out)
        replaced += number > 0
        one_error += exceeds
    return Outcome(replaced / cohorts, 0.0, one_error / cohorts, cohorts)


def draw_waves(patients: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shared errors (n,), frequencies (waves, 4) and amplitudes (n, 2 * waves) of the patients."""
    frequencies = random.normal(0, 2, (30, 4))
    return random.normal(size=patients), frequencies, random.normal(size=(patients, 60)) / np.sqrt(30)


def wave_logits(
    labels: np.ndarray, shared: np.ndarray, frequencies: np.ndarray, amplitudes: np.ndarray, point: np.ndarray
) -> np.ndarray:
    """Return the logits (n,) of the trial at a point (4,) of the space."""
    phases = frequencies @ point
    own = amplitudes @ np.concatenate([np.sin(phases), np.cos(phases)])
    return SIGNAL * (2 * labels - 1) + ERROR * (np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * own)


def adaptive_search(predict: Callable[[np.ndarray], np.ndarray], held_out: HeldOut, seed: int) -> np.ndarray:
    """Return the logits (TRIALS, n) of the trials that the sampler proposes, the defaults first."""
    study = optuna.create_study(sampler=SAMPLERS["tpe"](seed))
    names = [f"x{number}" for number in range(4)]
    study.enqueue_trial(dict.fromkeys(names, 0.5))
    logits = []
    for _ in range(TRIALS):
        trial = study.ask()
        logits.append(predict(np.array([trial.suggest_float(name, 0, 1) for name in names])))
        study.tell(trial, score(logits[-1], held_out))
    return np.stack(logits)


def table(cohorts: int) -> dict[str, Outcome]:
    """Simulate every setting, and print a row of a Markdown table for each."""
    outcomes: dict[str, Outcome] = {}
    print("| patients | correlation | | replaced by a trial | by the better one | one standard error |")
    print("|---|---|---|---|---|---|", flush=True)
    for correlation in CORRELATIONS:
        for patients in SIZES:
            for name, setting in settings(patients, correlation).items():
                key = f"{patients}, {correlation}, {name}"
                outcomes[key] = simulate(setting, cohorts)
                print_row(patients, correlation, name, outcomes[key])
    for patients in SIZES:
        outcomes[f"{patients}, adaptive"] = simulate_adaptive(patients, max(1, cohorts // 2))
        print_row(patients, SHARED, "equal trials, adaptive", outcomes[f"{patients}, adaptive"])
    return outcomes


def settings(patients: int, correlation: float) -> dict[str, Setting]:
    """Return the settings for a number of patients and a correlation, by name."""
    null = Setting(patients, correlation)
    named = {"equal trials": null, "one is better by 0.05": replace(null, better=True)}
    if correlation == SHARED:
        named["equal trials, every patient twice"] = replace(null, twice=True)
    return named


def print_row(patients: int, correlation: float, name: str, outcome: Outcome) -> None:
    """Print a row of the table."""
    better = f"{outcome.best:.3f}" if "better" in name else ""
    cells = (str(patients), str(correlation), name, f"{outcome.replaced:.3f}", better)
    print("|", " | ".join([*cells, f"{outcome.one_error:.3f}"]), "|", flush=True)


def main() -> None:
    """Simulate all settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohorts", type=int, default=100, help="simulated cohorts of each setting")
    parser.add_argument("--json", action="store_true", help="also print the worst figures as JSON")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    outcomes = table(arguments.cohorts)
    if arguments.json:
        null = [outcome.replaced for name, outcome in outcomes.items() if "better" not in name]
        power = {
            name.replace(", one is better by 0.05", ""): outcome.replaced
            for name, outcome in outcomes.items()
            if "better" in name
        }
        print(json.dumps({"false_replacement_worst": max(null), "power": power}))


if __name__ == "__main__":
    main()
