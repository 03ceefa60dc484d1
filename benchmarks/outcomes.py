"""Score each kind of outcome on public data sets beside a linear model, and on noise beside chance.

    python benchmarks/outcomes.py [--only TEXT] [--trials N] [--json]
    python benchmarks/outcomes.py --noise [--sets N] [--only TEXT] [--json]

Every data set becomes a cohort with a table, and is scored by nested cross-validation (five outer folds,
three inner folds) as mil-tune does it. "baseline" is the linear model that each study scores on the same
folds. "library" is a model of scikit-learn or scikit-survival in five-fold cross-validation on folds of its
own, without this package. The data sets are those that scikit-learn and scikit-survival ship:

- GBSG2 (686 patients) and WHAS500 (500 patients): survival, by metadata only.
- wine (178 wines of three cultivars): classes, by metadata only.
- digits (1,797 images of 8 x 8 pixels): classes, by 500 bags of two to four images of one digit. No image
  is in two bags.
- diabetes (442 patients): the progression as a number, and its thirds as ordered classes, by metadata only.

With --noise, each kind is scored on sets of 60 patients whose four columns say nothing about the outcome. The
mean score over all sets should differ from chance by no more than its standard error explains.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from array_cohorts import (  # type: ignore[import-not-found]  # the script beside this one
    Data,
    write_bags,
    write_cohort,
)
from sklearn.datasets import load_diabetes, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import cohen_kappa_score, make_scorer
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mil_toolkit.config.study import StudyConfig
from mil_toolkit.study.by_outcome import metadata_rivals
from mil_toolkit.study.tune import Tuned, tune

SEED, OUTER, INNER, TRIALS = 7, 5, 3, 5
BAGS, BAG_SIZES = 500, (2, 3, 4)
NOISE_PATIENTS, NOISE_COLUMNS, NOISE_SETS = 60, 4, 20


@dataclass(frozen=True)
class Reference:
    """A public data set and what its scores are compared with.

    metrics: that are shown, the one of the library first
    published: figures of others by metric, with their sources; if there are none, the figure of a library is
        the baseline on the same folds
    baseline: that of the study; None for the one on the metadata
    """

    name: str
    kind: str
    load: Callable[[], Data]
    metrics: tuple[str, ...]
    library: Callable[[Data], float]
    library_name: str
    published: Mapping[str, str] = field(default_factory=dict)
    baseline: str | None = None


def study_of(data: Data, config: StudyConfig) -> Tuned:
    """Run a study in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        cohort = write_cohort(Path(name), data)
        features = write_bags(Path(name), data.bags, cohort.patient_ids) if data.bags else None
        return tune(cohort, features, Path(name) / "study", config, "cpu")


# Public data sets.


def of_survival(loaded: tuple[pd.DataFrame, np.ndarray], horizon: float) -> Data:
    """Return a data set of scikit-survival."""
    x, y = loaded
    event, time = list(y.dtype.names or [])
    outcome = pd.DataFrame({"TIME": y[time], "EVENT": y[event].astype(int)})
    x = x.assign(**{str(name): x[name].astype(str) for name in x.select_dtypes("category")})
    return Data(outcome, x, {"time": '"TIME"', "event": '"EVENT"', "horizon": f"{horizon:g}"})


def gbsg2() -> Data:
    """German Breast Cancer Study Group 2; recurrence-free survival in days."""
    from sksurv.datasets import load_gbsg2  # an extra, without which the script still explains itself

    return of_survival(load_gbsg2(), 1825)


def whas500() -> Data:
    """Worcester Heart Attack Study; survival after the admission in days."""
    from sksurv.datasets import load_whas500

    return of_survival(load_whas500(), 730)


def of_classes(labels: np.ndarray, inputs: pd.DataFrame, bags: tuple[np.ndarray, ...] = ()) -> Data:
    """Return a data set with classes 0 to C - 1."""
    words = ", ".join(map(str, np.unique(labels)))
    return Data(pd.DataFrame({"LABEL": labels}), inputs, {"label": '"LABEL"', "classes": f"[{words}]"}, bags)


