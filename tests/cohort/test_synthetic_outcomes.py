"""Synthetic cohorts of every kind of outcome: read as declared, with targets that follow from the truth."""

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.stats import mannwhitneyu
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from mil_toolkit.cohort import synthetic
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.cohort.synthetic_outcomes import (
    CLASS_NAMES,
    GRADE_LIMITS,
    PER_DECADE,
    PER_SHARE,
    SYNTHETIC_OUTCOMES,
)
from mil_toolkit.config.metrics import OUTCOME_METRICS

every_outcome = pytest.mark.parametrize("outcome", SYNTHETIC_OUTCOMES)


def truth(folder: Path) -> dict[str, list[int]]:
    """Return the signals of each patient's images, in the order of their names."""
    signals: dict[str, list[int]] = {}
    with (folder / "truth.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            signals.setdefault(row["patient"], []).append(int(row["signal"]))
    return signals


def drawn(folder: Path, outcome: str, monkeypatch: pytest.MonkeyPatch, patients: int = 600) -> Cohort:
    """Return many patients without their images."""
    monkeypatch.setattr(synthetic, "_draw_bag", lambda *_: None)
    toml = draw_cohort(folder, patients, 12, outcome=outcome)
    return read_cohort(toml, images=False)


def shares(folder: Path, cohort: Cohort) -> np.ndarray:
    known = truth(folder)
    return np.array([np.mean(known[patient]) for patient in cohort.patient_ids])


def test_every_kind_of_outcome_can_be_drawn() -> None:
    assert SYNTHETIC_OUTCOMES.keys() == OUTCOME_METRICS.keys()


@every_outcome
def test_the_outcome_is_declared_and_unlabelled_patients_have_none(
    outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = drawn(tmp_path / "c", outcome, monkeypatch, 60)
    assert cohort.outcome.kind == outcome
    assert (len(cohort.labelled()), len(cohort.unlabelled())) == (60, 12)
    assert cohort.outcome.lack(cohort.labelled().labels) is None
    assert {"age", "sex", "lymphocyte_count"} == set(cohort.metadata)
    assert set(truth(tmp_path / "c")) == set(cohort.patient_ids)


@every_outcome
def test_the_same_seed_draws_the_same_bytes(outcome: str, tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_cohort(tmp_path / name, 4, 1, seed=seed, image_size=24, images=(1, 3), outcome=outcome)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1] != contents[2]


def test_every_class_has_its_share_of_patients_and_shows_its_morphology(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = drawn(tmp_path / "c", "classes", monkeypatch)
    assert cohort.class_names == CLASS_NAMES
    assert_array_equal(np.bincount(cohort.labelled().labels), [240, 180, 180])
    assert (shares(tmp_path / "c", cohort) > 0).all()


def test_the_images_of_a_class_differ_from_those_of_others_and_from_all_other_images(tmp_path: Path) -> None:
    """Mean colours of the images' middle tell the morphologies apart."""
    cohort = read_cohort(draw_cohort(tmp_path / "c", 30, 0, image_size=40, images=(6, 12), outcome="classes"))
    colours: dict[int, list[np.ndarray]] = {}
    for patient, signals in truth(tmp_path / "c").items():
        label = int(cohort.labels[cohort.patient_ids.index(patient)])
        for path, signal in zip(cohort.images[patient], signals, strict=True):
            with Image.open(path) as image:
                middle = np.asarray(image, dtype=float)[12:28, 12:28]
            colours.setdefault(label if signal else -1, []).append(middle.mean((0, 1)))
    assert set(colours) == {-1, 0, 1, 2}
    for one, other in combinations(colours.values(), 2):
        aucs = [
            mannwhitneyu(x, y).statistic / (len(x) * len(y))
            for x, y in zip(np.transpose(one), np.transpose(other), strict=True)
        ]
        assert max(max(auc, 1 - auc) for auc in aucs) > 0.75


def test_a_number_is_the_share_of_tumoral_images_in_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = drawn(tmp_path / "c", "number", monkeypatch)
    known = cohort.outcome.known(cohort.labels)
    assert_allclose(cohort.labels[known], 100 * shares(tmp_path / "c", cohort)[known], atol=0.051)


def test_a_grade_grows_with_the_share_of_tumoral_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = drawn(tmp_path / "c", "ordered", monkeypatch)
    known = cohort.labels >= 0
    expected = np.digitize(shares(tmp_path / "c", cohort), GRADE_LIMITS)
    assert_array_equal(cohort.labels[known], expected[known])
    assert (np.bincount(cohort.labels[known]) > 100).all()


def test_cox_regression_finds_the_hazard_that_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = drawn(tmp_path / "c", "survival", monkeypatch, 2000)
    known = cohort.outcome.known(cohort.labels)
    times, events = cohort.labels[known].T
    x = np.stack([shares(tmp_path / "c", cohort), cohort.metadata["age"].to_numpy() / 10], 1)[known]
    fit = CoxPHSurvivalAnalysis().fit(x, Surv.from_arrays(events.astype(bool), times))
    assert_allclose(fit.coef_, [PER_SHARE, PER_DECADE], rtol=0.2)
    assert 0.3 < events.mean() < 0.8  # both events and censoring
    assert times.min() > 0 and times.max() <= 8
