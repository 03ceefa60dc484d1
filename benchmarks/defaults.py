"""Which default deserves its place: candidates and a rule, written down before they ran, and their nested scores.

    python benchmarks/defaults.py run COHORT.toml --features CACHE_FOLDER --crop CACHE_FOLDER [--part I/N]
    python benchmarks/defaults.py table COHORT.toml --features CACHE_FOLDER
    python benchmarks/defaults.py search COHORT.toml --features CACHE_FOLDER --repeats 1

Every candidate is one fixed configuration under the procedure of mil-tune with a single trial: in each outer fold the
inner folds choose its epoch, calibration and threshold, the members are refitted, and the outer patients are
predicted once. Five outer folds, three repeats, the same splits and seeds for all. `run` goes on where it stopped.

The rule. The reference is the default as it stood before. All are compared with it paired, on the same patients and
draws, in outer balanced log-loss, since one patient of the smaller class moves balanced accuracy by two points.

1. A change passes where its log-loss lies below the reference's by more than one standard error of the paired
   difference, and its AUC does not lie below. One comparison in six without effect gets so far: to pass proves no
   gain, and only an interval that excludes zero is called one.
2. The changes of the head that pass are joined into one more candidate (of two values of one field that with the
   lower log-loss), which runs as the others did.
3. The default is the one with the lowest log-loss among the joint and the single ones that passed; within 0.005 nats
   that with fewer changes. Where none passes, the reference stays.
4. A stack, more members or a crop are judged in the same way, but a stack is one more stage of fitting and a crop
   fits these images alone: they become a default only where the interval excludes zero.
5. The threshold rule is the one with the highest outer balanced accuracy, averaged over all candidates.

`search` compares ways to choose a configuration: the defaults alone, the best of a search's trials, and that best
only where it surpasses the defaults by one standard error.

The score of what was chosen here is a development score: other patients have to confirm it.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mil_toolkit.nested import surpasses
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config import HeadConfig, StudyConfig
from mil_toolkit.core.devices import training_dtype, use_available_cores
from mil_toolkit.core.seeds import MEMBERS, derive_seeds
from mil_toolkit.evaluation.calibration import THRESHOLDS, Decision, fit_calibration, fit_decision
from mil_toolkit.evaluation.intervals import Table, draw_patients, percentile_interval, scores_with_intervals
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study import tune as tuning
from mil_toolkit.study.plan import Search, plan_searches
from mil_toolkit.study.rivals import mean_embeddings, metadata_columns, rival_predictions
from mil_toolkit.study.tables import PREDICTION_COLUMNS, read_predictions
from mil_toolkit.study.variants import thin
from mil_toolkit.training.curves import Curves
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, train
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, run_trial
from mil_toolkit.training.projection import MOST_COMPONENTS, Projection

REFERENCE, INSTANCES, RIVAL = "reference", "instance logistic", "metadata logistic"
STUDY = StudyConfig()
DEVICE = torch.device("cpu")
IMAGES = 16  # of each patient, where the number of images may not tell


@dataclass(frozen=True)
class Candidate:
    """Settings changed from the reference, and what is changed beside the head.

    images: of each patient to train on, drawn at random; None: all
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
    """Logits of an outer fold by M members.

    inside: (M, n) out-of-fold ones of its training patients; outside: (M, t) of its test patients; few: (M, t) the
    same on IMAGES images of each
    """

    inside: np.ndarray
    outside: np.ndarray
    few: np.ndarray


class Fold:
    """What the candidates of one outer fold share that train on the same patients."""

    def __init__(self, patients: Patients, search: Search, images: int | None):
        self.search, self.test = search, patients.take(search.test)
        self.few = thinned(self.test, IMAGES, search)
        self.train = thinned(patients.take(search.patients), images, search)
        dtype = training_dtype(DEVICE)
        self.inputs = Inputs(self.train, [split.train for split in search.inner], DEVICE, dtype)
        self.whole = Inputs(self.train, [np.arange(len(self.train))], DEVICE, dtype)

    def score(self, head: dict[str, Any]) -> Scored:
        """One configuration: its epoch, its out-of-fold logits, and those of its members fitted on all."""
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
        """That of all training patients, to as many components as any candidate has."""
        return self.whole.projections(replace(HeadConfig(), components=MOST_COMPONENTS))[0]


def thinned(patients: Patients, images: int | None, search: Search) -> Patients:
    """The patients with so many images each."""
    if images is None or patients.bags is None:
        return patients
    random = np.random.default_rng(derive_seeds(1, STUDY.seed, *search.path, MEMBERS + 1))
    return replace(patients, bags=thin(patients.bags, images, random))


def instance_logistic(fold: Fold) -> Scored:
    """A logistic regression on single images, each with its patient's label; its logits averaged over a bag."""
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
    """A metadata logistic with the out-of-fold image logit of `name` as one more column."""

    def predictions(work: Path, patients: Patients, search: Search) -> pd.DataFrame:
        columns = np.zeros(len(patients))
        scored = read_scored(work, name, search)
        columns[search.patients], columns[search.test] = scored.inside.mean(0), scored.outside.mean(0)
        return by_logistic(
            lambda *told: np.column_stack([metadata_columns(*told), columns]), patients, search
        )

    return predictions


