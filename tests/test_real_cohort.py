"""All stages on real smear images; skipped if the cohort is absent, except under CI."""

import csv
import os
from pathlib import Path

import pandas as pd
import pytest
from support.commands import Command
from support.paths import ROOT

from mil_toolkit.cohort.cohort import read_cohort

FEW = {"1": 8, "0": 8, "-1": 2}  # number of patients by label; those with the fewest images are taken


@pytest.fixture(name="rows", scope="module")
def _rows(lymphocytosis: Path) -> list[dict[str, str]]:
    with (lymphocytosis / "clinical_annotation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(name="whole")
def _whole(lymphocytosis: Path, tmp_path: Path) -> Path:
    """Return the example's cohort.toml beside links to the whole cohort."""
    for name in ("clinical_annotation.csv", "trainset", "testset"):
        (tmp_path / name).symlink_to(lymphocytosis / name)
    return copied_example(tmp_path)


@pytest.fixture(name="few")
def _few(lymphocytosis: Path, rows: list[dict[str, str]], tmp_path: Path) -> Path:
    """Return the example's cohort.toml beside links to a few patients."""
    folders = {
        folder.name: folder for part in ("trainset", "testset") for folder in (lymphocytosis / part).iterdir()
    }
    rows = sorted(
        (row for row in rows if row["ID"] in folders), key=lambda row: len(os.listdir(folders[row["ID"]]))
    )
    chosen = [row for label, count in FEW.items() for row in [r for r in rows if r["LABEL"] == label][:count]]
    for row in chosen:
        folder = folders[row["ID"]]
        (tmp_path / folder.parent.name).mkdir(exist_ok=True)
        (tmp_path / folder.parent.name / folder.name).symlink_to(folder)
    with (tmp_path / "clinical_annotation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(chosen)
    return copied_example(tmp_path)


def copied_example(folder: Path) -> Path:
    path = folder / "lymphocytosis.toml"
    path.write_bytes((ROOT / "examples" / "lymphocytosis.toml").read_bytes())
    return path


def test_the_example_reads_every_row_and_every_image(
    whole: Path, rows: list[dict[str, str]], lymphocytosis: Path
) -> None:
    cohort = read_cohort(whole)
    assert sorted(cohort.patient_ids) == sorted(row["ID"] for row in rows)
    labels = dict(zip(cohort.patient_ids, cohort.labels.tolist(), strict=True))
    assert labels == {row["ID"]: int(row["LABEL"]) for row in rows}
    images = sum(1 for path in lymphocytosis.glob("*set/*/*") if path.suffix == ".jpg")
    assert sum(map(len, cohort.images.values())) == images > 0
    assert cohort.metadata.notna().all(axis=None)
    assert cohort.metadata["age"].between(0, 120).all() and set(cohort.metadata["sex"]) == {"F", "M"}


def test_from_real_images_to_a_submission(few: Path, tmp_path: Path, command: Command) -> None:
    options = ("--backbone", "efficientnet_lite0", "--image-size", 64, "--cache", tmp_path / "cache")
    extracted = command("extract", few, *options, "--json")
    assert extracted.code == 0, extracted.err
    assert extracted.json["patients"] == 18 and extracted.json["extracted"] == extracted.json["images"]
    assert command("extract", few, *options, "--json").json["extracted"] == 0

    features, study = ("--features", extracted.json["features"]), ("--study", tmp_path / "study")
    quick = ("--quick", "--trials", 2, "--epochs", 3, "--folds", 2)
    tuned = command("tune", few, *features, *study, *quick, "--json")
    assert tuned.code == 0, tuned.err
    assert tuned.json["inner"]["auc"]["patients"] == 16 and tuned.json["outer"] is None

    assert command("fit", few, *features, *study).code == 0
    output = ("--output", tmp_path / "predictions.csv", "--submission", tmp_path / "submission.csv")
    predicted = command("predict", tmp_path / "study" / "model", few, *features, *output)
    assert predicted.code == 0, predicted.err
    imaged = ("--cache", tmp_path / "new", "--output", tmp_path / "imaged.csv")
    assert command("predict", tmp_path / "study" / "model", few, *imaged).code == 0
    assert (tmp_path / "imaged.csv").read_bytes() == (tmp_path / "predictions.csv").read_bytes()
    cohort = read_cohort(few)
    assert tuple(pd.read_csv(tmp_path / "predictions.csv")["patient_id"]) == cohort.patient_ids
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert list(submission.columns) == ["ID", "LABEL"]
    assert tuple(submission["ID"]) == cohort.unlabelled().patient_ids and set(submission["LABEL"]) <= {0, 1}
