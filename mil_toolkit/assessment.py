# Floor 3.2: what a study is worth: predictions, their scores beside the rivals', the inner score's optimism.
"""From the predictions of a study's searches to scores.json (rules of evidence, 1 and 5 to 7)."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from scipy.special import logit
from scipy.stats import spearmanr

from mil_toolkit.calibration import Decision, fit_decision
from mil_toolkit.errors import DataError
from mil_toolkit.evaluation import Table, compare, optimism, reliability, scores_with_intervals
from mil_toolkit.files import publish
from mil_toolkit.hparams import StudyConfig
from mil_toolkit.inputs import Patients
from mil_toolkit.metrics import METRICS
from mil_toolkit.nested import Diverged
from mil_toolkit.rivals import RIVALS, Columns, rival_predictions
from mil_toolkit.study import Best, Search, Study

PREDICTION_COLUMNS = ["repeat", "fold", "patient_id", "label", "probability", "prediction"]
ATTENTION = "attention.csv"  # of an outer fold, in its folder; without outer folds that of the validation
# What scores.json says of patients that chose nothing.
HONEST = ("outer", "optimism", "rivals", "gains", "spread", "reliability", "bag_size", "bag_size_of_metadata")
METADATA = "metadata_logistic"  # the rival without images
_WHOLE, _TEXT = ("repeat", "fold", "label", "prediction"), ("patient_id", "image")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how what a spreadsheet computes begins
_TYPES: dict[str, type] = dict.fromkeys(_WHOLE, int) | dict.fromkeys(_TEXT, str)  # all others: float


def prediction_table(
    search: Search, places: np.ndarray, patients: Patients, logits: np.ndarray, decision: Decision
) -> pd.DataFrame:
    """Predictions of the patients at `places` (n,) from their logits (n,): PREDICTION_COLUMNS."""
    probabilities = decision.probabilities(logits)
    return _table(search, places, patients, probabilities, probabilities >= decision.threshold)


def _table(
    search: Search, places: np.ndarray, patients: Patients, probabilities: np.ndarray, decisions: np.ndarray
) -> pd.DataFrame:
    repeat, fold = search.path
    ids = [patients.ids[place] for place in places]
    values = (repeat, fold, ids, patients.labels[places], probabilities, decisions.astype(int))
    return pd.DataFrame(dict(zip(PREDICTION_COLUMNS, values, strict=True)))


def outer_predictions(search: Search, test: Patients, logits: np.ndarray, decision: Decision) -> pd.DataFrame:
    """Predictions of an outer fold's test patients from the members' logits (K, n), by their mean and by each alone.

    PREDICTION_COLUMNS, `threshold`, then the probability by each member as `member1`, `member2`, ... Raises
    Diverged where a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise Diverged(f"{search.name}: the refitted model diverged. Limit learning_rate by --set.")
    table = prediction_table(search, np.arange(len(test)), test, logits.mean(0), decision)
    alone = decision.probabilities(logits)
    members = {f"member{number}": values for number, values in enumerate(alone, 1)}
    return table.assign(threshold=decision.threshold, **members)


def attention_table(patients: Patients, attention: np.ndarray | None) -> pd.DataFrame | None:
    """What each image weighed (N,) as `patient_id`, `image`, `attention`; None without images."""
    if attention is None or patients.bags is None:
        return None
    ids = np.repeat(patients.ids, patients.bags.sizes.numpy())
    return pd.DataFrame({"patient_id": ids, "image": patients.bags.image_names, "attention": attention})


def outer_attention(folder: Path) -> pd.DataFrame | None:
    """What each image weighed in the models of a study's outer folds, none of which saw its patient.

    `repeat`, `fold`, `patient_id`, `image`, `attention`, which sums to one in each patient and repeat; None where no
    model looked at images. Raises DataError where a file cannot be read.
    """
    paths = sorted((folder / "outer").glob(f"*/{ATTENTION}"))
    return pd.concat(map(read_predictions, paths), ignore_index=True) if paths else None


def publish_table(path: Path, table: pd.DataFrame) -> None:
    """Publish a table as CSV: numbers keep all their digits, names with bytes that are no UTF-8 keep those.

    Text that a spreadsheet would take for a formula gets an apostrophe before it, which `read_predictions` takes
    away again.
    """
    texts = {str(name): each.map(defused) for name, each in table.items() if not is_numeric_dtype(each)}
    publish(path, table.assign(**texts).to_csv(index=False).encode(errors="surrogateescape"))


def defused(text: Any) -> Any:
    """Text that no spreadsheet takes for a formula; what could be mistaken for such text gets an apostrophe too."""
    return f"'{text}" if isinstance(text, str) and _FORMULA.match(text) else text


