"""Shortcuts to an outcome that is a number: what is associated with it without a model of the images."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.associations import (
    DRAWS,
    Labelled,
    rank_association_of_numbers,
    rank_association_of_words,
)
from mil_toolkit.study.candidates import Candidate, significant
from mil_toolkit.study.records import Finding

FEWEST = 4  # patients with a value of the column
WAY_OF_WRITING = (
    "The model does not see it, but these patients may come from different sources. Find out why, and make"
    " sure that all are read correctly."
)
SUSPICIOUS = 0.95  # rank correlation, above which the column may have been derived from the target


def check_number(cohort: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    """Find what predicts the target: columns, missing values, ways of writing and the number of images."""
    labelled = cohort.labelled()
    if len(np.unique(labelled.labels)) < 2:
        yield Finding("shortcuts", "unchecked", "shortcuts were not checked: all targets are equal.")
        return
    draws = max(DRAWS, 100 * (1 + 2 * len(labelled.columns) + len(labelled.spellings)))
    candidates = [*_bag_size(labelled, cache, draws), *_columns(labelled, draws)]
    yield from significant([*candidates, *_spellings(labelled, draws)])


def _targets(labelled: Cohort, chosen: np.ndarray) -> Labelled:
    """Return the ranks of the targets of the chosen patients (a mask), with their groups."""
    groups = None if labelled.groups is None else labelled.groups[chosen]
    return Labelled(rankdata(labelled.labels[chosen]), groups)


def _bag_size(labelled: Cohort, cache: FeatureCache | None, draws: int) -> Iterator[Candidate]:
    if cache is None:
        return
    has_images = np.array([bool(cache.versions(patient)) for patient in labelled.patient_ids], dtype=bool)
    named = [labelled.patient_ids[place] for place in np.flatnonzero(has_images)]
    sizes = np.array([bag.size for bag in cache.winners(named)], dtype=float)
    targets = _targets(labelled, has_images)
    if len(sizes) < FEWEST or min(len(np.unique(sizes)), len(np.unique(targets.positive))) < 2:
        return
    association = rank_association_of_numbers(sizes, targets, draws)
    yield Candidate(association, partial(_describe_bag_size, sizes, targets.positive))


def _describe_bag_size(sizes: np.ndarray, ranks: np.ndarray) -> Finding:
    value = float(spearmanr(sizes, ranks).statistic)
    text = f"the number of images alone predicts the target (Spearman correlation {value:.3f}"
    advice = "Compare with the baseline bag_size, and find out why the numbers of images differ."
    return Finding("bag size", "shortcut", text, advice, 1, figures={"value": value})


def _columns(labelled: Cohort, draws: int) -> Iterator[Candidate]:
    for column in labelled.columns:
        values = labelled.metadata[column.name]
        known = values.notna().to_numpy()
        targets = _targets(labelled, known)
        if known.sum() >= FEWEST and values.nunique() > 1 and len(np.unique(targets.positive)) > 1:
            yield _of_values(column.name, values[known], targets, draws)
        if known.any() and not known.all():
            everyone = _targets(labelled, np.ones(len(known), dtype=bool))
            describe = partial(_describe_missing, column.name, known, labelled.labels)
            yield Candidate(rank_association_of_words(known, everyone, draws), describe)


def _of_values(name: str, values: pd.Series, targets: Labelled, draws: int) -> Candidate:
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(float)
        figure, value = "Spearman correlation", float(spearmanr(numbers, targets.positive).statistic)
        association = rank_association_of_numbers(numbers, targets, draws)
    else:
        figure, value = "correlation ratio of the ranks", _correlation_ratio(values, targets.positive)
        association = rank_association_of_words(values.to_numpy(), targets, draws)
    return Candidate(association, partial(_describe_column, name, figure, value))


def _correlation_ratio(words: pd.Series, ranks: np.ndarray) -> float:
    """Return the square root of the share of the ranks' variance that lies between the words."""
    of_words = pd.Series(ranks).groupby(words.to_numpy()).transform("mean")
    return float(np.std(of_words) / np.std(ranks))


def _describe_column(name: str, figure: str, value: float) -> Finding:
    advice = "Compare with the baseline metadata_ridge, which sees no images."
    if abs(value) >= SUSPICIOUS:
        advice = "Make sure that it was not derived from the target, or recorded after it. " + advice
    text = f"{name} alone predicts the target ({figure} {value:.3f}"
    return Finding("predictive column", "shortcut", text, advice, 1, (name,), {"value": value})


def _describe_missing(name: str, known: np.ndarray, targets: np.ndarray) -> Finding:
    medians = {"missing": float(np.median(targets[~known])), "known": float(np.median(targets[known]))}
    text = (
        f"missing values of {name} are associated with the target (median {medians['missing']:.4g} where"
        f" missing, {medians['known']:.4g} where known"
    )
    advice = "The model sees which values are missing. Find out why, or leave the column out."
    return Finding("missingness", "shortcut", text, advice, int((~known).sum()), (name,), medians)


def _spellings(labelled: Cohort, draws: int) -> Iterator[Candidate]:
    """Test in which metadata columns the way of writing a value is associated with the target."""
    for name, ways in labelled.spellings.items():
        known = np.array([way is not None for way in ways], dtype=bool)
        written, targets = ways[known], _targets(labelled, known)
        if len(set(written)) > 1 and len(np.unique(targets.positive)) > 1:
            describe = partial(_describe_spellings, name, written, labelled.labels[known])
            yield Candidate(rank_association_of_words(written, targets, draws), describe)


def _describe_spellings(name: str, written: np.ndarray, targets: np.ndarray) -> Finding:
    medians = {way: float(np.median(targets[written == way])) for way in sorted(set(written))}
    shown = ", ".join(f"{way}: median {median:.4g}" for way, median in medians.items())
    text = f"the way in which {name} is written is associated with the target ({shown}"
    count = min(int((written == way).sum()) for way in medians)
    return Finding("way of writing", "shortcut", text, WAY_OF_WRITING, count, (name,), medians)
