"""Small cohorts with finished studies."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.features.cache import FeatureCache


@dataclass(frozen=True)
class Tiny:
    """A synthetic cohort with its features, a finished study and its bundle; tests only read them.

    folder: holds cohort/, cache/ and studies/; commands that run here find the cache without --features
    """

    folder: Path
    cohort_toml: Path
    features: Path
    study: Path

    @property
    def bundle(self) -> Path:
        """The folder that mil-fit wrote."""
        return self.study / "model"

    @property
    def cohort(self) -> Cohort:
        """24 labelled and three unlabelled patients with two to four images each."""
        return read_cohort(self.cohort_toml)

    @property
    def cache(self) -> FeatureCache:
        """Embeddings of a small network with random weights."""
        return FeatureCache.open(self.features)


@dataclass(frozen=True)
class Viewed:
    """The tiny cohort with a second view, and a finished study that uses both together; tests only read them.

    crop: cache folder of windows around the cells; study: with early fusion
    """

    tiny: Tiny
    crop: Path
    study: Path

    @property
    def folders(self) -> tuple[Path, Path]:
        """The cache folders of both views, in the order of the study."""
        return self.tiny.features, self.crop

    @property
    def caches(self) -> list[FeatureCache]:
        """The caches of both views."""
        return [FeatureCache.open(folder) for folder in self.folders]

    @property
    def names(self) -> tuple[str, str]:
        """The names of both views."""
        return self.tiny.features.name, self.crop.name

    def options(self, *features: object) -> list[str]:
        """Return the arguments of a fast mil-tune; by default with both views together, joined early."""
        words: list[object] = [self.tiny.cohort_toml]
        words += features or ["--views", *self.folders, "--set", "view_fusion=early"]
        for name, value in (("trials", 2), ("epochs", 2), ("folds", 2), ("outer-folds", 2), ("members", 2)):
            words += [f"--{name}", value]
        return [str(word) for word in (*words, "--workers", 1, "--set", "hidden=32")]


def weighed(study: Path) -> Path:
    """Replace the attention of a study's outer models by random weights, and return the study."""
    from mil_toolkit.study.tables import publish_table, read_predictions

    random = np.random.default_rng(0)
    for path in sorted(study.glob("outer/*/attention.csv")):
        table = read_predictions(path)
        drawn = pd.Series(random.random(len(table)))
        shares = drawn / drawn.groupby(table["patient_id"]).transform("sum")
        publish_table(path, table.assign(attention=shares))
    return study


HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"quoted\" & 'single'",
    "=cmd|' /C calc'!A0",
    "{{ 7 * 7 }}{% raw %}",
    "right\u202eto left\u200f",
    "\u05d0\u05d1\u05d2 שם",
    "two\nlines",
    "$\\frac{1}{0}$",
    "--> ]]> &lt;",
)


class HostileStudy(NamedTuple):
    """A study, and the names of its patients."""

    study: Path
    patients: list[str]


def hostile_study(folder: Path) -> HostileStudy:
    """Create a study with names of patients, columns, categories, classes and images that need escaping."""
    from mil_toolkit.config.extraction import ExtractionConfig
    from mil_toolkit.config.study import StudyConfig
    from mil_toolkit.features.extract import extract
    from mil_toolkit.study.tune import tune

    random = np.random.default_rng(0)
    patients = [f"{name}{number}" for number, name in enumerate(HOSTILE + HOSTILE[:6])]
    rows, images = [], []
    for number, patient in enumerate(patients):
        rows.append((patient, ("<b>bad</b>", "=good")[number % 2], number + 40, HOSTILE[number % 3]))
        for place in range(3):
            path = Path("images") / str(number) / f"{HOSTILE[(number + place) % 10].replace('/', '|')}.png"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / path)
            images.append((patient, path.as_posix()))
    pd.DataFrame(rows, columns=["id", "class", HOSTILE[0], HOSTILE[1]]).to_csv(folder / "t.csv", index=False)
    pd.DataFrame(images, columns=["patient", "path"]).to_csv(folder / "i.csv", index=False)
    (folder / "cohort.toml").write_text(
        '[cohort]\nname = "hostile"\ntable = "t.csv"\nimage_table = "i.csv"\nid = "id"\nlabel = "class"\n'
        'positive = "<b>bad</b>"\nnegative = "=good"\n'
        f'[metadata.{json.dumps(HOSTILE[0])}]\ncolumn = {json.dumps(HOSTILE[0])}\nkind = "number"\n'
        f"unit = {json.dumps(HOSTILE[1])}\n"
        f'[metadata.{json.dumps(HOSTILE[2])}]\ncolumn = {json.dumps(HOSTILE[1])}\nkind = "category"\n'
    )
    cohort = read_cohort(folder / "cohort.toml")
    features = extract(
        cohort, ExtractionConfig("resnet18", "random", image_size=32), folder / "cache", device="cpu"
    )
    settings = {"epochs": (2,), "hidden": (32,), "pooling": ("attention",)}
    config = StudyConfig(trials=2, folds=2, outer_folds=2, members=1, settings=settings)
    tune(cohort, FeatureCache.open(features.folder), folder / "study", config, "cpu")
    return HostileStudy(weighed(folder / "study"), patients)