def _as_it_was(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a table of predictions or of attention, ids and names as text; raises DataError where it cannot be read."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
        for name in set(_TEXT) & set(table):
            table[name] = table[name].map(_as_it_was)
        # Unlike pandas' own parser this is exact to the last bit.
        return table.astype({name: _TYPES.get(name, float) for name in map(str, table)})
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def study_scores(
    study: Study, best: Best, patients: Patients, searches: Sequence[Search], outer: Sequence[pd.DataFrame]
) -> dict[str, Any]:
    """What scores.json holds; all but `training` and `inner` are null without outer folds.

    passed_over: what the final search did not choose though its value was best, as in `Best`
    inner: of the final search's out-of-fold predictions, which chose the configuration, epoch and threshold
    outer: of patients that chose nothing; optimism: inner minus outer
    rivals: the trivial rivals' outer scores; gains: the model's minus each rival's, paired
    spread: standard deviations of the outer scores over single members (seeds) and over repeats (splits)
    reliability: the curve of the outer probabilities
    bag_size: rank correlation of the logit with the number of images, within each class; bag_size_of_metadata: that
        of the metadata logistic, which sees no image: as much of it goes by way of the clinical values
    """
    config = study.config
    inner = Table.of(read_predictions(study.folder / "out_of_fold.csv"), config.prevalence)
    scores = {
        "epoch": best.epoch,
        "passed_over": best.passed_over,
        "training": dict(best.training),
        "inner": scores_with_intervals(inner),
    }
    if not outer:
        return scores | dict.fromkeys(HONEST)
    rivals = rival_tables(config, patients, searches[:-1])
    return scores | honest_scores(inner, pd.concat(outer), patients, rivals)


def honest_scores(
    inner: Table, predictions: pd.DataFrame, patients: Patients, rivals: Mapping[str, Table]
) -> dict[str, Any]:
    """What is worth what of outer predictions: HONEST, as in `study_scores`. The rivals predict the same patients."""
    table = Table.of(predictions, inner.prevalence)
    both = [patient for patient in inner.patient_ids if patient in table.patient_ids]
    found = (
        scores_with_intervals(table),
        optimism(inner.select(both), table.select(both)),
        {name: scores_with_intervals(rival) for name, rival in rivals.items()},
        {name: compare(table, rival) for name, rival in rivals.items()},
        _spread(predictions, table),
        reliability(table),
        _bag_size(patients, table),
        _bag_size(patients, rivals[METADATA]) if METADATA in rivals else None,
    )
    return dict(zip(HONEST, found, strict=True))


def rival_tables(config: StudyConfig, patients: Patients, searches: Sequence[Search]) -> dict[str, Table]:
    """The outer predictions of each trivial rival that has something to look at."""
    tables = {}
    for name, columns in RIVALS.items():
        parts = [_rival(columns, config, patients, search) for search in searches]
        if all(part is not None for part in parts):
            tables[name] = Table.of(pd.concat(parts), config.prevalence)
    return tables


def _rival(columns: Columns, config: StudyConfig, patients: Patients, search: Search) -> pd.DataFrame | None:
    decide = partial(fit_decision, rule=config.threshold, sensitivity=config.sensitivity)
    found = rival_predictions(
        columns, patients, search.patients, search.test, search.inner, config.objective, decide
    )
    return None if found is None else _table(search, search.test, patients, *found)


def _spread(predictions: pd.DataFrame, table: Table) -> dict[str, dict[str, float | None]]:
    """Standard deviations of each metric over single members, and over the repeats of the averaged ones."""
    members = [name for name in predictions.columns if name.startswith("member")]
    alone = [Table.of(_of_member(predictions, name), table.prevalence) for name in members]
    alike = np.ones((1, len(table.labels)))
    found = {}
    for name, metric in METRICS.items():
        over_seeds = [float(each.scores(metric, alike)[0]) for each in alone]
        over_splits = [float(metric.of(each, alike)[0]) for each in table.repeats()]
        found[name] = {"seeds": _deviation(over_seeds), "splits": _deviation(over_splits)}
    return found


def _of_member(predictions: pd.DataFrame, member: str) -> pd.DataFrame:
    decided = (predictions[member] >= predictions["threshold"]).astype(int)
    return predictions.assign(probability=predictions[member], prediction=decided)


def _deviation(scores: Sequence[float]) -> float | None:
    return float(np.std(scores, ddof=1)) if len(scores) > 1 and np.isfinite(scores).all() else None


def _bag_size(patients: Patients, table: Table) -> dict[str, float | None] | None:
    """Spearman's correlation of the mean logit with the number of images, within each class."""
    if patients.bags is None:
        return None
    sizes = dict(zip(patients.bags.patient_ids, patients.bags.sizes.tolist(), strict=True))
    images = np.array([sizes[patient] for patient in table.patient_ids])
    logits = logit(np.clip(table.probabilities, 1e-12, 1 - 1e-12)).mean(0)
    found = {}
    for label, name in ((1, "positive"), (0, "negative")):
        chosen = table.labels == label
        varies = len(set(images[chosen])) > 1 and len(set(logits[chosen])) > 1
        found[name] = float(spearmanr(logits[chosen], images[chosen]).statistic) if varies else None
    return found
