"""How often mil-predict calls patients outside the domain: of the same kind, and of another one.

    python benchmarks/domain.py drawn
    python benchmarks/domain.py cohort COHORT.toml CACHE_FOLDER [OTHER_NAME=OTHER_CACHE_FOLDER ...]
    python benchmarks/domain.py cohort COHORT.toml CACHE_FOLDER --altered FOLDER [--most 24]

`drawn` fits domains on cohorts of random embeddings and metadata, and counts alarms among new patients of the
same distribution. `cohort` holds out each fold of a real cohort in turn, fits the domain on all others, and
judges the held-out patients as they are (false alarms), with each number in another unit, and with the
embeddings of other caches: of the same patients, whose images were altered (stain, magnification). With
`--altered`, it alters the images itself: it writes copies below the folder, embeds them as those of the cache
were embedded, and takes at most so many images of each patient, altered or not.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from alterations import altered_caches, some_images  # type: ignore[import-not-found]  # beside this one

from mil_toolkit.bundle.domain.fit import fit_domain
from mil_toolkit.bundle.domain.judge import reasons_by_patient
from mil_toolkit.bundle.predict import extraction_config
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.evaluation.bounds import exact_interval
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit

FOLDS, FACTORS = 5, (100, 1000, 0.01, 0.001)
CONFIG = HeadConfig(epochs=1, hidden=32)


def outside(train: Patients, *others: Patients) -> Iterator[np.ndarray]:
    """Yield which of other patients are outside the domain of a model on the training patients, (n,) bool."""
    head = refit(train, CONFIG, 1, 1, (0,))
    domain = fit_domain(train, head, seed=0)
    assert domain is not None
    units = dict.fromkeys(domain.domain.numbers)
    for patients in others:
        yield np.array([bool(found) for found in reasons_by_patient(domain, head, units, patients)])


def in_other_unit(patients: Patients, column: str, factor: float) -> Patients:
    """Return the patients with a number in another unit."""
    values = {column: patients.metadata[column] * factor}
    return replace(patients, metadata=patients.metadata.assign(**values))


def drawn(count: int, random: np.random.Generator) -> Patients:
    """Return patients with correlated embeddings, skewed counts, an age with gaps, and a category."""
    sizes = random.integers(5, 60, count)
    mixing = np.random.default_rng(1).normal(size=(24, 24)) / 5
    bags = []
    for size in sizes:
        own = random.standard_t(4, 24) @ mixing
        bags.append(torch.from_numpy(own + random.normal(size=(size, 24)) @ mixing).float())
    age = np.where(random.random(count) < 0.1, np.nan, random.uniform(20, 95, count))
    columns = {"age": age, "count": 4 + np.exp(random.normal(1.5, 1.2, count))}
    sex = random.choice(["F", "M"], count).astype(object)
    ids = [str(number) for number in range(count)]
    metadata = pd.DataFrame({**columns, "sex": sex}, index=ids)
    names = [str(row) for row in range(int(sizes.sum()))]
    return Patients(Bags.pack(bags, ids, names), np.arange(count) % 2, metadata, ("count",))


def print_drawn() -> None:
    """Print the alarms among new patients for cohorts of several sizes."""
    for count, cohorts in ((40, 20), (90, 20), (300, 6)):
        shares, found = [], {factor: 0.0 for factor in FACTORS}
        for seed in range(cohorts):
            random = np.random.default_rng(seed)
            train, new = drawn(count, random), drawn(200, random)
            units = [in_other_unit(new, "count", factor) for factor in FACTORS]
            same, *others = outside(train, new, *units)
            shares.append(same.mean())
            for factor, flags in zip(FACTORS, others, strict=True):
                found[factor] += flags.mean() / cohorts
        error = np.std(shares) / np.sqrt(cohorts)
        print(
            f"drawn, {count} training patients: false alarms {np.mean(shares):.3f} (+- {error:.3f})", end=""
        )
        print("; count in another unit:", ", ".join(f"x{key:g} {share:.3f}" for key, share in found.items()))


def described(flags: np.ndarray) -> str:
    """Return the share of patients outside, with its exact interval."""
    low, high = exact_interval(int(flags.sum()), len(flags))
    return f"{int(flags.sum())} of {len(flags)} outside, {flags.mean():.3f} ({low:.3f} to {high:.3f})"


def of_cohort(cohort: Cohort, cache: str) -> Patients:
    """Return the labelled patients with the features of a cache folder."""
    return Patients.of(cohort, FeatureCache.open(Path(cache)))


def altered(toml: str, cache: str, folder: Path, most: int) -> dict[str, Patients]:
    """Return the labelled patients with some of their images, as they are and altered."""
    cohort = some_images(read_cohort(Path(toml)).labelled(), most)
    spec = FeatureCache.open(Path(cache)).spec
    caches = altered_caches(cohort, extraction_config(spec, None), folder, spec.get("colour"))
    return {name: of_cohort(cohort, str(path)) for name, path in caches.items()}


def unaltered(toml: str, cache: str, others: Sequence[str]) -> dict[str, Patients]:
    """Return the labelled patients with the features of this cache, and of others by their name."""
    cohort = read_cohort(Path(toml), images=False).labelled()
    caches = {"as they are": cache} | dict(other.split("=", 1) for other in others)
    return {name: of_cohort(cohort, path) for name, path in caches.items()}


def print_cohort(kinds: dict[str, Patients]) -> None:
    """Print the alarms among the held-out patients of a real cohort, as they are and altered."""
    patients = kinds["as they are"]
    numbers = [str(name) for name, values in patients.metadata.items() if values.dtype.kind == "f"]
    for name in numbers:
        kinds |= {f"{name} x {factor:g}": in_other_unit(patients, name, factor) for factor in FACTORS}
    flags = {name: np.zeros(len(patients), dtype=bool) for name in kinds}
    fold = np.random.default_rng(0).permutation(len(patients)) % FOLDS
    for number in range(FOLDS):
        test = np.flatnonzero(fold == number)
        held_out = [kind.take(test) for kind in kinds.values()]
        results = outside(patients.take(np.flatnonzero(fold != number)), *held_out)
        for name, result in zip(kinds, results, strict=True):
            flags[name][test] = result
    for name, result in flags.items():
        print(f"{name}: {described(result)}")


def main() -> None:
    """Print the alarms of drawn cohorts or of a real one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("drawn")
    real = kinds.add_parser("cohort")
    real.add_argument("toml", metavar="COHORT.toml")
    real.add_argument("cache", metavar="CACHE_FOLDER")
    real.add_argument("others", nargs="*", metavar="OTHER_NAME=OTHER_CACHE_FOLDER")
    real.add_argument("--altered", type=Path, metavar="FOLDER")
    real.add_argument("--most", type=int, default=24, metavar="IMAGES")
    arguments = parser.parse_args()
    if arguments.kind == "drawn":
        print_drawn()
    elif arguments.altered is not None:
        print_cohort(altered(arguments.toml, arguments.cache, arguments.altered, arguments.most))
    else:
        print_cohort(unaltered(arguments.toml, arguments.cache, arguments.others))


if __name__ == "__main__":
    main()
