"""Compare candidates for the defaults of the head in nested cross-validation, by a rule fixed in advance.

    python benchmarks/defaults.py run COHORT.toml --features CACHE_FOLDER --crop CACHE_FOLDER [--part I/N]
    python benchmarks/defaults.py table COHORT.toml --features CACHE_FOLDER
    python benchmarks/defaults.py search COHORT.toml --features CACHE_FOLDER --repeats 1
    python benchmarks/defaults.py shown COHORT.toml --repeats 5 [--only NAME ...] [--settings NAME ...]

Every candidate is one fixed configuration, evaluated like a mil-tune study with a single trial: in each outer
fold the inner folds choose its number of epochs, calibration and threshold, the members are refitted, and the
held-out patients are predicted once. There are five outer folds and three repeats; all candidates share
splits and seeds. `run` resumes where it stopped.

The rule. The reference is the previous default. Every candidate is compared with it on the same patients and
the same bootstrap draws, in balanced log-loss on the outer folds, because one patient of the smaller class
moves balanced accuracy by two points.

1. A change passes if its log-loss is lower than the reference's by more than one standard error of the paired
   difference and its AUC is not lower. A change without any effect passes in one comparison out of six, so
   passing does not prove a gain; only an interval that excludes zero is called a gain.
2. The changes to the head that pass are combined into one more candidate (of two values of the same field,
   the one with the lower log-loss), which is evaluated like the others.
3. The new default is the candidate with the lowest log-loss among the combined one and the single ones that
   passed; if they differ by less than 0.005 nats, the one with fewer changes. If none passes, the reference
   stays.
4. A stack, more members and a crop are judged in the same way, but a stack adds a stage of fitting and a crop
   suits only these images: they become a default only if the interval excludes zero.
5. The threshold rule is the one with the highest balanced accuracy on the outer folds, averaged over all
   candidates.

`search` compares ways to choose a configuration: the defaults, the best trial of a search, and the best trial
only if it surpasses the defaults by more than chance.

`shown` compares what the network sees of each image: the candidates in SHOWN, of which some are several
views in one head. The rule was written down before any of them was scored. Each candidate is a study of
SHOWN_TRIALS trials with five outer folds and five repeats, on features of SHOWN_BACKBONE, with the same
splits and seeds. The default head without a search, with the metadata and on images alone, is reported but
decides nothing. The primary metric is the balanced log-loss on the outer folds. The reference is the whole
image. The candidate with the lowest loss is adopted only if its loss is lower than the reference's by
LEAST_GAIN nats or more, and by more than two standard errors and more than the critical value of a max-T
correction: the 95 % quantile, over bootstrap draws of patients, of the largest studentised lead of all
candidates, centred at the observed leads. Otherwise `--preprocess none` stays. All candidates are reported.
Other patients will check what is adopted. `--only` and `--settings` run a part of the studies, which resume
where they stopped; the verdict needs all of them.

The score of a default chosen here is a development score, to be confirmed on other patients.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.run import RunConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import Settings
from mil_toolkit.core.devices import training_dtype, use_available_cores
from mil_toolkit.core.seeds import MEMBERS, derive_seeds
from mil_toolkit.evaluation.calibration import THRESHOLDS, Decision, fit_calibration, fit_decision
from mil_toolkit.evaluation.intervals import Table, draw_patients, percentile_interval, scores_with_intervals
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.records import Estimate
from mil_toolkit.evaluation.scoring import Predictions
from mil_toolkit.evaluation.words import with_interval
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.study import choice
from mil_toolkit.study.plan import Search, plan_searches
from mil_toolkit.study.rivals import Rival, logistic, mean_embeddings, metadata_columns, rival_predictions
from mil_toolkit.study.tables import prediction_table, read_predictions
from mil_toolkit.study.tune import tune
from mil_toolkit.study.variants import thin
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, run_trial
from mil_toolkit.training.projection import MOST_COMPONENTS, Projection

REFERENCE, INSTANCES, BASELINE = "reference", "instance logistic", "metadata logistic"
STUDY = StudyConfig()
DEVICE = torch.device("cpu")
IMAGES = 16  # per patient, where the number of images must not carry information


@dataclass(frozen=True)
class Candidate:
    """Changes from the reference.

    head: settings of the head
    crop: use the features of a centre crop
    images: train on this number of random images of each patient; None: on all of them
    """

    head: dict[str, Any] = field(default_factory=dict)
    crop: bool = False
    images: int | None = None


CANDIDATES: dict[str, Candidate] = {
    REFERENCE: Candidate(),
    "mean pooling": Candidate({"pooling": "mean"}),
    "images only": Candidate({"metadata_branch": "none"}),
    "both dropouts 0.5, 32 components": Candidate(
        {"instance_dropout": 0.5, "embedding_dropout": 0.5, "components": 32}
    ),
    "instance dropout 0.5": Candidate({"instance_dropout": 0.5}),
    "32 components": Candidate({"components": 32}),
    "16 components": Candidate({"components": 16}),
    "weight decay 1": Candidate({"weight_decay": 1.0}),
    "learning rate 0.001": Candidate({"learning_rate": 1e-3}),
    "auxiliary 0": Candidate({"auxiliary": 0.0}),
    "no dropout": Candidate({"instance_dropout": 0.0, "embedding_dropout": 0.0}),
    "concatenated": Candidate({"fusion": "concat"}),
    "metadata network": Candidate({"metadata_branch": "mlp"}),
    "hidden 32": Candidate({"hidden": 32}),
    "16 images in training": Candidate(images=IMAGES),
    "crop": Candidate(crop=True),
    "images only, crop": Candidate({"metadata_branch": "none"}, crop=True),
}
COLUMNS = ("balanced_log_loss", "auc", "balanced_accuracy")


@dataclass(frozen=True)
class Scored:
    """Logits of M members in one outer fold.

    inside: (M, n) out-of-fold logits of the n training patients
    outside: (M, t) logits of the t held-out patients
    few: (M, t) logits of the held-out patients from IMAGES images of each
    """

    inside: np.ndarray
    outside: np.ndarray
    few: np.ndarray


class Fold:
    """The data of one outer fold, shared by the candidates that train on the same images."""

    def __init__(self, patients: Patients, search: Search, images: int | None):
        self.search, self.test = search, patients.take(search.test)
        self.few = thinned(self.test, IMAGES, search)
        self.train = thinned(patients.take(search.patients), images, search)
        dtype = training_dtype(DEVICE)
        self.inputs = Inputs(self.train, [split.train for split in search.inner], DEVICE, dtype)
        self.whole = Inputs(self.train, [np.arange(len(self.train))], DEVICE, dtype)

    def score(self, head: dict[str, Any]) -> Scored:
        """Choose the epochs on the inner folds, refit the members, and return their logits."""
        config, path = replace(HeadConfig(), **head), (STUDY.seed, *self.search.path)
        trial = run_trial(self.inputs, config, STUDY.objective, (*path, 0))
        again = cross_fit_members(self.inputs, config, trial.epoch, STUDY.members, (*path, MEMBERS))
        seeds = derive_seeds(STUDY.members, *path, MEMBERS)
        config = replace(config, epochs=trial.epoch)
        *_, (model, _) = train(self.whole, config, [Member(0, seed) for seed in seeds], seeds[0])
        fitted = FittedHead(model, self.projection.narrowed(config.components), self.whole.encoders[0])
        folds = again.logits[0].reshape(-1, STUDY.members, len(self.train))
        inside = folds[again.held_by, :, np.arange(len(self.train))].T
        return Scored(inside, *(fitted.apply(patients).logits for patients in (self.test, self.few)))

    @cached_property
    def projection(self) -> Projection:
        """The projection of all training patients to the largest number of components of any candidate."""
        return self.whole.projections(replace(HeadConfig(), components=MOST_COMPONENTS))[0]


def thinned(patients: Patients, images: int | None, search: Search) -> Patients:
    """Return the patients with `images` random images each, or unchanged if `images` is None."""
    if images is None or patients.bags is None:
        return patients
    random = np.random.default_rng(derive_seeds(1, STUDY.seed, *search.path, MEMBERS + 1))
    return replace(patients, bags=thin(patients.bags, images, random))


def instance_logistic(fold: Fold) -> Scored:
    """Fit a logistic regression on single images with their patient's label; average its logits per bag."""
    own, config = fold.train, HeadConfig()
    inside = np.zeros((1, len(own)))
    for split, project in zip(fold.search.inner, fold.inputs.projections(config), strict=True):
        inside[0, split.test] = _bag_logits(project, own.take(split.train), own.take(split.test))
    whole = fold.projection.narrowed(config.components)
    outside = [_bag_logits(whole, own, test)[None] for test in (fold.test, fold.few)]
    return Scored(inside, *outside)


