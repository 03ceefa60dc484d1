"""Measure a whole nested search with one and with several searches at once, and reckon it for more cores.

    python benchmarks/workers.py [--cohort COHORT.toml --features CACHE_FOLDER] [--trials 50] [--workers 1 2]
        [--rounds 1] [--json]

By default the cohort is simulated: 163 patients with 16 to 150 images each, embedded by a random resnet18.
`mil-tune` runs its default study (5 x 5 folds, 5 members) with each number of workers. Printed are the wall
time, the processor time of all processes, ratios within a round, and whether the results are the same to the
bit. The rest is reckoned from the run with one worker: its searches, of the durations that they had, are
distributed over the cores as `mil-tune` does it, and everything else takes as long as it took.
"""

import argparse
import heapq
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.cores import available_cores
from mil_toolkit.features.extract import extract

COMMAND = "import sys; from mil_toolkit.cli.tune import main; sys.exit(main(sys.argv[1:]))"
CORES, REPEATS = (4, 8, 16, 32), (1, 3)
RESULTS = ("trials.csv", "best.json", "predictions.csv", "scores.json", "out_of_fold.csv", "rivals.csv")


@dataclass(frozen=True)
class Run:
    """One run of mil-tune: seconds on the clock and of the processors, and its study folder."""

    wall: float
    processor: float
    study: Path

    @property
    def searches(self) -> dict[str, float]:
        """Seconds of each search by name: from its first trial to its last file."""
        storage = f"sqlite:///{self.study / 'optuna.db'}"
        seconds = {}
        for name in optuna.get_all_study_names(storage):
            trials = optuna.load_study(study_name=name, storage=storage).trials
            begun = min(trial.datetime_start for trial in trials if trial.datetime_start)
            files = "best.json" if name == "final" else f"outer/{name}/predictions.csv"
            seconds[name] = (self.study / files).stat().st_mtime - begun.timestamp()
        return seconds

    @property
    def results(self) -> dict[str, bytes]:
        """The content of every file with results."""
        paths = (path for path in sorted(self.study.rglob("*")) if path.name in RESULTS)
        return {str(path.relative_to(self.study)): path.read_bytes() for path in paths}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohort", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="the first one has to be 1")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.cohort is None:
            arguments.cohort, arguments.features = simulated(Path(name))
        figures = measured(arguments, Path(name))
    print(json.dumps(figures) if arguments.json else "\n".join(lines(figures)))


def simulated(folder: Path) -> tuple[Path, Path]:
    """Draw a cohort of the size of the lymphocytosis challenge, and embed it."""
    toml = draw_cohort(folder / "cohort", patients=163, unlabelled=0, image_size=32, images=(16, 150))
    config = ExtractionConfig("resnet18", "random", image_size=32)
    return toml, extract(read_cohort(toml), config, folder / "cache", device="cpu").folder


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, float | bool]:
    """Run the study with each number of workers, in turn, and return all figures."""
    argv = [str(arguments.cohort), "--features", str(arguments.features), "--trials", str(arguments.trials)]
    load, rounds = os.getloadavg()[0], []
    for number in range(arguments.rounds):
        rounds.append({count: tune(argv, folder / f"{number}-{count}", count) for count in arguments.workers})
    figures: dict[str, float | bool] = {"cores": available_cores(), "load_before": round(load, 1)}
    best = min(rounds, key=lambda runs: runs[1].wall)
    for count in arguments.workers:
        run = min((runs[count] for runs in rounds), key=lambda run: run.wall)
        figures[f"wall_{count}"], figures[f"processor_{count}"] = round(run.wall, 1), round(run.processor, 1)
        figures[f"speed_up_{count}"] = round(max(runs[1].wall / runs[count].wall for runs in rounds), 2)
        figures[f"same_bits_{count}"] = all(runs[count].results == best[1].results for runs in rounds)
    return figures | dict(reckoned(best[1]))


def tune(argv: Sequence[str], study: Path, workers: int) -> Run:
    """Run a study in a process of its own."""
    command = [sys.executable, "-c", COMMAND, *argv, "--study", str(study), "--workers", str(workers)]
    begun, before = time.monotonic(), processor_seconds()
    subprocess.run([*command, "--device", "cpu"], check=True, capture_output=True)
    return Run(time.monotonic() - begun, processor_seconds() - before, study)


def processor_seconds() -> float:
    """Return the processor time of all processes that have ended, those of their workers included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def reckoned(alone: Run) -> Iterator[tuple[str, float]]:
    """Yield the reckoned speed-up for numbers of cores and repeats, from a run with one worker."""
    seconds = alone.searches
    outer = [took for name, took in seconds.items() if name != "final"]
    other = alone.wall - sum(seconds.values())
    yield "seconds_final", round(seconds["final"], 1)
    yield "seconds_outer_mean", round(sum(outer) / len(outer), 1)
    yield "seconds_other", round(other, 1)
    for repeats in REPEATS:
        searches = [seconds["final"], *outer * repeats]
        for cores in CORES:
            whole = sum(searches) + other
            yield (
                f"reckoned_{cores}_cores_{repeats}_repeats",
                round(whole / (makespan(searches, cores) + other), 2),
            )


def makespan(searches: Sequence[float], processes: int) -> float:
    """Return when the last search ends, if every free process takes the next one."""
    free = [0.0] * processes
    for seconds in searches:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


def lines(figures: dict[str, float | bool]) -> Iterator[str]:
    """Yield the figures, those that are reckoned apart."""
    for name, value in figures.items():
        kind = "reckoned" if name.startswith("reckoned") else "measured"
        yield f"{kind}  {name.removeprefix('reckoned_')}: {value}"


if __name__ == "__main__":
    main()
