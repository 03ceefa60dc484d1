"""Random seeds, each derived from the path of what it is for: (seed, repeat, outer fold, trial, ...)."""

import numpy as np


def derive_seeds(count: int, *path: int) -> list[int]:
    """Seeds that depend on (seed, repeat, outer fold, trial, ...) and on nothing else."""
    # The length goes in too: SeedSequence takes (1, 2) and (1, 2, 0) for the same.
    return [int(word) for word in np.random.SeedSequence((len(path), *path)).generate_state(count)]


MEMBERS = 1_000_000  # in the place of a trial's number: the seeds of run-again and refit