def _bag_logits(project: Projection, train: Patients, test: Patients) -> np.ndarray:
    assert train.bags is not None and test.bags is not None
    bag, labels = train.bags.bag_of_instance.numpy(), train.labels
    weights = (len(labels) / 2 / np.bincount(labels)[labels] / train.bags.sizes.numpy())[bag]
    regression = LogisticRegression(C=0.1, max_iter=500)
    regression.fit(project(train.bags.instances).numpy(), labels[bag], weights)
    logits = regression.decision_function(project(test.bags.instances).numpy())
    return np.bincount(test.bags.bag_of_instance.numpy(), logits) / test.bags.sizes.numpy()


def stacked(name: str) -> Callable[..., pd.DataFrame]:
    """Return a logistic regression on the metadata and the out-of-fold logit of candidate `name`."""

    def predictions(work: Path, patients: Patients, search: Search) -> pd.DataFrame:
        columns = np.zeros(len(patients))
        scored = read_scored(work, name, search)
        columns[search.patients], columns[search.test] = scored.inside.mean(0), scored.outside.mean(0)
        return by_logistic(
            lambda *data: np.column_stack([_present(metadata_columns(*data)), columns]), patients, search
        )

    return predictions


def by_logistic(
    columns: Callable[[Patients, np.ndarray], np.ndarray | None], patients: Patients, search: Search
) -> pd.DataFrame:
    """Predict with a logistic regression under the same rules as a study's baselines."""
    decide = partial(fit_decision, rule=STUDY.threshold)
    predictions = rival_predictions(
        Rival(columns, logistic),
        patients,
        search.patients,
        search.test,
        search.inner,
        STUDY.objective,
        decide,
    )
    assert predictions is not None
    return prediction_table(search, search.test, patients, predictions)


