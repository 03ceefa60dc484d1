"""Tables of predictions, and draws of patients and groups."""

from dataclasses import replace

import numpy as np
import pytest
from support.tables import LABELS, make_table, prediction_rows

from mil_toolkit.evaluation.table import Table, draw_patients


def test_a_table_sorts_patients_by_id_whatever_the_order_of_the_rows() -> None:
    predictions = make_table(1.0)
    assert predictions.patient_ids == tuple(f"P{place:03d}" for place in range(65))
    np.testing.assert_array_equal(predictions.labels, LABELS)
    assert predictions.probabilities.shape == (2, 65)


def test_selected_patients_keep_their_predictions_and_groups() -> None:
    whole = replace(make_table(1.0), groups=np.arange(65).astype(str))
    part = whole.select(["P010", "P003"])
    np.testing.assert_array_equal(part.probabilities, whole.probabilities[:, [10, 3]])
    np.testing.assert_array_equal(part.labels, LABELS[[10, 3]])
    assert part.groups is not None and part.groups.tolist() == ["10", "3"]


def test_a_group_column_is_read_in_the_order_of_the_patients() -> None:
    rows = prediction_rows(1.0)
    grouped = Table.of(rows.assign(group=rows["patient_id"].str[:3]))
    assert grouped.groups is not None
    assert grouped.groups.tolist() == [patient[:3] for patient in grouped.patient_ids]
    assert grouped.units.tolist() == [place // 10 for place in range(65)]


def test_groups_are_ignored_where_folds_of_an_older_version_lack_them() -> None:
    rows = prediction_rows(1.0)
    partial = rows.assign(group=rows["patient_id"].where(rows["fold"] > 0))
    assert Table.of(partial).groups is None and Table.of(rows).groups is None


@pytest.mark.parametrize(("repeats", "folds", "expected"), [(1, 1, True), (1, 5, False), (2, 1, False)])
def test_one_model_makes_all_predictions_of_one_repeat_with_one_fold(
    repeats: int, folds: int, expected: bool
) -> None:
    table = make_table(1.0, repeats=repeats)
    assert replace(table, folds=table.folds % folds).one_model == expected


def test_a_resample_keeps_the_size_of_each_class() -> None:
    weights = draw_patients(LABELS, draws=50)
    assert (weights[:, LABELS == 1].sum(1) == 40).all()
    assert (weights[:, LABELS == 0].sum(1) == 25).all()


def test_groups_are_resampled_as_a_whole_and_by_the_classes_that_they_hold() -> None:
    groups = np.arange(65) // 3  # one group has both classes
    weights = draw_patients(LABELS, draws=50, groups=groups)
    for group in np.unique(groups):
        assert (np.ptp(weights[:, groups == group], axis=1) == 0).all()
    mixed = groups == 13
    assert set(LABELS[mixed]) == {0, 1} and (weights[:, mixed] == 1).all()
    pure = (LABELS == 1) & ~mixed
    assert (weights[:, pure].sum(1) == pure.sum()).all() and np.ptp(weights[:, pure]) > 0
