"""Shortcuts: what is associated with the label without a model of the images."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.evaluation.intervals import draw_patients, percentile_interval
from mil_toolkit.evaluation.metrics import METRICS, Predicted
from mil_toolkit.evaluation.splits import make_splits
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.study.associations import (
    DRAWS,
    Association,
    Labelled,
    association_of_numbers,
    association_of_words,
)
from mil_toolkit.study.candidates import Candidate, significant
from mil_toolkit.study.records import Finding

SMALLEST_CLASS = 2  # patients with a value of the column
SUSPICIOUS = 0.95  # AUC of one column, above which it may have been recorded after the diagnosis
_AT_ONCE = 2_000_000  # weights that are scored in one call

Figures = dict[str, float]  # an AUC and its 95 % interval: `value`, `low`, `high`


Search = Callable[[Cohort, FeatureCache | None, Labelled, int], Iterator[Candidate]]


def check_two_classes(cohort: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    """Find what predicts the label."""
    labelled = cohort.labelled()
    if len(np.unique(labelled.labels)) < 2:
        text = "shortcuts were not checked: the labelled patients do not include both classes."
        yield Finding("shortcuts", "unchecked", text)
        return
    yield from significant(_candidates(labelled, cache))


def check_survival(cohort: Cohort, cache: FeatureCache | None, baseline: str) -> Iterator[Finding]:
    """Find what predicts the event up to the horizon, without the patients censored before."""
    labelled = cohort.labelled()
    early = cohort.outcome.strata(labelled.labels)
    known = (early == 1) | (labelled.labels[:, 0] >= Survival.of(cohort.outcome).by)
    ids = [patient for patient, chosen in zip(labelled.patient_ids, known, strict=True) if chosen]
    if len(np.unique(early[known])) < 2:
        text = "shortcuts were not checked: not both patients with and without the event by the horizon."
        yield Finding("shortcuts", "unchecked", text)
        return
    label = "the event up to the horizon (positive) or later (negative) as the label"
    candidates = _candidates(replace(labelled.select(ids), labels=early[known]), cache)
    yield from significant([_about(candidate, label, baseline) for candidate in candidates])


def _candidates(labelled: Cohort, cache: FeatureCache | None) -> list[Candidate]:
    """Return the tests of what predicts labels of 0 and 1, both of which occur."""
    patients = Labelled(labelled.labels == 1, labelled.groups)
    draws = max(DRAWS, 100 * (1 + 2 * len(labelled.columns) + len(labelled.spellings)))
    return [each for search in SEARCHES for each in search(labelled, cache, patients, draws)]


def check_several_classes(cohort: Cohort, cache: FeatureCache | None, baseline: str) -> Iterator[Finding]:
    """Find what predicts each class against all others; the p-values are adjusted for all tests together."""
    labelled, names = cohort.labelled(), cohort.outcome.stratum_names
    if len(np.unique(labelled.labels)) < 2:
        text = "shortcuts were not checked: the labelled patients have fewer than two classes."
        yield Finding("shortcuts", "unchecked", text)
        return
    draws = max(DRAWS, 100 * len(names) * (1 + 2 * len(labelled.columns) + len(labelled.spellings)))
    candidates = [
        _about(candidate, f"{name} (positive) against all other classes", baseline)
        for number, name in names.items()
        for candidate in _of_class(labelled, cache, number, draws)
    ]
    yield from significant(candidates)


def _about(candidate: Candidate, label: str, baseline: str) -> Candidate:
    """Return the candidate whose text begins with what the label means, and names another baseline."""

    def describe() -> Finding:
        finding = candidate.describe()
        advice = finding.advice.replace("metadata_logistic", baseline)
        return replace(finding, text=f"{label}: {finding.text}", advice=advice)

    return replace(candidate, describe=describe)


def _of_class(labelled: Cohort, cache: FeatureCache | None, number: int, draws: int) -> Iterator[Candidate]:
    """Yield the tests of one class against all others."""
    labels = (labelled.labels == number).astype(int)
    patients = Labelled(labels == 1, labelled.groups)
    for search in SEARCHES:
        yield from search(replace(labelled, labels=labels), cache, patients, draws)


def area(values: np.ndarray, labels: np.ndarray, folds: np.ndarray | None = None) -> Figures:
    """Return the AUC of values (n,), within folds (n,) if given, with its 95 % interval over patients."""
    folds = np.zeros(len(labels)) if folds is None else folds
    predicted = Predicted(labels, values, values > 0, folds)
    metric = METRICS["auc"]
    draws = draw_patients(labels)
    parts = np.array_split(draws, 1 + draws.size // _AT_ONCE)
    low, high = percentile_interval(np.concatenate([metric.of(predicted, part) for part in parts]))
    return {"value": float(metric.of(predicted, np.ones(len(labels)))), "low": low, "high": high}


def _words(figures: Figures) -> str:
    return "AUC {value:.3f}, 95 % interval {low:.3f} to {high:.3f}".format(**figures)


def _bag_size(
    labelled: Cohort, cache: FeatureCache | None, patients: Labelled, draws: int
) -> Iterator[Candidate]:
    """Test whether the number of images predicts the label."""
    if cache is None:
        return
    has_images = np.array([bool(cache.versions(patient)) for patient in labelled.patient_ids], dtype=bool)
    patients = patients.take(has_images)
    named = [labelled.patient_ids[place] for place in np.flatnonzero(has_images)]
    sizes = np.array([bag.size for bag in cache.winners(named)], dtype=float)
    if patients.smaller_class < 1 or len(np.unique(sizes)) < 2:
        return
    association = association_of_numbers(sizes, patients, draws)
    yield Candidate(association, partial(_describe_bag_size, sizes, patients))


def _describe_bag_size(sizes: np.ndarray, patients: Labelled) -> Finding:
    figures = area(sizes, patients.positive.astype(int))
    text = f"the number of images alone predicts the label ({_words(figures)}"
    advice = "Compare with the baseline bag_size, and find out why the numbers of images differ."
    return Finding("bag size", "shortcut", text, advice, 1, figures=figures)


def _predictive_columns(
    labelled: Cohort, cache: FeatureCache | None, patients: Labelled, draws: int
) -> Iterator[Candidate]:
    """Test which metadata columns predict the label."""
    for column in labelled.columns:
        values = labelled.metadata[column.name]
        known = values.notna().to_numpy()
        if values.nunique() < 2 or patients.take(known).smaller_class < SMALLEST_CLASS:
            continue
        describe = partial(_describe_column, column.name, values, labelled.labels)
        yield Candidate(_association(values, patients, draws), describe)


def _describe_column(name: str, values: pd.Series, labels: np.ndarray) -> Finding:
    figures = column_area(values, labels) or {}
    advice = "Compare with the baseline metadata_logistic, which sees no images."
    if max(figures["value"], 1 - figures["value"]) >= SUSPICIOUS:
        advice = "Make sure that it was known before the diagnosis. " + advice
    text = f"{name} alone predicts the label ({_words(figures)}"
    return Finding("predictive column", "shortcut", text, advice, 1, (name,), figures)


def _association(values: pd.Series, patients: Labelled, draws: int) -> Association:
    """Test a column on the patients with a value."""
    known = values.notna().to_numpy()
    if pd.api.types.is_numeric_dtype(values):
        return association_of_numbers(values.to_numpy(float)[known], patients.take(known), draws)
    return association_of_words(values.to_numpy()[known], patients.take(known), draws)


def column_area(values: pd.Series, labels: np.ndarray) -> Figures | None:
    """Return how well a column predicts the label of the patients (n,) with a value; None if undefined.

    Numbers are used as they are (below 0.5: smaller values are positive). Categories are replaced by their
    share of positives among patients other than those it is applied to; otherwise rare categories would
    identify their own patients.
    """
    known = values.notna().to_numpy()
    values, labels = values[known], labels[known].astype(int)
    smaller = min((labels == 1).sum(), (labels == 0).sum())
    if values.nunique() < 2 or smaller < SMALLEST_CLASS:
        return None
    if pd.api.types.is_numeric_dtype(values):
        return area(values.to_numpy(float), labels)
    splits, _ = make_splits(labels, int(min(5, smaller)), seed=0, names=Binary().stratum_names)
    shares, folds = np.zeros(len(labels)), np.zeros(len(labels))
    for fold, split in enumerate(splits):
        of_category = pd.Series(labels[split.train]).groupby(values.to_numpy()[split.train]).mean()
        shares[split.test] = values.iloc[split.test].map(of_category).fillna(labels[split.train].mean())
        folds[split.test] = fold
    return area(shares, labels, folds)


def _missing_values(
    labelled: Cohort, cache: FeatureCache | None, patients: Labelled, draws: int
) -> Iterator[Candidate]:
    """Test which metadata columns have missing values that are associated with the label."""
    for column in labelled.columns:
        missing = labelled.metadata[column.name].isna().to_numpy()
        if missing.all() or not missing.any():
            continue
        describe = partial(_describe_missing_values, column.name, missing, patients.positive)
        yield Candidate(association_of_words(missing, patients, draws), describe)


def _describe_missing_values(name: str, missing: np.ndarray, positive: np.ndarray) -> Finding:
    shares = {"positive": float(missing[positive].mean()), "negative": float(missing[~positive].mean())}
    text = (
        f"missing values of {name} are associated with the label ({shares['positive']:.0%} of the positive"
        f" and {shares['negative']:.0%} of the negative patients"
    )
    advice = "The model sees which values are missing. Find out why, or leave the column out."
    return Finding("missingness", "shortcut", text, advice, int(missing.sum()), (name,), shares)


def _spellings(
    labelled: Cohort, cache: FeatureCache | None, patients: Labelled, draws: int
) -> Iterator[Candidate]:
    """Test in which metadata columns the way of writing a value is associated with the label."""
    for name, ways in labelled.spellings.items():
        known = np.array([way is not None for way in ways], dtype=bool)
        written, those = ways[known], patients.take(known)
        if len(set(written)) > 1:
            describe = partial(_describe_spellings, name, written, those.positive)
            yield Candidate(association_of_words(written, those, draws), describe)


def _describe_spellings(name: str, written: np.ndarray, positive: np.ndarray) -> Finding:
    counts = {way: int((written == way).sum()) for way in sorted(set(written))}
    positives = {way: int(positive[written == way].sum()) for way in counts}
    shares = ", ".join(f"{way}: {positives[way]} of {counts[way]} positive" for way in counts)
    text = f"the way in which {name} is written is associated with the label ({shares}"
    advice = (
        "The model does not see it, but these patients may come from different sources. Find out why, and"
        " make sure that both are read correctly."
    )
    figures = {way: positives[way] / counts[way] for way in counts}
    return Finding("way of writing", "shortcut", text, advice, min(counts.values()), (name,), figures)


SEARCHES: tuple[Search, ...] = (_bag_size, _predictive_columns, _missing_values, _spellings)