def by_logistic(
    columns: Callable[[Patients, np.ndarray], np.ndarray | None], patients: Patients, search: Search
) -> pd.DataFrame:
    """A logistic regression under the rules of the trivial rivals."""
    decide = partial(fit_decision, rule=STUDY.threshold)
    found = rival_predictions(
        columns, patients, search.patients, search.test, search.inner, STUDY.objective, decide
    )
    assert found is not None
    return table(search, patients, *found)


LOGISTICS: dict[str, Callable[..., pd.DataFrame]] = {
    RIVAL: lambda _, *told: by_logistic(metadata_columns, *told),
    "metadata and mean embedding, logistic": lambda _, *told: by_logistic(
        lambda *of: np.column_stack([metadata_columns(*of), mean_embeddings(*of)]), *told
    ),
    "stack of images only": stacked("images only"),
    "stack of images only, crop": stacked("images only, crop"),
    "stack of instance logistic": stacked(INSTANCES),
}


def table(search: Search, patients: Patients, probabilities: np.ndarray, decided: np.ndarray) -> pd.DataFrame:
    """Predictions of an outer fold: PREDICTION_COLUMNS."""
    repeat, fold = search.path
    ids, labels = [patients.ids[place] for place in search.test], patients.labels[search.test]
    columns = (repeat, fold, ids, labels, probabilities, decided.astype(int))
    return pd.DataFrame(dict(zip(PREDICTION_COLUMNS, columns, strict=True)))


def decided(
    patients: Patients, search: Search, inside: np.ndarray, outside: np.ndarray, rule: str
) -> pd.DataFrame:
    """Predictions by logits: calibration and threshold from the out-of-fold ones (n,), applied to the test's (t,)."""
    labels = patients.labels[search.patients]
    slope, intercept = fit_calibration(inside, labels)
    threshold = THRESHOLDS[rule](expit(slope * inside + intercept), labels)
    probabilities = Decision(slope, intercept, threshold).probabilities(outside)
    return table(search, patients, probabilities, probabilities >= threshold)


def place(work: Path, name: str, search: Search) -> Path:
    """Where the logits of a candidate in an outer fold are kept."""
    return work / name.replace(" ", "-") / f"{search.name}.npz"


def read_scored(work: Path, name: str, search: Search) -> Scored:
    """The logits that `run` kept."""
    with np.load(place(work, name, search)) as saved:
        return Scored(**saved)


def run(arguments: argparse.Namespace) -> None:
    """Score every candidate in this part's outer folds."""
    use_available_cores()
    labelled, searches = plan(arguments)
    caches = {False: FeatureCache.open(arguments.features), True: FeatureCache.open(arguments.crop)}
    cohorts = {crop: Patients.of(labelled, each) for crop, each in caches.items()}
    part, parts = map(int, arguments.part.split("/"))
    for search in searches[part - 1 :: parts]:
        for name, scored in of_search(arguments.work, cohorts, search):
            path = place(arguments.work, name, search)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                np.savez(file, **vars(scored))
            print(search.name, name, flush=True)


def of_search(work: Path, cohorts: dict[bool, Patients], search: Search) -> Iterator[tuple[str, Scored]]:
    """What is missing of an outer fold."""
    folds = cache(lambda crop, images: Fold(cohorts[crop], search, images))
    for name, candidate in CANDIDATES.items():
        if not place(work, name, search).exists():
            yield name, folds(candidate.crop, candidate.images).score(candidate.head)
    if not place(work, INSTANCES, search).exists():
        yield INSTANCES, instance_logistic(folds(False, None))


def plan(arguments: argparse.Namespace) -> tuple[Cohort, list[Search]]:
    """The labelled patients and the outer folds."""
    labelled = read_cohort(arguments.cohort, images=False).labelled()
    return labelled, plan_searches(labelled, replace(STUDY, repeats=arguments.repeats))[0][:-1]


def tables(arguments: argparse.Namespace, rule: str) -> dict[str, Table]:
    """The outer predictions of all candidates, and of what follows from them without training."""
    labelled, searches = plan(arguments)
    patients = Patients.of(labelled, FeatureCache.open(arguments.features))

    def of_logits(name: str, members: int, few: bool = False) -> Table:
        parts = []
        for search in searches:
            scored = read_scored(arguments.work, name, search)
            outside = scored.few if few else scored.outside
            logits = (each[:members].mean(0) for each in (scored.inside, outside))
            parts.append(decided(patients, search, *logits, rule))
        return Table.of(pd.concat(parts))

    found = {name: of_logits(name, STUDY.members) for name in (*CANDIDATES, INSTANCES)}
    found["one member"] = of_logits(REFERENCE, 1)
    found["16 images in scoring"] = of_logits(REFERENCE, STUDY.members, few=True)
    found["16 images in training and scoring"] = of_logits("16 images in training", STUDY.members, few=True)
    for name, predict in LOGISTICS.items():
        found[name] = Table.of(pd.concat([predict(arguments.work, patients, search) for search in searches]))
    return found


