"""The scores of an ablation, from the choices and predictions of its variants."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pandas as pd

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.evaluation.intervals import Table, compare, scores_with_intervals
from mil_toolkit.evaluation.multiplicity import holm
from mil_toolkit.evaluation.records import Comparison, Difference, Estimate
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.study.folder import EpochScores
from mil_toolkit.study.records import AblationScores, VariantFold, VariantScores
from mil_toolkit.study.variants import EQUAL_BAGS, FULL, METADATA_ONLY

_TABLE_METRICS = (  # beside the primary one; scores.json has all metrics
    *("balanced_accuracy", "auc"),
    *("macro_auc",),
    *("rmse", "r2"),
)
NO_DIFFERENCE = Difference(None, None, None, None)  # in the full model's own row of table.csv


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a variant in an outer fold, on its training patients only."""

    config: HeadConfig
    epoch: int
    decision: DecisionRule


@dataclass(frozen=True)
class FoldResult:
    """A variant in one outer fold.

    path: repeat and outer fold
    predictions: of the held-out patients, see `study.tables.without_members`
    epochs: training and validation scores after each epoch of the chosen configuration
    """

    path: tuple[int, int]
    chosen: Chosen
    predictions: pd.DataFrame
    epochs: Sequence[EpochScores]


TableOf: TypeAlias = Callable[[pd.DataFrame], Table]
Results = dict[str, list[FoldResult]]  # by variant, in the order of the folds


def score_variants(results: Results, own: Collection[str], table_of: TableOf) -> dict[str, VariantScores]:
    """Return the scores of every variant, its differences from the full model, and its choice in each fold.

    own: names of the variants with the study's own features and whole bags, which may be identical to the
        full model
    table_of: returns predictions as arrays; see `Study.table`
    """
    full, scores = _table(results[FULL], table_of), {}
    for name, folds in results.items():
        table = _table(folds, table_of)
        difference = None if name == FULL else compare(table, full)
        choices = _choices(folds, results[FULL], comparable=name in own)
        scores[name] = VariantScores(scores_with_intervals(table), difference, choices)
    return with_adjusted(scores)


def with_adjusted(scores: Mapping[str, VariantScores]) -> dict[str, VariantScores]:
    """Return the scores with the p-values of each metric adjusted for the number of variants; see `holm`."""
    differences = {name: variant.difference for name, variant in scores.items() if variant.difference}
    metrics = list(next(iter(scores.values())).scores)
    adjusted = {
        metric: holm({name: each.differences[metric].p_value for name, each in differences.items()})
        for metric in metrics
    }
    return {
        name: replace(
            variant,
            p_adjusted={metric: adjusted[metric][name] for metric in metrics} if variant.difference else None,
        )
        for name, variant in scores.items()
    }


def _table(folds: Sequence[FoldResult], table_of: TableOf) -> Table:
    return table_of(pd.concat([result.predictions for result in folds]))


def _choices(folds: Sequence[FoldResult], full: Sequence[FoldResult], comparable: bool) -> list[VariantFold]:
    """Return the choice in each fold; comparable: whether the same choice makes it the full model."""
    return [
        VariantFold(
            *result.path,
            unchanged=comparable and result.chosen == full_result.chosen,
            epoch=result.chosen.epoch,
            threshold=result.chosen.decision.constants.get("threshold"),
        )
        for result, full_result in zip(folds, full, strict=True)
    ]


def gains(results: Results, table_of: TableOf) -> dict[str, Comparison]:
    """Return the gains of the full model over metadata only, on whole and on equal bags."""
    if METADATA_ONLY not in results:
        return {}
    metadata = _table(results[METADATA_ONLY], table_of)
    names = [name for name in (FULL, EQUAL_BAGS) if name in results]
    return {name: compare(_table(results[name], table_of), metadata) for name in names}


def table_metrics(scores: AblationScores) -> list[str]:
    """Return the metrics of a table of the variants, the primary one first."""
    known = scores.variants[FULL].scores
    return list(dict.fromkeys([scores.primary_metric, *(name for name in _TABLE_METRICS if name in known)]))


def score_table(scores: AblationScores) -> pd.DataFrame:
    """Return one row for each variant: the content of table.csv."""
    metrics = table_metrics(scores)
    return pd.DataFrame([_row(name, variant, metrics) for name, variant in scores.variants.items()])


Row = dict[str, str | float | None]


def _row(name: str, variant: VariantScores, metrics: Sequence[str]) -> Row:
    row: Row = {"variant": name}
    difference = variant.difference
    for metric in metrics:
        row |= _interval_columns(metric, variant.scores[metric])
        change = NO_DIFFERENCE if difference is None else difference.differences[metric]
        row |= _interval_columns(f"{metric}_difference", change)
        row[f"{metric}_difference_p_value"] = change.p_value
        row[f"{metric}_difference_p_adjusted"] = (variant.p_adjusted or {}).get(metric)
    row["discordant"] = None if difference is None else difference.discordant
    row["unchanged"] = sum(fold.unchanged for fold in variant.folds)
    return row | {"folds": len(variant.folds)}


def _interval_columns(name: str, estimate: Estimate) -> Row:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