def _present(columns: np.ndarray | None) -> np.ndarray:
    assert columns is not None, "the cohort has no metadata, or no images"
    return columns


LOGISTICS: dict[str, Callable[..., pd.DataFrame]] = {
    BASELINE: lambda _, *data: by_logistic(metadata_columns, *data),
    "metadata and mean embedding, logistic": lambda _, *data: by_logistic(
        lambda *of: np.column_stack([_present(metadata_columns(*of)), _present(mean_embeddings(*of))]), *data
    ),
    "stack of images only": stacked("images only"),
    "stack of images only, crop": stacked("images only, crop"),
    "stack of instance logistic": stacked(INSTANCES),
}


def predictions_of(
    patients: Patients, search: Search, inside: np.ndarray, outside: np.ndarray, rule: str
) -> pd.DataFrame:
    """Fit calibration and threshold on out-of-fold logits (n,), and apply them to held-out ones (t,)."""
    labels = patients.labels[search.patients]
    slope, intercept = fit_calibration(inside, labels)
    threshold = THRESHOLDS[rule](expit(slope * inside + intercept), labels)
    probabilities = Decision(slope, intercept, threshold).probabilities(outside)
    return prediction_table(
        search, search.test, patients, Predictions(probabilities, probabilities >= threshold)
    )


def logits_path(work: Path, name: str, search: Search) -> Path:
    """Return the file with the logits of a candidate in an outer fold."""
    return work / name.replace(" ", "-") / f"{search.name}.npz"


def read_scored(work: Path, name: str, search: Search) -> Scored:
    """Read the logits that `run` saved."""
    with np.load(logits_path(work, name, search)) as saved:
        return Scored(**saved)


def run(arguments: argparse.Namespace) -> None:
    """Compute the logits of every candidate in the outer folds of this part."""
    use_available_cores()
    labelled, searches = plan(arguments)
    caches = {False: FeatureCache.open(arguments.features), True: FeatureCache.open(arguments.crop)}
    cohorts = {crop: Patients.of(labelled, features) for crop, features in caches.items()}
    part, parts = map(int, arguments.part.split("/"))
    for search in searches[part - 1 :: parts]:
        for name, scored in missing_scores(arguments.work, cohorts, search):
            path = logits_path(arguments.work, name, search)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                np.savez(file, **vars(scored))
            print(search.name, name, flush=True)


