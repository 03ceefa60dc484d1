"""`ablate`: what each part of the model is worth, on patients that chose no variant.

A variant takes over every other setting of what its fold's search found best for the full model, which favours the
full model. A search of its own for each variant takes longer and does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from optuna.trial import FixedTrial
from tqdm import tqdm

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import FUSION_NAMES, POOLING_NAMES, HeadConfig, is_active, tunables
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.core.errors import DataError, Diverged, UsageError
from mil_toolkit.core.files import publish, publish_json
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.outputs import check_replaceable, published_folder
from mil_toolkit.core.seeds import MEMBERS, derive_seeds
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.intervals import Table, compare, scores_with_intervals
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.search.space import Space
from mil_toolkit.study.folder import Best, Study, epoch_lines, epochs_of, read_epochs
from mil_toolkit.study.plan import Search, plan_searches
from mil_toolkit.study.run import epoch_scores
from mil_toolkit.study.tables import PREDICTION_COLUMNS, outer_predictions, publish_table, read_predictions
from mil_toolkit.study.tune import tune
from mil_toolkit.training.curves import decide
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial

FULL, METADATA_ONLY = "full", "metadata-only"
EQUAL_BAGS = "equal-bags"  # the full model, scored on the same number of images of each patient
MOST_IMAGES = 16  # of that number; the smallest bag sets it where that has fewer
DRAW = MEMBERS + 1  # in the place of a trial's number: the seed that draws those images
TABLE = ("balanced_accuracy", "auc")  # the metrics of table.csv; scores.json has all
FILES = frozenset({"scores.json", "table.csv", "predictions", "epochs"})  # of ablation/
Change = Mapping[str, Any]
Epochs = Sequence[Mapping[str, float]]
VARIANTS: dict[str, Change] = {
    FULL: {},
    "images-only": {"metadata_branch": "none"},
    METADATA_ONLY: {"image_branch": False},
    "metadata-direct": {"metadata_branch": "direct"},
    "metadata-mlp": {"metadata_branch": "mlp"},
    **{f"pooling-{name}": {"pooling": name} for name in POOLING_NAMES},
    **{f"fusion-{name}": {"fusion": name} for name in FUSION_NAMES},
}


@dataclass(frozen=True)
class Variant:
    """One thing changed: settings, or the features (`source`: place among the feature folders)."""

    name: str
    change: Change
    source: int = 0


@dataclass(frozen=True)
class Chosen:
    """What a variant came to in one outer fold, whose test patients had no part in it."""

    config: HeadConfig
    epoch: int
    decision: Decision


@dataclass(frozen=True)
class Result:
    """A variant's choice in each outer fold, its outer predictions (PREDICTION_COLUMNS), and the training and
    validation scores after each epoch of what it chose, by fold."""

    chosen: Sequence[Chosen]
    predictions: pd.DataFrame
    epochs: Sequence[Epochs]


@dataclass(frozen=True)
class Ablation:
    """The published folder and what its scores.json says."""

    folder: Path
    scores: Mapping[str, Any]


def ablate(
    cohort: Cohort,
    caches: Sequence[FeatureCache | None],
    study_folder: Path,
    trials: int | None = None,
    device: str = "auto",
) -> Ablation:
    """Score every variant on the outer folds of a study, and publish the folder `ablation/` in the study's.

    caches: the study's own features first (None for metadata alone), then others, each of which is a variant
    trials: of a search of its own for each variant; None keeps the fold's best configuration but for the change
    An ablation that was stopped begins again; with searches of their own the variants go on where they stopped.
    Raises DataError where the study has no outer folds, has not ended or is of another cohort or other features;
    UsageError where two feature folders have the same name or ablation/ holds anything else; BusyError where another
    process works in the folder.
    """
    study = Study.open(study_folder)
    study.check(cohort, caches[0])
    if not study.config.outer_folds:
        raise DataError(
            f"{study_folder} has no outer folds, so that all its patients helped to choose. Run mil-tune with"
            " --outer-folds 5 into another --study."
        )
    check_replaceable(study_folder / "ablation", "an ablation", _foreign)  # before hours of work
    with exclusive(study_folder):
        run = _Run(study, cohort, caches, device)
        results = run.changed() if trials is None else run.tuned_anew(trials)
        if run.patients[0].bags is not None:
            results[EQUAL_BAGS] = run.equal_bags(results[FULL])
        scores = run.scores(results, trials)
        _publish(study_folder / "ablation", scores, results)
    return Ablation(study_folder / "ablation", scores)


class _Run:
    """One call of `ablate`: what its variants share."""

    def __init__(self, study: Study, cohort: Cohort, caches: Sequence[FeatureCache | None], device: str):
        self.study, self.config = study, study.config
        self.cohort, self.caches, self.device_name = cohort, caches, device
        self.device = pick_device(device)
        self.dtype = training_dtype(self.device)
        labelled = cohort.labelled()
        self.patients = [Patients.of(labelled, cache) for cache in caches]
        self.searches = plan_searches(labelled, study.config)[0][:-1]
        self.best = {each.name: Best.read(study.folder_of(each) / "best.json") for each in self.searches}
        variants = [Variant(name, change) for name, change in VARIANTS.items()]
        self.variants = {each.name: each for each in (*variants, *_other_features(caches))}
        self.left_out: dict[str, str] = {}
        for name, variant in self.variants.items():
            if any(_sees_nothing(self._configure(search, variant)) for search in self.searches):
                self.left_out[name] = "it would leave neither images nor metadata"

    def changed(self) -> dict[str, Result]:
        """Every variant by its fold's best configuration with the one thing changed."""
        with tqdm(total=len(self.variants) * len(self.searches), desc="variants", disable=None) as progress:
            folds = [self._fold(search, progress) for search in self.searches]
        return {name: _joined([fold[name] for fold in folds]) for name in self._left()}

    def tuned_anew(self, trials: int) -> dict[str, Result]:
        """Every variant by a search of its own in each fold: a study below `retuned/` that has the same splits."""
        return {name: self._tuned(self.variants[name], trials) for name in self._left()}

    def equal_bags(self, full: Result) -> Result:
        """The full model, fitted on whole bags, on as many images of each test patient as the smallest bag has.

        What it gains here over the metadata alone, the number of images cannot explain.
        """
        tables = [
            self._refitted(search, self.patients[0], chosen, self._thinned(search))
            for search, chosen in zip(self.searches, full.chosen, strict=True)
        ]
        return Result(full.chosen, pd.concat(tables), full.epochs)

    def scores(self, results: Mapping[str, Result], trials: int | None) -> dict[str, Any]:
        """What scores.json holds.

        variants: of each the `scores`, what differs from the full model (`difference`, variant minus full; null for
            the full model itself), and what it came to in each outer fold; `unchanged` where the fold's search
            chose the variant anyway, so that it is the full model and predicts the same
        gains: of the full model over the metadata alone, on whole and on equal bags
        left_out: why a variant has no scores
        """
        tables = {name: Table.of(each.predictions, self.config.prevalence) for name, each in results.items()}
        gains = [name for name in (FULL, EQUAL_BAGS) if name in tables and METADATA_ONLY in tables]
        return {
            "retuned": trials,
            "features": [cache and cache.folder.name for cache in self.caches],
            "images_of_equal_bags": self._images() if EQUAL_BAGS in tables else None,
            "variants": {
                name: {
                    "scores": scores_with_intervals(table),
                    "difference": None if name == FULL else compare(table, tables[FULL]),
                    "folds": self._folds(name, results),
                }
                for name, table in tables.items()
            },
            "gains": {name: compare(tables[name], tables[METADATA_ONLY]) for name in gains},
            "left_out": self.left_out,
        }

    def _left(self) -> list[str]:
        return [name for name in self.variants if name not in self.left_out]

    def _configure(self, search: Search, variant: Variant) -> HeadConfig:
        """The fold's best configuration with the change, fields without effect at their defaults.

        A field that has an effect only now takes the first value that the study allows it.
        """
        best = self.best[search.name].config
        allowed = {name: values[0] for name, values in self.config.settings.items()}
        values = asdict(best) | allowed | _active(best) | dict(variant.change)
        patients = self.patients[variant.source]
        fixed = {name: (value,) for name, value in values.items()}
        return Space(fixed, patients.bags is not None, not patients.metadata.empty).suggest(FixedTrial({}))

    def _fold(self, search: Search, progress: tqdm) -> dict[str, tuple[Chosen, pd.DataFrame, Epochs]]:
        """All variants in one outer fold; the same configuration is trained once."""
        found = {}
        for source in range(len(self.patients)):
            score = cache(partial(self._score, search, source, self._inputs(search, source)))
            for name in self._left():
                if self.variants[name].source == source:
                    try:
                        found[name] = score(self._configure(search, self.variants[name]))
                    except Diverged:
                        self.left_out[name] = f"it diverged in {search.name}"
                    progress.update()
        return found

    def _inputs(self, search: Search, source: int) -> Inputs:
        trains = [split.train for split in search.inner]
        return Inputs(self.patients[source].take(search.patients), trains, self.device, self.dtype)

    def _score(
        self, search: Search, source: int, inputs: Inputs, config: HeadConfig
    ) -> tuple[Chosen, pd.DataFrame, Epochs]:
        """A configuration's epoch, decision and refit from the fold's training patients, and its predictions.

        The seeds are those of the trial that won and of its members, so that the full model comes out as the
        study's own.
        """
        seed = self.study.seed(search, self.best[search.name].number)
        trial = run_trial(inputs, config, self.config.objective, seed)
        members = self.study.seed(search, MEMBERS)
        again = cross_fit_members(inputs, config, trial.epoch, self.config.members, members)
        decision = decide(again, self.config.threshold, self.config.sensitivity)
        chosen, patients = Chosen(config, trial.epoch, decision), self.patients[source]
        test = self._refitted(search, patients, chosen, patients.take(search.test))
        return chosen, test, epoch_scores(trial.curves)

    def _refitted(self, search: Search, patients: Patients, chosen: Chosen, test: Patients) -> pd.DataFrame:
        train, seed = patients.take(search.patients), self.study.seed(search, MEMBERS)
        members, device, dtype = self.config.members, self.device, self.dtype
        head = refit(train, chosen.config, chosen.epoch, members, seed, device, dtype)
        logits = head.apply(test).logits
        return outer_predictions(search, test, logits, chosen.decision)[PREDICTION_COLUMNS]

    def _tuned(self, variant: Variant, trials: int) -> Result:
        changed = {name: (value,) for name, value in variant.change.items()}
        config = replace(self.config, trials=trials, settings={**self.config.settings, **changed})
        folder = self.study.folder / "retuned" / str(trials) / variant.name
        study = tune(self.cohort, self.caches[variant.source], folder, config, self.device_name).study
        best = [Best.read(study.folder_of(search) / "best.json") for search in self.searches]
        chosen = [Chosen(each.config, each.epoch, each.decision) for each in best]
        epochs = [
            read_epochs(epochs_of(study.folder_of(search), each.number))
            for search, each in zip(self.searches, best, strict=True)
        ]
        return Result(chosen, read_predictions(folder / "predictions.csv"), epochs)

    def _images(self) -> int:
        bags = self.patients[0].bags
        assert bags is not None
        return min(MOST_IMAGES, int(bags.sizes.min()))

    def _thinned(self, search: Search) -> Patients:
        test = self.patients[0].take(search.test)
        assert test.bags is not None
        random = np.random.default_rng(derive_seeds(1, *self.study.seed(search, DRAW)))
        return replace(test, bags=thin(test.bags, self._images(), random))

    def _folds(self, name: str, results: Mapping[str, Result]) -> list[dict[str, Any]]:
        pairs = zip(self.searches, results[name].chosen, results[FULL].chosen, strict=True)
        own = name in self.variants and self.variants[name].source == 0
        return [
            {
                "repeat": search.path[0],
                "fold": search.path[1],
                "unchanged": own and chosen == full,
                "epoch": chosen.epoch,
                "threshold": chosen.decision.threshold,
            }
            for search, chosen, full in pairs
        ]


