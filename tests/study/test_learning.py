"""Learning curves: nested subsets of the training patients, paired scores, resumption, the fitted curve."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.planted import make_cohort

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.study.folder import Study
from mil_toolkit.study.learning import SHARES, run_learning_curve
from mil_toolkit.study.plan import plan_searches, thin
from mil_toolkit.study.records import LearningCurve
from mil_toolkit.study.tables import read_predictions
from mil_toolkit.study.tune import tune

PATIENTS = 60
SETTINGS = {"epochs": (3,), "hidden": (32,)}
CONFIG = StudyConfig(trials=1, folds=2, outer_folds=3, members=1, primary_metric="auc", settings=SETTINGS)


def planted(groups: list[str] | None = None) -> Cohort:
    """A cohort with one predictive number."""
    random = np.random.default_rng(0)
    labels = (np.arange(PATIENTS) % 3 > 0).astype(int)
    return make_cohort(labels, {"number": labels + random.normal(0, 0.8, PATIENTS)}, groups)


@pytest.fixture(scope="module", name="study")
def _study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study on metadata only."""
    return tune(planted(), None, tmp_path_factory.mktemp("learning") / "study", CONFIG, "cpu").study.folder


@pytest.fixture(scope="module", name="curve")
def _curve(study: Path) -> LearningCurve:
    """Its learning curve."""
    return run_learning_curve(planted(), None, study, width=0.1, device="cpu")


def test_smaller_subsets_are_parts_of_larger_ones_and_keep_the_classes() -> None:
    cohort = planted()
    for search in plan_searches(cohort, CONFIG)[0][:-1]:
        previous: set[int] = set()
        for share in (*SHARES, 1.0):
            part = thin(search, cohort, CONFIG, share)
            kept = set(part.patients.tolist())
            assert previous <= kept <= set(search.patients.tolist())
            assert len(kept) == pytest.approx(share * len(search.patients), abs=2)
            labels = cohort.labels[part.patients]
            assert labels.mean() == pytest.approx(cohort.labels[search.patients].mean(), abs=0.05)
            np.testing.assert_array_equal(part.test, search.test)
            previous = kept


def test_groups_stay_whole() -> None:
    groups = [f"G{number // 2}" for number in range(PATIENTS)]
    cohort = planted(groups)
    for search in plan_searches(cohort, CONFIG)[0][:-1]:
        kept = thin(search, cohort, CONFIG, 0.5).patients
        inside = {groups[place] for place in kept}
        assert inside.isdisjoint({groups[place] for place in set(search.patients) - set(kept)})


def test_every_share_predicts_the_same_held_out_patients(study: Path, curve: LearningCurve) -> None:
    own = read_predictions(Study.open(study).final.predictions)
    for share in SHARES:
        folds = sorted(Study.open(study).learning(share).folder.glob("outer/*/predictions.csv"))
        ids = [patient for path in folds for patient in read_predictions(path)["patient_id"]]
        assert ids == own["patient_id"].tolist()
    assert [point.share for point in curve.points] == [*SHARES, 1.0]
    assert [point.patients for point in curve.points] == pytest.approx([16, 24, 32, 40], abs=1)
    assert curve.points[-1].score == Study.open(study).read_scores().outer["auc"]  # type: ignore[index]


def test_the_curve_has_a_band_and_the_patients_for_a_width(study: Path, curve: LearningCurve) -> None:
    values = np.array([(p.score.low, p.score.value, p.score.high) for p in curve.curve], dtype=float)
    assert (np.diff(values[:, 1]) >= 0).all()  # more patients never make a power law worse
    assert (values[:, 0] <= values[:, 2]).all()
    assert curve.curve[-1].patients == pytest.approx(3 * curve.points[-1].patients)
    score = curve.points[-1].score
    assert score.low is not None and score.high is not None
    width = score.high - score.low
    assert curve.patients_for_width == int(np.ceil(PATIENTS * (width / 0.1) ** 2))
    assert Study.open(study).read_learning_curve() == curve


def test_a_second_run_gives_the_same_from_what_is_there(study: Path, curve: LearningCurve) -> None:
    part = Study.open(study).learning(SHARES[0]).folder
    kept = {path: path.read_bytes() for path in part.glob("outer/*/*.csv")}
    times = {path: path.stat().st_mtime_ns for path in kept}
    lost = part / "outer" / "repeat1-fold2"
    shutil.rmtree(lost)  # as if the run had been killed before it concluded this fold
    assert run_learning_curve(planted(), None, study, width=0.1, device="cpu") == curve
    assert {path: path.read_bytes() for path in kept} == kept
    untouched = [path for path in kept if not path.is_relative_to(lost)]
    assert [path.stat().st_mtime_ns for path in untouched] == [times[path] for path in untouched]


def test_shares_with_too_few_patients_are_named(tmp_path: Path) -> None:
    config = replace(CONFIG, folds=5)
    cohort = planted().labelled()
    few = np.r_[np.flatnonzero(cohort.labels == 0)[:9], np.flatnonzero(cohort.labels == 1)]
    small = make_cohort(cohort.labels[few], {"number": cohort.metadata["number"].to_numpy()[few]})
    study = tune(small, None, tmp_path / "study", config, "cpu").study.folder
    with pytest.raises(
        DataError, match="40 % of the training patients: inner folds of the training"
    ) as caught:
        run_learning_curve(small, None, study, width=0.1, device="cpu")
    assert "needs two of these shares" in str(caught.value)


def test_a_study_without_outer_folds_has_no_learning_curve(tmp_path: Path) -> None:
    config = replace(CONFIG, outer_folds=0)
    study = tune(planted(), None, tmp_path / "study", config, "cpu").study.folder
    with pytest.raises(DataError, match="no outer folds"):
        run_learning_curve(planted(), None, study, width=0.1, device="cpu")