def wine() -> Data:
    """The cultivars of wines by their chemistry."""
    loaded = load_wine(as_frame=True)
    return of_classes(loaded.target.to_numpy(), loaded.data)


def digits() -> Data:
    """Bags of images that all show the digit which is the class."""
    random = np.random.default_rng(SEED)
    loaded = load_digits()
    unused = [list(random.permutation(np.flatnonzero(loaded.target == digit))) for digit in range(10)]
    labels = np.arange(BAGS) % 10
    sizes = [BAG_SIZES[bag // 10 % len(BAG_SIZES)] for bag in range(BAGS)]
    rows = [[unused[label].pop() for _ in range(size)] for label, size in zip(labels, sizes, strict=True)]
    return of_classes(labels, pd.DataFrame(index=range(BAGS)), tuple(loaded.data[bag] / 16 for bag in rows))


def diabetes() -> Data:
    """The progression of diabetes after a year."""
    loaded = load_diabetes(as_frame=True, scaled=False)
    return Data(pd.DataFrame({"TARGET": loaded.target}), loaded.data, {"target": '"TARGET"'})


def diabetes_thirds() -> Data:
    """The progression of diabetes in thirds."""
    data = diabetes()
    thirds = pd.qcut(data.outcome["TARGET"], 3, labels=False).to_numpy()
    ordered = of_classes(thirds, data.inputs)
    return Data(ordered.outcome, data.inputs, {**ordered.keys, "ordered": "true"})


# The same data sets without this package.


def by_cox(data: Data) -> float:
    """Return the mean concordance of Cox regression over five folds."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.preprocessing import OneHotEncoder

    words = data.inputs.select_dtypes(exclude="number")
    columns = data.inputs.assign(**{str(name): words[name].astype("category") for name in words})
    pairs = zip(data.outcome["EVENT"] == 1, data.outcome["TIME"], strict=True)
    y = np.array(list(pairs), dtype=[("event", bool), ("time", float)])
    model = make_pipeline(OneHotEncoder(), StandardScaler(), CoxPHSurvivalAnalysis(alpha=0.1))
    splits = StratifiedKFold(OUTER, shuffle=True, random_state=SEED).split(columns, y["event"])
    return float(np.mean(cross_val_score(model, columns, y, cv=list(splits))))


def by_logistic(data: Data) -> float:
    """Return the balanced accuracy of multinomial logistic regression over five folds."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return _of_classes(model, data.inputs.to_numpy(), data, "balanced_accuracy")


def by_vectors(data: Data) -> float:
    """Return the balanced accuracy of a support vector machine on the mean image over five folds."""
    x = np.stack([bag.mean(0) for bag in data.bags]) * 16
    return _of_classes(SVC(gamma=0.001), x, data, "balanced_accuracy")


def by_logistic_kappa(data: Data) -> float:
    """Return the quadratic kappa of multinomial logistic regression over five folds."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    scorer = make_scorer(cohen_kappa_score, weights="quadratic")
    return _of_classes(model, data.inputs.to_numpy(), data, scorer)


def _of_classes(model: object, x: np.ndarray, data: Data, scoring: object) -> float:
    folds = StratifiedKFold(OUTER, shuffle=True, random_state=SEED)
    return float(np.mean(cross_val_score(model, x, data.outcome["LABEL"], cv=folds, scoring=scoring)))


def by_ridge(data: Data) -> float:
    """Return the coefficient of determination of ridge regression over five folds."""
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 11)))
    folds = KFold(OUTER, shuffle=True, random_state=SEED)
    return float(np.mean(cross_val_score(model, data.inputs, data.outcome["TARGET"], cv=folds, scoring="r2")))


SURVIVAL = ("concordance_harrell", "concordance_uno", "integrated_brier")
CLASSES = ("balanced_accuracy", "macro_auc", "balanced_log_loss")
COX, LOGISTIC = "scikit-survival, Cox", "scikit-learn, logistic regression"
QUARTER = "one held-out quarter; scikit-survival's user guide, Evaluating Survival Models"
SAME_FOLDS = "library figure: baseline of the same folds"
REFERENCES = (
    Reference(
        *("gbsg2", "survival", gbsg2, SURVIVAL, by_cox, COX),
        published={
            "concordance_harrell": f"0.688, elastic-net Cox, 0.692, random survival forest ({QUARTER})",
            "integrated_brier": f"0.189, elastic-net Cox, 0.192, forest, 0.217, Kaplan-Meier ({QUARTER})",
        },
    ),
    Reference("whas500", "survival", whas500, SURVIVAL, by_cox, COX),
    Reference(
        *("wine", "classes", wine, CLASSES, by_logistic, LOGISTIC),
        published={
            "balanced_accuracy": "0.989, accuracy of linear discriminant analysis, leave-one-out"
            " (Aeberhard et al. 1992, Technical Report 92-02, James Cook University)"
        },
    ),
    Reference(
        *("digits", "classes", digits, CLASSES, by_vectors, "scikit-learn, SVC on the mean image"),
        published={"balanced_accuracy": "0.97, accuracy of an SVC on single images (scikit-learn's example)"},
        baseline="mean_multinomial",
    ),
    Reference(
        *("diabetes thirds", "ordered", diabetes_thirds, ("quadratic_kappa", "rank_error", "macro_auc")),
        *(by_logistic_kappa, LOGISTIC),
    ),
    Reference(
        *("diabetes", "number", diabetes, ("r2", "mae", "spearman"), by_ridge, "scikit-learn, ridge"),
        published={
            "r2": "0.356, ridge on one held-out quarter (scikit-learn's user guide, permutation importance)"
        },
    ),
)


@dataclass(frozen=True)
class Row:
    """A metric of a data set: ours with its interval, the baseline on the same folds, and the library."""

    data: str
    metric: str
    ours: float
    low: float
    high: float
    baseline: float
    baseline_name: str
    library: float | None
    library_name: str
    published: str


def compare(reference: Reference, trials: int) -> Iterator[Row]:
    """Yield the scores of a data set."""
    data = reference.load()
    config = StudyConfig(trials=trials, folds=INNER, outer_folds=OUTER, members=3, seed=SEED)
    scores = study_of(data, config).scores
    name = reference.baseline or metadata_rivals(reference.kind)[0]
    assert scores.outer is not None and scores.rivals is not None
    for number, metric in enumerate(reference.metrics):
        ours, baseline = scores.outer[metric], scores.rivals[name][metric]
        first = number == 0
        published = reference.published.get(metric, "" if reference.published else SAME_FOLDS * first)
        yield Row(
            *(reference.name, metric, _float(ours.value), _float(ours.low), _float(ours.high)),
            *(_float(baseline.value), name, reference.library(data) if first else None),
            *(reference.library_name if first else "", published),
        )


def _float(value: float | None) -> float:
    return float("nan") if value is None else value


def print_references(rows: list[Row]) -> None:
    """Print the comparison as a table in Markdown."""
    print("| data | metric | ours | baseline, same folds | library, own folds | published |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        library = "" if row.library is None else f"{row.library:.3f} ({row.library_name})"
        ours = f"{row.ours:.3f} ({row.low:.3f} to {row.high:.3f})"
        baseline = f"{row.baseline:.3f} (`{row.baseline_name}`)"
        print(f"| {row.data} | `{row.metric}` | {ours} | {baseline} | {library} | {row.published} |")


# Noise.


def noise(kind: str, random: np.random.Generator) -> Data:
    """Draw columns and an outcome that are independent of each other."""
    inputs = pd.DataFrame(random.normal(size=(NOISE_PATIENTS, NOISE_COLUMNS))).add_prefix("x")
    if kind == "number":
        return Data(
            pd.DataFrame({"TARGET": random.normal(size=NOISE_PATIENTS)}), inputs, {"target": '"TARGET"'}
        )
    if kind == "survival":
        times = 1000 * random.exponential(size=NOISE_PATIENTS) + 1
        events = (random.random(NOISE_PATIENTS) < 0.6).astype(int)
        keys = {"time": '"TIME"', "event": '"EVENT"', "horizon": "800"}
        return Data(pd.DataFrame({"TIME": times, "EVENT": events}), inputs, keys)
    classes = 2 if kind == "binary" else 3
    data = of_classes(random.permutation(np.arange(NOISE_PATIENTS) % classes), inputs)
    if kind == "binary":
        return Data(data.outcome, inputs, {"label": '"LABEL"', "positive": "1", "negative": "0"})
    return Data(data.outcome, inputs, data.keys if kind == "classes" else {**data.keys, "ordered": "true"})


CHANCE: dict[str, dict[str, float]] = {
    "binary": {"auc": 0.5, "balanced_accuracy": 0.5},
    "classes": {"macro_auc": 0.5, "balanced_accuracy": 1 / 3, "kappa": 0.0},
    "ordered": {"macro_auc": 0.5, "balanced_accuracy": 1 / 3, "quadratic_kappa": 0.0},
    "number": {"concordance": 0.5, "spearman": 0.0},
    "survival": {"concordance_harrell": 0.5, "concordance_uno": 0.5},
}
"""The expected scores of predictions that say nothing, by kind of outcome."""


@dataclass(frozen=True)
class Chance:
    """The mean of a score over sets of noise, its standard error, and what chance gives."""

    kind: str
    metric: str
    chance: float
    mean: float
    error: float
    sets: int

    @property
    def deviation(self) -> float:
        """The difference from chance in standard errors."""
        return (self.mean - self.chance) / self.error


def noise_scores(kind: str, sets: int, epochs: int = 20) -> Iterator[Chance]:
    """Yield the scores of a kind of outcome on noise."""
    config = StudyConfig(trials=2, folds=3, outer_folds=3, members=1, settings={"epochs": (epochs,)})
    scores = []
    for number in range(sets):
        drawn = noise(kind, np.random.default_rng([SEED, number]))
        outer = study_of(drawn, config).scores.outer
        assert outer is not None
        scores.append({metric: _float(outer[metric].value) for metric in CHANCE[kind]})
    for metric, chance in CHANCE[kind].items():
        values = np.array([score[metric] for score in scores])
        error = float(values.std(ddof=1) / np.sqrt(sets))
        yield Chance(kind, metric, chance, float(values.mean()), error, sets)


def print_noise(rows: list[Chance]) -> None:
    """Print the scores on noise as a table in Markdown."""
    print("| kind | metric | chance | mean | standard error | deviation in errors |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        shown = f"{row.chance:.3f} | {row.mean:.3f} | {row.error:.3f} | {row.deviation:+.1f}"
        print(f"| {row.kind} | `{row.metric}` | {shown} |")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="data sets or kinds with this in their name"
    )
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each search")
    parser.add_argument("--noise", action="store_true", help="score noise instead of the public data sets")
    parser.add_argument("--sets", type=int, default=NOISE_SETS, help="of noise for each kind, at least two")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.noise:
        chances = [
            row for kind in CHANCE if arguments.only in kind for row in noise_scores(kind, arguments.sets)
        ]
        if arguments.json:
            print(json.dumps([{**asdict(row), "deviation": row.deviation} for row in chances], indent=1))
        else:
            print_noise(chances)
        return
    chosen = [reference for reference in REFERENCES if arguments.only in reference.name]
    rows = [row for reference in chosen for row in compare(reference, arguments.trials)]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print_references(rows)


if __name__ == "__main__":
    main()
