"""How often the audit raises an alarm where there is nothing to find, and how often it finds planted copies.

Draws cohorts whose labels are independent of everything, without and with patients who were entered twice
(5 % noise in numbers and embeddings), and audits them. Writes two tables in Markdown to stdout, or with
--json one object: `shortcuts`, `copies` and `any` (the largest share of alarms over the clean kinds), `found`
(the smallest share over the kinds with copies), and the shares of every kind.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.planted import Column, make_cache, make_cohort

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.audit import audit

NOISE = 0.05  # of a column's standard deviation
COUNTED = ("shortcuts", "copies", "any")  # alarms
PATIENTS, WIDTH, MOST_IMAGES = 90, 24, 6

Columns = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator, int], Columns]


def independent(random: np.random.Generator, count: int) -> Columns:
    """Return six independent numbers."""
    return dict(zip("abcdef", random.normal(size=(6, count)), strict=True))


def correlated(random: np.random.Generator, count: int) -> Columns:
    """Return six numbers with a common cause."""
    return dict(zip("abcdef", random.normal(size=(6, count)) + 1.5 * random.normal(size=count), strict=True))


def clinic(random: np.random.Generator, count: int) -> Columns:
    """Return age in whole years, a skewed count and sex."""
    return {
        "age": random.normal(62, 14, count).round(),
        "lymphocytes": np.exp(random.normal(2.5, 0.8, count)).round(1),
        "sex": np.array(["F", "M"])[random.integers(0, 2, count)],
    }


def words(random: np.random.Generator, count: int) -> Columns:
    """Return categories of 2, 3, 6 and 20 words."""
    return {
        f"words{size}": np.array([f"w{word}" for word in random.integers(0, size, count)])
        for size in (2, 3, 6, 20)
    }


def gaps(random: np.random.Generator, count: int) -> Columns:
    """Return three rounded numbers with missing values."""
    rounded = np.round(random.normal(size=(3, count)), 1)
    return dict(zip("abc", np.where(random.random((3, count)) < 0.2, np.nan, rounded), strict=True))


KINDS: dict[str, Draw] = {draw.__name__: draw for draw in (independent, correlated, clinic, words, gaps)}


def again(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a column with every patient entered twice, numbers with noise."""
    noise = 0 if values.dtype.kind == "U" else NOISE * np.nanstd(values) * random.normal(size=len(values))
    return np.append(values, values if values.dtype.kind == "U" else values + noise)


def draw_cohort(
    draw: Draw, random: np.random.Generator, folder: Path, images: bool, grouped: bool, twice: bool
) -> tuple[Cohort, FeatureCache | None]:
    """Return a cohort of PATIENTS entries; with groups of two patients, both have one label."""
    count = PATIENTS // 2 if twice else PATIENTS
    columns: dict[str, Column] = dict(draw(random, count))
    if twice:
        columns = {name: again(np.asarray(values), random) for name, values in columns.items()}
    labels = random.permutation(np.arange(PATIENTS) % 3 > 0).astype(int)
    groups = None
    if grouped:
        labels = np.repeat(random.permutation(np.arange(PATIENTS // 2) % 3 > 0).astype(int), 2)
        groups = [f"G{number // 2}" for number in range(PATIENTS)]
    cohort = make_cohort(labels, columns, groups)
    if not images:
        return cohort, None
    centres = random.normal(size=(count, 1, WIDTH))
    bags = [centre + random.normal(size=(random.integers(2, MOST_IMAGES + 1), WIDTH)) for centre in centres]
    if twice:
        bags += [bag + NOISE * random.normal(size=bag.shape) for bag in bags]
    return cohort, make_cache(folder, cohort, bags)


def alarms(draw: Draw, draws: int, images: bool, grouped: bool, twice: bool) -> dict[str, float]:
    """Return the shares of audits with a shortcut, with copies and with either."""
    seen = []
    for seed in range(draws):
        with TemporaryDirectory() as folder:
            random = np.random.default_rng(seed)
            cohort, cache = draw_cohort(draw, random, Path(folder), images, grouped, twice)
            levels = {finding.level for finding in audit(cohort, cache)}
        seen.append(["shortcut" in levels, "leak" in levels, bool(levels & {"shortcut", "leak"})])
    return dict(zip(COUNTED, np.mean(seen, axis=0).tolist(), strict=True))


def clean(draws: int) -> dict[str, dict[str, float]]:
    """Return the shares of alarms for every kind of cohort in which there is nothing to find."""
    variants = {"": (False, False), ", with images": (True, False), ", in groups of two": (False, True)}
    return {
        name + variant: alarms(draw, draws, images, grouped, False)
        for name, draw in KINDS.items()
        for variant, (images, grouped) in variants.items()
    }


def planted(draws: int) -> dict[str, dict[str, float]]:
    """Return the shares of alarms where every patient was entered twice; three kinds without images too."""
    by_table = {f"{name}, by the table": (name, False) for name in ("independent", "correlated", "clinic")}
    by_images = {f"{name}, with images": (name, True) for name in KINDS}
    return {
        label: alarms(KINDS[name], draws, images, False, True)
        for label, (name, images) in (by_table | by_images).items()
    }


def main() -> None:
    """Print the shares of alarms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000, help="cohorts of each clean kind (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    nothing, copies = clean(arguments.draws), planted(max(1, arguments.draws // 5))
    if arguments.json:
        worst = {name: max(shares[name] for shares in nothing.values()) for name in COUNTED}
        found = min(shares["copies"] for shares in copies.values())
        print(json.dumps({**worst, "found": found, "clean": nothing, "planted": copies}))
        return
    print("| clean cohorts | shortcuts | copies | any alarm |\n|---|---|---|---|")
    for name, shares in nothing.items():
        print(f"| {name} | {shares['shortcuts']:.1%} | {shares['copies']:.1%} | {shares['any']:.1%} |")
    print("\n| every patient entered twice | copies found |\n|---|---|")
    for name, shares in copies.items():
        print(f"| {name} | {shares['copies']:.0%} |")


if __name__ == "__main__":
    main()