TRIALS = 15
WAYS: dict[
    str, tuple[int, Callable[[Curves, Curves, str], bool]]
] = {  # trials; whether the best replaces the defaults
    "the defaults alone": (1, surpasses),
    f"the best of {TRIALS} trials": (TRIALS, lambda best, defaults, objective: True),
    f"the best of {TRIALS} trials that surpasses the defaults": (TRIALS, surpasses),
}


def compare_ways(arguments: argparse.Namespace) -> None:
    """Print what each way to choose a configuration comes to on outer folds, as Markdown."""
    use_available_cores()
    cohort, features = read_cohort(arguments.cohort, images=False), FeatureCache.open(arguments.features)
    found: dict[str, Table] = {}
    print_row("way", *COLUMNS, *(f"{column} minus the defaults'" for column in COLUMNS))
    print_row(*["---"] * (1 + 2 * len(COLUMNS)))
    for name, (trials, better) in WAYS.items():
        tuning.surpasses = better
        config = replace(STUDY, trials=trials, repeats=arguments.repeats)
        folder = arguments.work / name.replace(" ", "-")
        tuning.tune(cohort, features, folder, config)
        found[name] = Table.of(read_predictions(folder / "predictions.csv"))
        scores, (plain, *_) = scores_with_intervals(found[name]), found.values()
        differs = [shown(paired(found[name], plain, column), "+") for column in COLUMNS]
        print_row(name, *(shown(scores[column]) for column in COLUMNS), *differs)


HEADS = (
    *COLUMNS,
    "log-loss minus reference",
    "s.e.",
    "AUC minus reference",
    "log-loss minus metadata logistic",
    "balanced accuracy minus metadata logistic",
)


def show(arguments: argparse.Namespace) -> None:
    """Print the candidates, and the threshold rules, as Markdown."""
    found = tables(arguments, STUDY.threshold)
    print_row("candidate", *HEADS)
    print_row(*["---"] * (1 + len(HEADS)))
    for name, each in found.items():
        scores = scores_with_intervals(each)
        differs = [paired(each, found[REFERENCE], metric) for metric in ("balanced_log_loss", "auc")]
        gains = [paired(each, found[RIVAL], metric) for metric in ("balanced_log_loss", "balanced_accuracy")]
        loss, *rest = (shown(difference, "+") for difference in (*differs, *gains))
        cells = [shown(scores[column]) for column in COLUMNS]
        print_row(name, *cells, loss, f"{differs[0]['error']:.3f}", *rest)
    print()
    print_row("threshold rule", "balanced accuracy of the reference", "mean of all candidates")
    print_row("---", "---", "---")
    for rule in THRESHOLDS:
        ruled = {name: each for name, each in tables(arguments, rule).items() if name not in LOGISTICS}
        values = [scores_with_intervals(each)["balanced_accuracy"]["value"] for each in ruled.values()]
        reference = scores_with_intervals(ruled[REFERENCE])["balanced_accuracy"]
        print_row(rule, shown(reference), f"{np.mean(values):.4f}")


def print_row(*cells: str) -> None:
    """A row of a Markdown table."""
    print("|", " | ".join(cells), "|", flush=True)


def paired(one: Table, other: Table, name: str) -> dict[str, float]:
    """The difference of two candidates in a metric, with its interval and standard error."""
    metric, alike = METRICS[name], np.ones((1, len(one.labels)))
    value, drawn = (
        one.scores(metric, weights) - other.scores(metric, weights)
        for weights in (alike, draw_patients(one.labels))
    )
    low, high = percentile_interval(drawn)
    return {"value": float(value[0]), "low": low, "high": high, "error": float(np.std(drawn))}


def shown(score: dict[str, Any], sign: str = "") -> str:
    """A score with its interval."""
    value, low, high = (format(score[name], f"{sign}.3f") for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


STEPS = {"run": run, "table": show, "search": compare_ways}


def main() -> None:
    """Run the candidates, or show what they came to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--features", type=Path, required=True, metavar="CACHE_FOLDER")
    parser.add_argument("--crop", type=Path, metavar="CACHE_FOLDER", help="of a centre crop, for run")
    parser.add_argument("--repeats", type=int, default=3, help="of the outer folds")
    parser.add_argument("--work", type=Path, default=Path("studies/defaults"), help="folder of the logits")
    parser.add_argument(
        "--part", default="1/1", metavar="I/N", help="of the outer folds, for another process"
    )
    arguments = parser.parse_args()
    if arguments.step == "run" and arguments.crop is None:
        parser.error("run needs --crop.")
    STEPS[arguments.step](arguments)


if __name__ == "__main__":
    main()
