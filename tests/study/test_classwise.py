"""A study with an attention for each class: its search, its tables, its report and its bundle."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import roc_auc_score
from support.planted import make_cache, make_cohort

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.outputs import attention_output
from mil_toolkit.bundle.predict import predict
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import StudyConfig, for_outcome
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.outputs import check_outputs
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.ordered import Ordered
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.gallery import OF_CLASS, Naming, cases
from mil_toolkit.report.page import write_report
from mil_toolkit.search.space import Space
from mil_toolkit.study.folder import Study
from mil_toolkit.study.tables import (
    class_column,
    joined_attention,
    outer_attention,
    publish_table,
    read_attention,
)
from mil_toolkit.study.tune import tune
from mil_toolkit.training.patients import Patients

NAMES = ("AML", "ALL, B or T", "APL")  # of which one needs quotes in a table
COLUMNS = [class_column(name) for name in NAMES]
PATIENTS, IMAGES, WIDTH = 45, 12, 8
SETTINGS = {
    "attention_heads": ("classes",),
    "pooling": ("gated-attention",),
    "hidden": (32,),
    "components": (0,),
    "epochs": (14,),
    "learning_rate": (0.02,),
    "gamma": (0.97,),
    "weight_decay": (0.01,),
    "instance_dropout": (0.0,),
}
CONFIG = StudyConfig(trials=1, folds=2, outer_folds=3, members=2, settings=SETTINGS)


@dataclass(frozen=True)
class Planted:
    """A cohort in which two images of each patient show the morphology of the patient's class.

    shown: by patient, the names of these images
    """

    cohort: Cohort
    cache: FeatureCache
    shown: dict[str, set[str]]


@pytest.fixture(scope="module", name="planted")
def _planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    random, labels = np.random.default_rng(0), np.arange(PATIENTS) % 3
    bags = random.normal(size=(PATIENTS, IMAGES, WIDTH))
    places = [random.permutation(IMAGES)[:2] for _ in labels]
    for bag, label, shown in zip(bags, labels, places, strict=True):
        bag[shown, label] += 5
    cohort = replace(
        make_cohort(labels, {"noise": random.normal(size=PATIENTS)}), outcome=Classes("DX", NAMES)
    )
    shown_names = {
        patient: {f"{place}.png" for place in shown}
        for patient, shown in zip(cohort.patient_ids, places, strict=True)
    }
    folder = tmp_path_factory.mktemp("cache")
    cache = make_cache(folder, cohort, list(bags), weights="imported from a test")
    return Planted(cohort, cache, shown_names)


@pytest.fixture(scope="module", name="study")
def _study(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "classwise"
    tune(planted.cohort, planted.cache, folder, CONFIG, "cpu")
    return folder


@pytest.fixture(scope="module", name="bundle")
def _bundle(planted: Planted, study: Path) -> ModelBundle:
    fit(planted.cohort, planted.cache, study, study / "model", "cpu")
    return ModelBundle.load(study / "model")


def attention_of(folder: Path) -> pd.DataFrame:
    table = outer_attention(folder)
    assert table is not None
    return table


def test_the_attention_of_each_class_sums_to_one_and_the_common_one_is_their_mean(study: Path) -> None:
    table = attention_of(study)
    assert list(table) == ["repeat", "fold", "patient_id", "image", "attention", *COLUMNS]
    assert len(table) == PATIENTS * IMAGES
    sums = table.groupby("patient_id")[["attention", *COLUMNS]].sum()
    assert_allclose(sums, 1, rtol=1e-5)
    assert_allclose(table["attention"], table[COLUMNS].mean(axis=1), rtol=1e-5)


def test_the_attention_of_each_class_finds_its_own_morphology(planted: Planted, study: Path) -> None:
    table, labels = (
        attention_of(study),
        dict(zip(planted.cohort.patient_ids, planted.cohort.labels, strict=True)),
    )
    for number, column in enumerate(COLUMNS):
        aucs = [
            roc_auc_score(bag["image"].isin(planted.shown[patient]), bag[column])
            for patient, bag in table.groupby("patient_id")
            if labels[patient] == number
        ]
        assert np.mean(aucs) > 0.95


def test_without_outer_folds_the_attention_is_that_of_the_inner_folds(
    planted: Planted, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "epochs": (2,)}
    tune(
        planted.cohort,
        planted.cache,
        tmp_path,
        replace(CONFIG, outer_folds=0, settings=settings),
        "cpu",
    )
    table = read_attention(tmp_path / "attention.csv")
    assert list(table) == ["patient_id", "image", "attention", *COLUMNS] and len(table) == PATIENTS * IMAGES
    assert_allclose(table.groupby("patient_id")[COLUMNS].sum(), 1, rtol=1e-5)
    case = cases(read_contents(tmp_path), Naming(False))[0]
    assert case.attention is not None and len(case.attention.classes) == len(NAMES)


def test_the_gallery_shows_for_each_class_the_images_of_its_highest_attention(study: Path) -> None:
    table, found = attention_of(study).set_index("patient_id"), cases(read_contents(study), Naming(False))
    assert len(found) == PATIENTS
    for case in found:
        assert case.attention is not None and not case.attention.highest and not case.attention.lowest
        assert [of_class.name for of_class in case.attention.classes] == list(NAMES)
        for column, of_class in zip(COLUMNS, case.attention.classes, strict=True):
            expected = table.loc[case.stored].sort_values(column, ascending=False, kind="stable")
            assert [image.stored for image in of_class.images] == list(expected["image"])[:OF_CLASS]
            assert [image.rank for image in of_class.images] == list(range(1, OF_CLASS + 1))
            assert_allclose([image.attention for image in of_class.images], expected[column][:OF_CLASS])
        own = case.attention.classes[int(case.label)].images
        assert case.shown_images[: len(own)] == own  # samples show what spoke for the true class
        stored = [image.stored for image in case.shown_images]
        assert len(set(stored)) == len(stored)
        assert set(stored) == {image.stored for each in case.attention.classes for image in each.images}


def test_the_report_names_each_class_with_its_images(study: Path, tmp_path: Path) -> None:
    page = write_report(study, tmp_path / "r.html").path.read_text()
    assert page.count("Highest attention for AML") == page.count("Highest attention for APL") == PATIENTS
    assert page.count("Highest attention for ALL, B or T") == PATIENTS
    assert "Lowest attention" not in page and "images of highest attention for each class" in page
    anonymous = write_report(study, tmp_path / "a.html", anonymise=True).path.read_text()
    assert "Highest attention for AML" in anonymous and "P000" not in anonymous and ".png" not in anonymous


def test_equal_attention_of_all_classes_shows_no_ranks(study: Path) -> None:
    contents = read_contents(study)
    assert contents.attention is not None
    equal = contents.attention.assign(**dict.fromkeys(["attention", *COLUMNS], 1 / IMAGES))
    for case in cases(replace(contents, attention=equal), Naming(False)):
        assert case.attention is not None and case.attention.effective is None and not case.shown_images
    one = equal.assign(**{COLUMNS[0]: contents.attention[COLUMNS[0]]})
    for case in cases(replace(contents, attention=one), Naming(False)):
        assert case.attention is not None
        assert [bool(each.images) for each in case.attention.classes] == [True, False, False]


def test_a_bundle_predicts_with_the_attention_of_each_class(
    planted: Planted, bundle: ModelBundle, tmp_path: Path
) -> None:
    assert bundle.head.model.attention_heads == len(NAMES)
    table = predict(bundle, planted.cohort, planted.cache).attention
    assert table is not None and list(table) == ["patient_id", "image", "attention", *COLUMNS]
    assert_allclose(table.groupby("patient_id")[COLUMNS].sum(), 1, rtol=1e-5)
    publish_table(tmp_path / "a.csv", table)
    pd.testing.assert_frame_equal(read_attention(tmp_path / "a.csv"), table, check_dtype=False)
    check_outputs({"--attention": attention_output(tmp_path / "a.csv")})  # it may be replaced
    quoted = table.rename(columns={COLUMNS[0]: class_column("a, b")})
    publish_table(tmp_path / "b.csv", quoted)
    check_outputs({"--attention": attention_output(tmp_path / "b.csv")})


def test_attention_out_of_range_is_named_with_its_class(study: Path, tmp_path: Path) -> None:
    table = attention_of(study).drop(columns=["repeat", "fold"])
    table.loc[4, COLUMNS[2]] = 1.5
    publish_table(tmp_path / "a.csv", table)
    with pytest.raises(DataError, match="row 6: attention:APL is not between 0 and 1"):
        read_attention(tmp_path / "a.csv")


def test_shared_attention_of_some_folds_counts_for_every_class() -> None:
    shared = pd.DataFrame({"patient_id": ["a", "a"], "image": ["x", "y"], "attention": [0.25, 0.75]})
    own = shared.assign(patient_id="b", **{COLUMNS[0]: [0.1, 0.9], COLUMNS[1]: [0.4, 0.6]})
    for parts in ([shared, own], [own, shared]):
        joined = joined_attention(parts).set_index("patient_id")
        assert_allclose(joined.loc["a", COLUMNS[:2]], [[0.25, 0.25], [0.75, 0.75]])
        assert_allclose(joined.loc["b", COLUMNS[:2]], [[0.1, 0.4], [0.9, 0.6]])
    pd.testing.assert_frame_equal(joined_attention([shared]), shared)


# The search.


def space_of(outcome: object, planted: Planted, **settings: tuple[str, ...]) -> Space:
    cohort = replace(planted.cohort, outcome=outcome)
    return Space.of(StudyConfig(settings=settings), Patients.of(cohort, planted.cache))


def test_a_search_chooses_between_both_for_poolings_with_attention(planted: Planted) -> None:
    outcome = planted.cohort.outcome
    space = space_of(outcome, planted, attention_heads=("shared", "classes"), pooling=("attention", "mean"))
    assert space.described()["attention_heads"] == ["shared", "classes"]
    found = {
        pooling: space.config_of(
            {**space.defaults(), "pooling": pooling, "attention_heads": "classes"}
        ).attention_heads
        for pooling in ("attention", "mean")
    }
    assert found == {"attention": "classes", "mean": "shared"}
    assert "attention_heads" not in space_of(outcome, planted).described()
    assert space_of(outcome, planted).config_of(
        {**space_of(outcome, planted).defaults()}
    ).attention_heads == ("shared")


@pytest.mark.parametrize("heads", [("classes",), ("shared", "classes")])
@pytest.mark.parametrize("kind", ["binary", "ordered", "number", "survival"])
def test_the_setting_is_refused_for_an_outcome_without_class_logits(
    kind: str, heads: tuple[str, ...]
) -> None:
    config = StudyConfig(settings={"attention_heads": heads})
    with pytest.raises(
        UsageError, match="--set attention_heads: classes needs an outcome of several classes"
    ):
        for_outcome(config, kind)
    assert for_outcome(config, "classes").settings == config.settings
    assert for_outcome(StudyConfig(settings={"attention_heads": ("shared",)}), kind)


WITHOUT_LOGITS = (Binary("DX", "a", "b"), Ordered("DX", NAMES), Number("DX"), Survival("T", "E", 2))


@pytest.mark.parametrize("outcome", WITHOUT_LOGITS)
def test_the_search_of_an_older_study_without_class_logits_ignores_the_setting(
    outcome: Outcome, planted: Planted
) -> None:
    space = space_of(outcome, planted, attention_heads=("classes",))
    assert "attention_heads" not in space.described()
    assert space.config_of(space.defaults()).attention_heads == "shared"
    assert space.described() == space_of(outcome, planted).described()


@pytest.mark.parametrize("outcome", WITHOUT_LOGITS)
def test_a_study_of_an_outcome_without_class_logits_is_not_begun_with_it(
    outcome: Outcome, planted: Planted, tmp_path: Path
) -> None:
    cohort = replace(planted.cohort, outcome=outcome)
    with pytest.raises(UsageError, match="attention_heads"):
        tune(cohort, planted.cache, tmp_path / "study", CONFIG, "cpu")
    assert not (tmp_path / "study").exists()


def test_the_study_is_described_with_the_setting_and_goes_on(planted: Planted, study: Path) -> None:
    assert Study.open(study).description.space["attention_heads"] == ["classes"]
    before = (study / "scores.json").read_bytes()
    tune(planted.cohort, planted.cache, study, CONFIG, "cpu")
    assert (study / "scores.json").read_bytes() == before
