"""mil-predict: the same from images as from a cache, refusals, and the files it writes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import Command, Tiny

from mil_toolkit.bundle import ModelBundle
from mil_toolkit.cohort import read_cohort
from mil_toolkit.errors import DataError, UsageError
from mil_toolkit.prediction import extract_as_trained, predict, write_submission

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]


@pytest.fixture(name="bundle")
def _bundle(tiny: Tiny) -> ModelBundle:
    return ModelBundle.load(tiny.bundle)


# The predictions.


def test_every_patient_is_predicted(tiny: Tiny, bundle: ModelBundle) -> None:
    table = predict(bundle, tiny.cohort, tiny.cache).table
    assert list(table.columns) == ["patient_id", "probability", "prediction", "spread", "label"]
    assert tuple(table["patient_id"]) == tiny.cohort.patient_ids
    assert table["probability"].between(0, 1).all() and (table["spread"] >= 0).all()
    decided = table["probability"] >= bundle.decision.threshold
    assert (table["prediction"] == decided.astype(int)).all()
    known = table["label"].notna()
    assert list(table.loc[known, "patient_id"]) == list(tiny.cohort.labelled().patient_ids)


def test_images_give_what_the_cache_gives(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    common = (tiny.bundle, tiny.cohort_toml)
    cached, imaged = tmp_path / "cached.csv", tmp_path / "imaged.csv"
    assert command("predict", *common, "--features", tiny.features, "--output", cached).code == 0
    assert command("predict", *common, "--cache", tmp_path / "new", "--output", imaged).code == 0
    one, other = pd.read_csv(cached), pd.read_csv(imaged)
    assert (tmp_path / "new" / "synthetic" / tiny.features.name).is_dir()
    # Images share their batches with others than before, which moves the last bits of an embedding.
    np.testing.assert_allclose(one["probability"], other["probability"], atol=5e-3)
    assert one[["patient_id", "label"]].equals(other[["patient_id", "label"]])


def test_a_patient_alone_is_predicted_as_among_others(tiny: Tiny, bundle: ModelBundle) -> None:
    together = predict(bundle, tiny.cohort, tiny.cache).table.set_index("patient_id")["probability"]
    unlabelled = predict(bundle, tiny.cohort.unlabelled(), tiny.cache).table
    np.testing.assert_allclose(
        unlabelled["probability"], together[list(tiny.cohort.unlabelled().patient_ids)], atol=1e-6
    )
    assert "label" not in unlabelled


def test_labels_do_not_change_a_prediction(tiny: Tiny, bundle: ModelBundle) -> None:
    flipped = replace(tiny.cohort, labels=np.where(tiny.cohort.labels < 0, 1, 1 - tiny.cohort.labels))
    one, other = (predict(bundle, cohort, tiny.cache).table for cohort in (tiny.cohort, flipped))
    assert one["probability"].equals(other["probability"])


def test_attention_sums_to_one_in_each_patient(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    asked = ("--features", tiny.features, "--output", tmp_path / "p.csv", "--attention", tmp_path / "a.csv")
    assert command("predict", tiny.bundle, tiny.cohort_toml, *asked).code == 0
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table.columns) == ["patient_id", "image", "attention"]
    sums = table.groupby("patient_id")["attention"].sum()
    assert tuple(sums.index) == tiny.cohort.patient_ids
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    for patient, rows in table.groupby("patient_id"):
        folder = tiny.cohort_toml.parent / "images" / str(patient)
        assert sorted(rows["image"]) == sorted(path.name for path in folder.iterdir())


def test_scores_tell_known_patients_from_new_ones(
    tiny: Tiny, bundle: ModelBundle, edit_cohort: EditCohort
) -> None:
    known = predict(bundle, tiny.cohort, tiny.cache)
    assert known.validation is None and known.training is not None
    assert known.training["patients"] == 24

    def rename(table: pd.DataFrame) -> None:
        table.loc[:11, "LYMPHOCYTES"] = [
            str(9 + i) for i in range(12)
        ]  # other people, as far as one can tell

    mixed = predict(bundle, read_cohort(edit_cohort(rename)), tiny.cache)
    assert mixed.validation is not None and mixed.training is not None
    assert (mixed.validation["patients"], mixed.training["patients"]) == (12, 12)


# What is refused.


def test_another_spec_is_refused_with_the_difference(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 40, "--cache", tmp_path)
    other = command("extract", tiny.cohort_toml, *options).out.strip()
    output = ("--output", tmp_path / "p.csv")
    done = command("predict", tiny.bundle, tiny.cohort_toml, "--features", other, *output)
    assert done.code == 3 and "image_size" in done.err and "40" in done.err and "32" in done.err
    none = command("predict", tiny.bundle, tiny.cohort_toml, "--features", "none", *output)
    assert none.code == 3 and tiny.features.name in none.err
    assert not (tmp_path / "p.csv").exists()


def test_columns_that_differ_are_all_named(tiny: Tiny, tmp_path: Path, bundle: ModelBundle) -> None:
    shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    toml = tmp_path / "cohort" / "cohort.toml"
    text = (
        toml.read_text()
        .replace("[metadata.sex]", "[metadata.gender]")
        .replace('unit = "10^9/L"', 'unit = "1/nL"')
    )
    toml.write_text(text)
    with pytest.raises(DataError) as caught:
        predict(bundle, read_cohort(toml), tiny.cache)
    problems = caught.value.problems
    assert [line.partition("]")[0] for line in problems] == [
        "[metadata.gender", "[metadata.lymphocyte_count", "[metadata.sex"
    ]  # fmt: skip


def test_another_heading_is_no_difference(tiny: Tiny, tmp_path: Path, bundle: ModelBundle) -> None:
    shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    for path in (tmp_path / "cohort" / "cohort.toml", tmp_path / "cohort" / "patients.csv"):
        path.write_text(path.read_text().replace("LYMPHOCYTES", "LYMPHO"))
    renamed = predict(bundle, read_cohort(tmp_path / "cohort" / "cohort.toml"), tiny.cache)
    assert renamed.table.equals(predict(bundle, tiny.cohort, tiny.cache).table)


def test_weights_of_a_file_are_not_guessed(tiny: Tiny, bundle: ModelBundle) -> None:
    features = bundle.about["features"]
    about = {**bundle.about, "features": {**features, "spec": {**features["spec"], "weights": "mine.pth"}}}
    with pytest.raises(UsageError, match="--weights PATH"):
        extract_as_trained(replace(bundle, about=about), tiny.cohort)


# The challenge file.


def test_a_submission_holds_every_unlabelled_patient_once(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    asked = ("--features", tiny.features, "--output", tmp_path / "p.csv", "--submission", tmp_path / "s.csv")
    done = command("predict", tiny.bundle, tiny.cohort_toml, *asked)
    assert done.code == 0 and "3 unlabelled patients" in done.out
    table = pd.read_csv(tmp_path / "s.csv")
    assert list(table.columns) == ["ID", "LABEL"]
    assert tuple(table["ID"]) == tiny.cohort.unlabelled().patient_ids
    decided = pd.read_csv(tmp_path / "p.csv").set_index("patient_id")["prediction"][list(table["ID"])]
    assert list(table["LABEL"]) == [("reactive", "tumoral")[each] for each in decided]
    header = ("--submission-header", "patient,Predicted")
    assert command("predict", tiny.bundle, tiny.cohort_toml, *asked, *header).code == 0
    assert (tmp_path / "s.csv").read_text().startswith("patient,Predicted\n")


@pytest.mark.parametrize("prediction", [0, 1])
def test_a_submission_uses_the_words_of_the_table(prediction: int, tiny: Tiny, tmp_path: Path) -> None:
    cohort = replace(tiny.cohort, class_names=("0", "1"))
    table = pd.DataFrame({"patient_id": cohort.patient_ids, "prediction": prediction})
    assert write_submission(tmp_path / "s.csv", table, cohort) == 3
    assert (tmp_path / "s.csv").read_text() == "ID,LABEL\n" + "".join(
        f"{patient},{prediction}\n" for patient in cohort.unlabelled().patient_ids
    )


def test_a_submission_of_nobody_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    labelled = tiny.cohort.labelled()
    table = pd.DataFrame({"patient_id": labelled.patient_ids, "prediction": 1})
    with pytest.raises(DataError, match="no patient is unlabelled"):
        write_submission(tmp_path / "s.csv", table, labelled)
    assert not (tmp_path / "s.csv").exists()
