"""Damage files of every format at random, and count the cases in which the commands end as they should.

    python benchmarks/fuzz.py [--seconds 60] [--format NAME ...] [--seed 0]

A command that reads a damaged file gives the right result, or ends with the exit code 2, 3 or 75 and a
sentence, and leaves all files as they were. Each case runs in a process with limited memory and time. The
formats are in tests/support/fuzz_targets.py. Failures are printed with the last lines of the command, and the
exit code is 1.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from support.fuzz_targets import TARGETS
from support.fuzzing import fuzz, prepared
from support.studies import Tiny

from mil_toolkit.bundle.fit import fit
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import Value
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.study.tune import tune

SETTINGS: dict[str, tuple[Value, ...]] = {"epochs": (3,), "hidden": (32,), "pooling": ("attention",)}
STUDY = StudyConfig(trials=2, folds=2, outer_folds=2, members=2, settings=SETTINGS)
ROUND = 10  # cases from one seed


def main() -> int:
    """Fuzz the formats, and return 1 if any case ended wrongly."""
    parser = argparse.ArgumentParser(description="Damage files of every format at random.")
    parser.add_argument("--seconds", type=float, default=60, help="of each format")
    parser.add_argument("--format", nargs="*", choices=TARGETS, default=list(TARGETS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="of the first cases of each format")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as folder, prepared():
        tiny = small_study(Path(folder))
        for name in arguments.format:
            failed += fuzz_format(name, tiny, Path(folder), arguments.seconds, arguments.seed)
    return min(failed, 1)


def small_study(folder: Path) -> Tiny:
    """Draw, embed, tune and fit a cohort of 24 patients."""
    toml = draw_cohort(folder / "tiny" / "cohort", patients=24, unlabelled=3, image_size=32, images=(2, 4))
    cohort, config = read_cohort(toml), ExtractionConfig("resnet18", "random", image_size=32)
    features = extract(cohort, config, folder / "tiny" / "cache", device="cpu").folder
    study = folder / "tiny" / "studies" / "tiny"
    tune(cohort, FeatureCache.open(features), study, STUDY, "cpu")
    fit(cohort, FeatureCache.open(features), study, study / "model", "cpu")
    return Tiny(folder / "tiny", toml, features, study)


def fuzz_format(name: str, tiny: Tiny, folder: Path, seconds: float, seed: int) -> int:
    """Fuzz one format for some time, print the number of cases, and return how many ended wrongly."""
    target, start = TARGETS[name], time.monotonic()
    place = folder / name.replace(" ", "-")
    place.mkdir()
    tree = target.tree(tiny, place)
    cases, failures = 0, list[str]()
    for number in itertools.count(seed):
        done = fuzz(tree, target.damage(tree.files), target.commands, ROUND, number)
        cases, failures = cases + done.cases, failures + done.failures
        for failure in done.failures:
            print(f"{name}, seed {number}: {failure}\n", flush=True)
        if time.monotonic() - start > seconds:
            break
    taken = time.monotonic() - start
    print(f"{name}: {cases} cases in {taken:.0f} s, {len(failures)} ended wrongly", flush=True)
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
