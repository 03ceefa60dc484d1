"""Measure the time to build the report of a study of many patients, and its size.

    python benchmarks/report.py [--patients 2000] [--images 40]

Each patient of a small synthetic cohort is duplicated, images included, up to the requested number. The
cohort is then embedded and tuned, and its report has to read, draw and show all of them.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.report.page import write_report
from mil_toolkit.study.tune import tune

SMALL = 40  # patients of the cohort before duplication
STUDY = StudyConfig(trials=2, folds=2, outer_folds=2, members=1, settings={"epochs": (3,)})


def main() -> None:
    """Measure, and print time and size."""
    parser = argparse.ArgumentParser(description="Time the report of a study of many patients.")
    parser.add_argument("--patients", type=int, default=2000)
    parser.add_argument("--images", type=int, default=40, help="images of each patient")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = multiplied(Path(folder), arguments.patients // SMALL, arguments.images)
        begun = time.monotonic()
        report = write_report(study)
        seconds = time.monotonic() - begun
    cohort = f"{arguments.patients} patients, {arguments.images} images each"
    print(f"{cohort}: {seconds:.0f} s, {report.size / 1e6:.1f} MB")
    print(*report.notes, sep="\n")


def multiplied(folder: Path, times: int, images: int) -> Path:
    """Create a study of SMALL patients, each duplicated `times` times before the images are embedded."""
    toml = draw_cohort(
        folder / "cohort", patients=SMALL, unlabelled=0, image_size=224, images=(images, images)
    )
    clinical = pd.read_csv(toml.parent / "patients.csv", dtype=str, keep_default_na=False)
    repeated(clinical, times).to_csv(toml.parent / "patients.csv", index=False)
    for patient in list((toml.parent / "images").iterdir()):
        duplicate(patient, times)
    cohort = read_cohort(toml)
    features = extract(cohort, ExtractionConfig("resnet18", "random", image_size=64), folder / "cache").folder
    return tune(cohort, FeatureCache.open(features), folder / "study", STUDY).study.folder


def duplicate(patient: Path, times: int) -> None:
    """Replace a patient's folder by `times` folders with links to its images."""
    for number in range(times):
        copy = patient.with_name(f"{patient.name}-{number}")
        copy.mkdir()
        for image in patient.iterdir():
            os.link(image, copy / image.name)
    shutil.rmtree(patient)


def repeated(table: pd.DataFrame, times: int) -> pd.DataFrame:
    """Return the rows of a table `times` times, with different ids in each copy."""
    parts = [table.assign(ID=table["ID"] + f"-{number}") for number in range(times)]
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    main()