def thin(bags: Bags, count: int, random: np.random.Generator) -> Bags:
    """`count` instances of each bag, drawn without replacement; their order is kept."""
    places = [np.sort(random.permutation(size)[:count]) for size in bags.sizes.tolist()]
    starts = bags.offsets[:-1].numpy()
    rows = np.concatenate([start + each for start, each in zip(starts, places, strict=True)])
    names = tuple(bags.image_names[row] for row in rows)
    offsets = torch.arange(len(bags) + 1) * count
    return Bags(bags.instances[torch.from_numpy(rows)], offsets, bags.patient_ids, names)


def _other_features(caches: Sequence[FeatureCache | None]) -> list[Variant]:
    """A variant for each feature folder after the first, under the folder's name."""
    names = [None if each is None else each.folder.name for each in caches]
    if None in names[1:] or len(set(names)) < len(names):
        raise UsageError(
            "--features: give the study's own folder, then others, each once, and none only alone."
        )
    return [Variant(str(name), {}, source) for source, name in enumerate(names) if source]


def _active(config: HeadConfig) -> dict[str, Any]:
    """The fields that have an effect."""
    values: dict[str, Any] = {}
    for name, about in tunables(HeadConfig).items():
        if is_active(values, about):
            values[name] = getattr(config, name)
    return values


