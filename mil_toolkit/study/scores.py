"""From the predictions of a study's searches to scores.json (rules of evidence, 1 and 5 to 7)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit
from scipy.stats import spearmanr

from mil_toolkit.config import StudyConfig
from mil_toolkit.evaluation.calibration import fit_decision
from mil_toolkit.evaluation.intervals import Table, compare, optimism, reliability, scores_with_intervals
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.study.folder import Best, Study
from mil_toolkit.study.plan import Search
from mil_toolkit.study.rivals import RIVALS, Columns, rival_predictions
from mil_toolkit.study.tables import probability_table, read_predictions
from mil_toolkit.training.patients import Patients

# What scores.json says of patients that chose nothing.
HONEST = ("outer", "optimism", "rivals", "gains", "spread", "reliability", "bag_size", "bag_size_of_metadata")
METADATA = "metadata_logistic"  # the rival without images


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
    return None if found is None else probability_table(search, search.test, patients, *found)


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
