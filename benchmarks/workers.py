"""Measure the trials per minute of `mil-tune` with 1, 2 and 4 workers on this machine.

    python benchmarks/workers.py [--rounds 3] [--trials 24] [--json]

The default head is tuned without pruning on a synthetic cohort of 80 patients with 20 to 40 images each. Each
round runs a study with each number of workers, and the medians of the rounds' ratios are printed, so that a
temporary load on the machine affects all of them. A study is timed from the start of its first trial to the
end of its last one; the time until the first trial starts is printed separately.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import optuna

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.core.devices import available_cores
from mil_toolkit.features.extract import extract

WORKERS = (1, 2, 4)
COMMAND = "import sys; from mil_toolkit.cli.tune import main; sys.exit(main(sys.argv[1:]))"
OPTIONS = ["--outer-folds", "0", "--members", "1", "--epochs", "30", "--set", "patience=30"]
OPTIONS += ["--sampler", "random", "--pruner", "none", "--device", "cpu"]


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        rounds = measure(Path(name), arguments.rounds, arguments.trials)
    figures = summary(rounds) | {"cores": available_cores(), "load_before": round(load, 1)}
    print(json.dumps(figures) if arguments.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))


def measure(folder: Path, rounds: int, trials: int) -> list[dict[int, tuple[float, float]]]:
    """Return, per round and number of workers, the trials per minute and the seconds to the first trial."""
    toml = draw_cohort(folder / "cohort", patients=80, unlabelled=0, image_size=32, images=(20, 40))
    config = ExtractionConfig("resnet18", "random", image_size=32)
    features = extract(read_cohort(toml), config, folder / "cache", device="cpu").folder
    argv = [str(toml), "--features", str(features), "--trials", str(trials), *OPTIONS]
    return [
        {count: tune(argv, folder / f"{turn}-{count}", count, trials) for count in WORKERS}
        for turn in range(rounds)
    ]


def tune(argv: list[str], study: Path, workers: int, trials: int) -> tuple[float, float]:
    """Run a study; return its trials per minute and the seconds to its first trial."""
    begun = time.time()
    command = [sys.executable, "-c", COMMAND, *argv, "--study", str(study), "--workers", str(workers)]
    subprocess.run(command, check=True, capture_output=True)
    stored = optuna.load_study(study_name="final", storage=f"sqlite:///{study / 'optuna.db'}").trials
    first = min(trial.datetime_start or datetime.max for trial in stored)
    last = max(trial.datetime_complete or datetime.min for trial in stored)
    return trials / (last - first).total_seconds() * 60, first.timestamp() - begun


def summary(rounds: list[dict[int, tuple[float, float]]]) -> dict[str, float]:
    """Return medians over the rounds, and the speed-up over one worker in the same round."""
    figures: dict[str, float] = {}
    for count in WORKERS:
        rates, starts = zip(*(figures_of[count] for figures_of in rounds), strict=True)
        ratios = [figures_of[count][0] / figures_of[1][0] for figures_of in rounds]
        figures[f"trials_a_minute_{count}"] = round(statistics.median(rates), 1)
        figures[f"times_one_{count}"] = round(statistics.median(ratios), 2)
        figures[f"seconds_to_start_{count}"] = round(statistics.median(starts), 1)
    return figures


if __name__ == "__main__":
    main()
