"""The scores of a study, computed from the predictions of its searches."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from mil_toolkit.config.study import StudyConfig
from mil_toolkit.evaluation.intervals import Table, compare, optimism, reliability, scores_with_intervals
from mil_toolkit.evaluation.records import Spread
from mil_toolkit.evaluation.scoring import Predictions, Scoring, side_by_side
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.study.by_outcome import METADATA, OUTCOME_STUDIES
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import Search
from mil_toolkit.study.records import StudyScores
from mil_toolkit.study.rivals import Rival, rival_predictions
from mil_toolkit.study.tables import prediction_table, read_predictions
from mil_toolkit.training.patients import Patients

BagSizes = Mapping[str, int]  # number of images, by patient


def study_scores(
    study: Study,
    patients: Patients,
    outer: Sequence[pd.DataFrame],
    rivals: Mapping[str, pd.DataFrame],
) -> StudyScores:
    """Return the scores of a study from the predictions of its searches.

    outer: the predictions of each outer fold, in the order of the searches; none without outer folds
    rivals: the outer predictions of each baseline
    """
    best = study.final.read_best()
    inner = study.table(read_predictions(study.final.out_of_fold))
    scores = StudyScores(
        epoch=best.epoch,
        passed_over=best.passed_over,
        training=best.training,
        inner=scores_with_intervals(inner),
    )
    if not outer:
        return scores
    tables = {name: study.table(rows) for name, rows in rivals.items()}
    return with_outer_scores(scores, inner, pd.concat(outer), patients, tables)


def with_outer_scores(
    scores: StudyScores,
    inner: Table,
    predictions: pd.DataFrame,
    patients: Patients,
    rivals: Mapping[str, Table],
) -> StudyScores:
    """Return the scores with all that rests on outer predictions; the rivals predict the same patients."""
    table, sizes = Table.of(predictions, inner.prevalence, inner.scoring), bag_sizes(patients)
    return with_rivals(with_model_scores(scores, inner, predictions, sizes), table, sizes, rivals)


def with_rivals(
    scores: StudyScores, table: Table, sizes: BagSizes | None, rivals: Mapping[str, Table]
) -> StudyScores:
    """Return the scores with those of the baselines; table: the model's own outer predictions."""
    on_metadata = [rivals[name] for name in METADATA.values() if name in rivals]
    return replace(
        scores,
        rivals={name: scores_with_intervals(rival) for name, rival in rivals.items()},
        gains={name: compare(table, rival) for name, rival in rivals.items()},
        bag_size_of_metadata=_bag_size(sizes, next(iter(on_metadata), None)),
    )


def with_model_scores(
    scores: StudyScores, inner: Table, predictions: pd.DataFrame, sizes: BagSizes | None
) -> StudyScores:
    """Return the scores with all that rests on the model's own outer predictions."""
    table = Table.of(predictions, inner.prevalence, inner.scoring)
    known = set(table.patient_ids)
    both = [patient for patient in inner.patient_ids if patient in known]
    return replace(
        scores,
        outer=scores_with_intervals(table),
        optimism=optimism(inner.select(both), table.select(both)),
        spread=_spread(predictions, table),
        reliability=reliability(table) if table.scoring.reliability else None,
        bag_size=_bag_size(sizes, table),
    )


def bag_sizes(patients: Patients) -> BagSizes | None:
    """Return the number of images of each patient; None without images."""
    bags = patients.bags
    return None if bags is None else dict(zip(bags.patient_ids, bags.sizes.tolist(), strict=True))


def rival_tables(config: StudyConfig, patients: Patients, searches: Sequence[Search]) -> dict[str, Table]:
    """Return the outer predictions of each baseline as arrays; see `outer_rivals`."""
    rivals = outer_rivals(config, patients, searches)
    scoring = patients.outcome.scoring
    return {name: Table.of(rows, config.prevalence, scoring) for name, rows in rivals.items()}


def outer_rivals(
    config: StudyConfig, patients: Patients, searches: Sequence[Search]
) -> dict[str, pd.DataFrame]:
    """Return the outer predictions of each baseline for which the patients have the data."""
    tables = {}
    for name, rival in OUTCOME_STUDIES[patients.outcome.kind].rivals.items():
        parts = [_rival(rival, config, patients, search) for search in searches]
        if all(part is not None for part in parts):
            tables[name] = pd.concat(parts)
    return tables


def _rival(rival: Rival, config: StudyConfig, patients: Patients, search: Search) -> pd.DataFrame | None:
    outcome = patients.outcome.fitted(patients.labels[search.patients])

    def decide(outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None) -> DecisionRule:
        return outcome.decide(outputs, targets, config.threshold_rule, groups)

    found = rival_predictions(
        rival, patients, search.patients, search.test, search.inner, config.objective, decide
    )
    return None if found is None else prediction_table(search, search.test, patients, found)


def _spread(predictions: pd.DataFrame, table: Table) -> dict[str, Spread]:
    """Return the standard deviation of each metric over single members, and over repeats of their mean."""
    scoring = table.scoring
    columns = [str(name).partition(":")[0] for name in predictions.columns]
    count = len({name for name in columns if name.startswith("member")})
    alone = [
        Table.of(_of_member(predictions, scoring, number), table.prevalence, scoring)
        for number in range(1, count + 1)
    ]
    spread = {}
    for name, metric in scoring.metrics.items():
        over_seeds = [each.score(metric) for each in alone]
        over_splits = [metric.value(each) for each in table.repeats()]
        spread[name] = Spread(_deviation(over_seeds), _deviation(over_splits))
    return spread


def _of_member(predictions: pd.DataFrame, scoring: Scoring, number: int) -> pd.DataFrame:
    """Return the predictions of a single member, with the decision rule of all members."""
    names = scoring.member_names(number)
    values = side_by_side([predictions[name].to_numpy() for name in names])
    constants = {name: predictions[name].to_numpy() for name in scoring.constants}
    own = Predictions(values, scoring.decide(values, constants))
    return predictions.assign(**scoring.prediction_columns(own))


def _deviation(scores: Sequence[float]) -> float | None:
    return float(np.std(scores, ddof=1)) if len(scores) > 1 and np.isfinite(scores).all() else None


def _bag_size(sizes: BagSizes | None, table: Table | None) -> dict[str, float | None] | None:
    """Return Spearman's correlation of the mean prediction with the number of images, within each stratum.

    None without images, and where the predictions have no order.
    """
    if sizes is None or table is None or table.scoring.rank is None:
        return None
    images = np.array([sizes[patient] for patient in table.patient_ids])
    ranked, strata = table.scoring.rank(table.probabilities).mean(0), table.strata
    correlations = {}
    for stratum, name in table.scoring.rank_strata.items():
        chosen = strata == stratum
        varies = len(set(images[chosen])) > 1 and len(set(ranked[chosen])) > 1
        statistic = spearmanr(ranked[chosen], images[chosen]).statistic if varies else None
        correlations[name] = None if statistic is None else float(statistic)
    return correlations