def missing_scores(work: Path, cohorts: dict[bool, Patients], search: Search) -> Iterator[tuple[str, Scored]]:
    """Yield the candidates of an outer fold that are not saved yet, with their logits."""
    folds = cache(lambda crop, images: Fold(cohorts[crop], search, images))
    for name, candidate in CANDIDATES.items():
        if not logits_path(work, name, search).exists():
            yield name, folds(candidate.crop, candidate.images).score(candidate.head)
    if not logits_path(work, INSTANCES, search).exists():
        yield INSTANCES, instance_logistic(folds(False, None))


def plan(arguments: argparse.Namespace) -> tuple[Cohort, list[Search]]:
    """Return the labelled patients and the searches of the outer folds."""
    labelled = read_cohort(arguments.cohort, images=False).labelled()
    return labelled, plan_searches(labelled, replace(STUDY, repeats=arguments.repeats))[0][:-1]


def tables(arguments: argparse.Namespace, rule: str) -> dict[str, Table]:
    """Return the outer predictions of all candidates and of the variants that need no further training."""
    labelled, searches = plan(arguments)
    patients = Patients.of(labelled, FeatureCache.open(arguments.features))

    def of_logits(name: str, members: int, few: bool = False) -> Table:
        parts = []
        for search in searches:
            scored = read_scored(arguments.work, name, search)
            outside = scored.few if few else scored.outside
            inside_mean, outside_mean = (logits[:members].mean(0) for logits in (scored.inside, outside))
            parts.append(predictions_of(patients, search, inside_mean, outside_mean, rule))
        return Table.of(pd.concat(parts))

    scored = {name: of_logits(name, STUDY.members) for name in (*CANDIDATES, INSTANCES)}
    scored["one member"] = of_logits(REFERENCE, 1)
    scored["16 images in scoring"] = of_logits(REFERENCE, STUDY.members, few=True)
    scored["16 images in training and scoring"] = of_logits("16 images in training", STUDY.members, few=True)
    for name, predict in LOGISTICS.items():
        scored[name] = Table.of(pd.concat([predict(arguments.work, patients, search) for search in searches]))
    return scored


@dataclass(frozen=True)
class Way:
    """A number of trials, and whether the best one always replaces the defaults."""

    trials: int
    always_best: bool = False


TRIALS = 15
WAYS = {
    "the defaults alone": Way(1),
    f"the best of {TRIALS} trials": Way(TRIALS, always_best=True),
    f"the best of {TRIALS} trials that surpasses the defaults": Way(TRIALS),
}


def compare_ways(arguments: argparse.Namespace) -> None:
    """Print the outer scores of each way to choose a configuration, as Markdown."""
    use_available_cores()
    cohort, features = read_cohort(arguments.cohort, images=False), FeatureCache.open(arguments.features)
    tables: dict[str, Table] = {}
    print_row("way", *COLUMNS, *(f"{column} minus the defaults'" for column in COLUMNS))
    print_row(*["---"] * (1 + 2 * len(COLUMNS)))
    for name, way in WAYS.items():
        config = replace(STUDY, trials=way.trials, repeats=arguments.repeats)
        folder = arguments.work / name.replace(" ", "-")
        with best_always_replaces_defaults() if way.always_best else contextlib.nullcontext():
            tune(cohort, features, folder, config)
        tables[name] = Table.of(read_predictions(folder / "predictions.csv"))
        scores, (defaults, *_) = scores_with_intervals(tables[name]), tables.values()
        differences = [with_interval(paired(tables[name], defaults, column), "+") for column in COLUMNS]
        print_row(name, *(with_interval(scores[column]) for column in COLUMNS), *differences)


@contextlib.contextmanager
def best_always_replaces_defaults() -> Iterator[None]:
    """Let every search choose its best trial, whatever the lead over the defaults."""
    with patch.object(choice, "best_or_defaults", lambda trials, best, *_: (best, None)):
        yield