def _sees_nothing(config: HeadConfig) -> bool:
    return not config.image_branch and config.metadata_branch == "none"


def _joined(folds: Sequence[tuple[Chosen, pd.DataFrame, Epochs]]) -> Result:
    chosen, tables, epochs = zip(*folds, strict=True)
    return Result(chosen, pd.concat(tables), epochs)


def score_table(scores: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each variant of scores.json: what table.csv holds."""
    return pd.DataFrame([_row(name, variant) for name, variant in scores["variants"].items()])


def _row(name: str, variant: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"variant": name}
    differs = variant["difference"]
    for metric in TABLE:
        row |= _columns(metric, variant["scores"][metric])
        row |= _columns(f"{metric}_difference", differs["differences"][metric] if differs else {})
    unchanged = sum(fold["unchanged"] for fold in variant["folds"])
    discordant = differs["discordant"] if differs else None
    return row | {"discordant": discordant, "unchanged": unchanged, "folds": len(variant["folds"])}


def _columns(name: str, score: Mapping[str, Any]) -> dict[str, Any]:
    columns = {name: score.get("value"), f"{name}_low": score.get("low"), f"{name}_high": score.get("high")}
    return columns | ({f"{name}_p_value": score.get("p_value")} if name.endswith("difference") else {})


def _foreign(folder: Path) -> list[str]:
    """Names in a folder that `ablate` does not write."""
    return sorted({path.name for path in folder.iterdir()} - FILES)


def _publish(folder: Path, scores: Mapping[str, Any], results: Mapping[str, Result]) -> None:
    with published_folder(folder, "an ablation", _foreign) as building:
        publish_json(building / "scores.json", scores)
        publish_table(building / "table.csv", score_table(scores))
        for name, result in results.items():
            publish_table(building / "predictions" / f"{name}.csv", result.predictions)
            for fold, rows in zip(scores["variants"][name]["folds"], result.epochs, strict=True):
                path = building / "epochs" / name / "repeat{repeat}-fold{fold}.jsonl".format(**fold)
                publish(path, epoch_lines(rows))
