"""Random seeds, each derived from a path of integers that says what it is for.

Every path starts with the seed of the study (or of the estimator) and continues as follows. A search is
identified by its repeat and its outer fold, both counted from 1, or by `FINAL`; a trial by its number,
counted from 0.

====================================================  ===============================================
path                                                  what is drawn
====================================================  ===============================================
seed, repeat, 0                                       the outer folds of a repeat
seed, repeat, fold                                    the inner folds of a search
seed, repeat, fold, trial                             the training and the sampler of a trial
seed, repeat, fold, MEMBERS                           the members of the chosen configuration
seed, repeat, fold, THINNING                          the images that an ablation keeps
seed, repeat, fold, SUBSET                            the training patients that a learning curve keeps
seed, repeat, fold, FINETUNING, bytes of a name, ...  the fine-tuning of one of these members' backbones
seed, SHUFFLED_LABELS, run                            a canary's run: its shuffled labels and its study
====================================================  ===============================================

Seeds on different paths are independent. Changing a number below changes the results of every existing study.
"""

import numpy as np

FINAL = (0, 0)
"""In place of (repeat, outer fold): the search on all labelled patients."""
MEMBERS = 1_000_000
"""In place of a trial's number: the seeds of the members that train again with the chosen configuration."""
THINNING = MEMBERS + 1
"""In place of a trial's number: the seed that draws the images of the ablation with fewer images."""
SUBSET = MEMBERS + 2
"""In place of a trial's number: the seed that draws the training patients of a learning curve."""
FINETUNING = 2_000_000
"""In place of a trial's number: the seeds of fine-tuning."""
SHUFFLED_LABELS = 2_000_000
"""In place of a repeat: the seeds of the canary's runs, each with its labels shuffled."""


def derive_seeds(count: int, *path: int) -> list[int]:
    """Return `count` seeds below 2**32 that depend only on `path`.

    >>> derive_seeds(2, 0, 1, 3)
    [3158670098, 3648300120]
    >>> derive_seeds(1, 0, 1, 3, 0) == derive_seeds(1, 0, 1, 3)
    False
    """
    # With the length, (1, 2) and (1, 2, 0) differ; SeedSequence alone would pad them to the same entropy.
    return [int(word) for word in np.random.SeedSequence((len(path), *path)).generate_state(count)]


def derive_seed(*path: int) -> int:
    """Return the first of the seeds of `path`.

    >>> derive_seed(0, 1, 3) == derive_seeds(2, 0, 1, 3)[0]
    True
    """
    return derive_seeds(1, *path)[0]


def outer_folds_path(seed: int, repeat: int) -> tuple[int, ...]:
    """Return the seed path of the outer folds of a repeat, counted from 1.

    >>> outer_folds_path(7, repeat=2)
    (7, 2, 0)
    """
    return (seed, repeat, 0)


def inner_folds_path(seed: int, search: tuple[int, int]) -> tuple[int, ...]:
    """Return the seed path of the inner folds of a search, which is (repeat, outer fold) or FINAL.

    >>> inner_folds_path(7, (2, 3))
    (7, 2, 3)
    """
    return (seed, *search)


def trial_path(seed: int, search: tuple[int, int], number: int) -> tuple[int, ...]:
    """Return the seed path of a trial of a search, by the trial's number from 0.

    >>> trial_path(7, (2, 3), 4)
    (7, 2, 3, 4)
    """
    return (seed, *search, number)


def members_path(seed: int, search: tuple[int, int]) -> tuple[int, ...]:
    """Return the seed path of the members of a search's chosen configuration.

    >>> members_path(7, FINAL)
    (7, 0, 0, 1000000)
    """
    return (seed, *search, MEMBERS)


def thinning_path(seed: int, search: tuple[int, int]) -> tuple[int, ...]:
    """Return the seed path of the images that an ablation keeps of the held-out patients of a search.

    >>> thinning_path(7, (2, 3))
    (7, 2, 3, 1000001)
    """
    return (seed, *search, THINNING)


def subset_path(seed: int, search: tuple[int, int]) -> tuple[int, ...]:
    """Return the seed path of the training patients that a learning curve keeps in a search.

    >>> subset_path(7, (2, 3))
    (7, 2, 3, 1000002)
    """
    return (seed, *search, SUBSET)


def finetuning_path(seed: int, search: tuple[int, int], name: str) -> tuple[int, ...]:
    """Return the seed path of a fine-tuning run in a search, named after the patients that it trains on.

    >>> finetuning_path(7, (2, 3), "all")
    (7, 2, 3, 2000000, 97, 108, 108)
    """
    return (seed, *search, FINETUNING, *name.encode())


def shuffled_labels_path(seed: int, run: int) -> tuple[int, ...]:
    """Return the seed path of a canary's run, counted from 0: of its shuffled labels and of its study's seed.

    >>> shuffled_labels_path(7, run=5)
    (7, 2000000, 5)
    """
    return (seed, SHUFFLED_LABELS, run)