SHOWN_BACKBONE, SHOWN_TRIALS, LEAST_GAIN = "efficientnet_lite0", 25, 0.015
WINDOWS = (48, 64, 80, 96, 112)  # pixels
WHOLE = "whole"
SINGLE: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "saturation mask": {"preprocess": "saturation-mask"},
    **{f"centre {side}": {"crop": side} for side in WINDOWS},
    **{f"cell {side}": {"crop": side, "preprocess": "cell-crop"} for side in WINDOWS},
    "cell mask 80": {"crop": 80, "preprocess": "cell-mask"},
}
SHOWN: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in SINGLE},
    "whole and cell 80": (WHOLE, "cell 80"),
    "saturation mask and cell 80": ("saturation mask", "cell 80"),
    "whole, saturation mask and cell 80": (WHOLE, "saturation mask", "cell 80"),
}
SEARCH, DEFAULT_HEAD, ALONE = "search", "default head", "default head, images alone"
SHOWN_SETTINGS: dict[str, Settings] = {SEARCH: {}, DEFAULT_HEAD: {}, ALONE: {"metadata_branch": ("none",)}}


def compare_shown(arguments: argparse.Namespace) -> None:
    """Score what the network may see of an image, and print all scores and the verdict as Markdown."""
    use_available_cores()
    names = arguments.only or [*SHOWN]
    for setting in arguments.settings:
        scored = {name: table_shown(arguments, name, setting) for name in names}
        print_row(setting, *COLUMNS, f"log-loss minus {WHOLE}", "s.e.")
        print_row(*["---"] * (3 + len(COLUMNS)))
        for name, one in scored.items():
            whole, scores = scored[WHOLE], scores_with_intervals(one)
            loss = with_interval(paired(one, whole, COLUMNS[0]), "+")
            error = f"{standard_error(one, whole, COLUMNS[0]):.3f}"
            print_row(name, *(with_interval(scores[column]) for column in COLUMNS), loss, error)
        print()
        if setting == SEARCH and len(names) == len(SHOWN):
            print(verdict_on(scored))


def table_shown(arguments: argparse.Namespace, name: str, setting: str) -> Table:
    """Embed the images as a candidate shows them, run its study, and return its outer predictions."""
    cohort = read_cohort(arguments.cohort)
    caches = [view_shown(cohort, arguments.work / "cache", view) for view in SHOWN[name]]
    trials = arguments.trials if setting == SEARCH else 1  # the first trial is the default head
    study = replace(STUDY, trials=trials, repeats=arguments.repeats, settings=SHOWN_SETTINGS[setting])
    folder = arguments.work / "shown" / f"{name} {setting}".replace(",", "").replace(" ", "-")
    tune(cohort, caches if len(caches) > 1 else caches[0], folder, study, how=RunConfig(workers=None))
    print(f"{name}, {setting}: scored", file=sys.stderr, flush=True)
    return Table.of(read_predictions(folder / "predictions.csv"))


def view_shown(cohort: Cohort, cache_folder: Path, view: str) -> FeatureCache:
    """Embed the images as one view shows them."""
    config = ExtractionConfig(SHOWN_BACKBONE, **SINGLE[view])
    return FeatureCache.open(extract(cohort, config, cache_folder).folder)


def verdict_on(candidates: Mapping[str, Table]) -> str:
    """Return what the rule for `shown` decides."""
    names = [name for name in candidates if name != WHOLE]
    whole, others = candidates[WHOLE], [candidates[name] for name in names]
    draws, once = draw_patients(whole.labels), np.ones((1, len(whole.labels)))
    leads = np.array([-difference(other, whole, COLUMNS[0], once)[0] for other in others])
    drawn = np.stack([-difference(other, whole, COLUMNS[0], draws) for other in others])
    errors = drawn.std(1)
    critical = float(np.quantile(((drawn - leads[:, None]) / errors[:, None]).max(0), 0.95))
    best = int(leads.argmax())
    lead, error, required = leads[best], errors[best], max(2.0, critical)
    adopted = lead >= LEAST_GAIN and lead > required * error
    return (
        f"The best is {names[best]}: its loss is lower by {lead:.3f} nats, {lead / error:.2f} standard"
        f" errors; required are {LEAST_GAIN} nats and {required:.2f} standard errors."
        f" {'Adopted.' if adopted else 'Not adopted: the whole image stays.'}"
    )


