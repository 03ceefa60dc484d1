"""Cohorts of another place than the tiny cohort, on which its models are validated."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image

from support.outcome_studies import outcome_cohort
from support.studies import Tiny

KNOWN = 4  # labelled patients who are also in the tiny cohort


class Other(NamedTuple):
    """A cohort, and the cache of its embeddings, which lacks two patients without images.

    Of its 30 rows, 1 is excluded, 3 have no outcome, 2 no images, 4 are in training, and 20 are left.
    """

    cohort_toml: Path
    features: Path


def other_cohort(tiny: Tiny, folder: Path) -> Other:
    """Copy the tiny cohort with other ids and other images of most patients, and embed them."""
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.config.extraction import ExtractionConfig
    from mil_toolkit.features.extract import extract

    toml = _renamed(Path(shutil.copytree(tiny.cohort_toml.parent, folder / "cohort")) / "cohort.toml")
    for path in sorted((toml.parent / "images").glob("Q*/*")):
        image = Image.open(path).convert("RGB")
        image.putpixel((0, 0), (1, 2, 3))
        image.save(path)
    config = ExtractionConfig("resnet18", "random", image_size=32)
    features = extract(read_cohort(toml), config, folder / "cache", device="cpu").folder
    _add_rows(toml)
    return Other(toml, features)


def other_outcome(tiny: Tiny, kind: str, folder: Path) -> Path:
    """Return the cohort.toml of the same patients with an outcome of another kind, without images."""
    return _renamed(outcome_cohort(tiny, kind, folder))


def _renamed(toml: Path) -> Path:
    """Give new ids to all patients but the first KNOWN labelled ones, and the cohort another name."""
    toml.write_text(toml.read_text().replace('"synthetic"', '"other"'))
    table = _read(toml)
    known = set(table.loc[table["DIAGNOSIS"] != "", "ID"][:KNOWN])
    for patient in set(table["ID"]) - known:
        (toml.parent / "images" / patient).rename(toml.parent / "images" / f"Q{patient}")
    table["ID"] = [patient if patient in known else f"Q{patient}" for patient in table["ID"]]
    table.to_csv(toml.parent / "patients.csv", index=False)
    return toml


def _add_rows(toml: Path) -> None:
    """Add two patients without images and one who is excluded."""
    table = _read(toml)
    added = table[table["DIAGNOSIS"] != ""].head(3).copy()
    added["ID"] = ["N1", "N2", "X1"]
    added.iloc[2, added.columns.get_loc("DIAGNOSIS")] = "artefact"
    pd.concat([table, added]).to_csv(toml.parent / "patients.csv", index=False)
    toml.write_text(toml.read_text().replace("[cohort]\n", '[cohort]\nexclude = "artefact"\n'))


def _read(toml: Path) -> pd.DataFrame:
    return pd.read_csv(toml.parent / "patients.csv", dtype=str, keep_default_na=False)