HEADS = (
    *COLUMNS,
    "log-loss minus reference",
    "s.e.",
    "AUC minus reference",
    "log-loss minus metadata logistic",
    "balanced accuracy minus metadata logistic",
)


def show(arguments: argparse.Namespace) -> None:
    """Print the scores of the candidates and of the threshold rules, as Markdown."""
    candidates = tables(arguments, STUDY.threshold)
    print_row("candidate", *HEADS)
    print_row(*["---"] * (1 + len(HEADS)))
    reference, baseline = candidates[REFERENCE], candidates[BASELINE]
    for name, candidate in candidates.items():
        scores = scores_with_intervals(candidate)
        loss = paired(candidate, reference, "balanced_log_loss")
        others = (
            paired(candidate, reference, "auc"),
            paired(candidate, baseline, "balanced_log_loss"),
            paired(candidate, baseline, "balanced_accuracy"),
        )
        cells = [with_interval(scores[column]) for column in COLUMNS]
        print_row(
            name,
            *cells,
            with_interval(loss, "+"),
            f"{standard_error(candidate, reference, 'balanced_log_loss'):.3f}",
            *(with_interval(each, "+") for each in others),
        )
    print()
    print_row("threshold rule", "balanced accuracy of the reference", "mean of all candidates")
    print_row("---", "---", "---")
    for rule in THRESHOLDS:
        accuracies = {
            name: scores_with_intervals(table)["balanced_accuracy"]
            for name, table in tables(arguments, rule).items()
            if name not in LOGISTICS
        }
        mean = np.mean([accuracy.value for accuracy in accuracies.values()])
        print_row(rule, with_interval(accuracies[REFERENCE]), f"{mean:.4f}")


def print_row(*cells: str) -> None:
    """Print a row of a Markdown table."""
    print("|", " | ".join(cells), "|", flush=True)


def paired(one: Table, other: Table, name: str) -> Estimate:
    """Return the difference of two candidates in a metric, with its interval."""
    drawn = difference(one, other, name, draw_patients(one.labels))
    value = difference(one, other, name, np.ones((1, len(one.labels))))[0]
    return Estimate(float(value), *percentile_interval(drawn))


def standard_error(one: Table, other: Table, name: str) -> float:
    """Return the standard error of the difference of two candidates in a metric."""
    return float(np.std(difference(one, other, name, draw_patients(one.labels))))


def difference(one: Table, other: Table, name: str, weights: np.ndarray) -> np.ndarray:
    """Return the difference of two candidates in a metric under weights (draws, n) of the patients."""
    return one.scores(METRICS[name], weights) - other.scores(METRICS[name], weights)


STEPS = {"run": run, "table": show, "search": compare_ways, "shown": compare_shown}


def main() -> None:
    """Run the chosen step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--features", type=Path, metavar="CACHE_FOLDER", help="features, except for shown")
    parser.add_argument("--only", nargs="+", choices=SHOWN, help="candidates of shown; the whole image first")
    parser.add_argument("--settings", nargs="+", choices=SHOWN_SETTINGS, default=[*SHOWN_SETTINGS])
    parser.add_argument("--trials", type=int, default=SHOWN_TRIALS, help="trials of each search of shown")
    parser.add_argument(
        "--crop", type=Path, metavar="CACHE_FOLDER", help="features of a centre crop, for run"
    )
    parser.add_argument("--repeats", type=int, default=3, help="repeats of the outer folds")
    parser.add_argument(
        "--work", type=Path, default=Path("studies/defaults"), help="folder for logits and studies"
    )
    parser.add_argument(
        "--part", default="1/1", metavar="I/N", help="evaluate only this share of the outer folds"
    )
    arguments = parser.parse_args()
    if arguments.step != "shown" and arguments.features is None:
        parser.error(f"{arguments.step} needs --features.")
    if arguments.only and WHOLE not in arguments.only:
        parser.error(f"--only must include {WHOLE}, the reference.")
    if arguments.step == "run" and arguments.crop is None:
        parser.error("run needs --crop.")
    STEPS[arguments.step](arguments)


if __name__ == "__main__":
    main()
