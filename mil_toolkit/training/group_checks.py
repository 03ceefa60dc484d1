"""Checks of the groups within which embeddings are standardised (`standardise=group`)."""

from collections.abc import Iterator

import numpy as np

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import count_of, printable

LEAST_PATIENTS = 10  # of a group: moments of fewer depend on who they are more than on the site


def group_problems(groups: np.ndarray | None) -> Iterator[str]:
    """Yield why embeddings cannot be standardised within groups; groups: (B,) names, None without any."""
    if groups is None:
        yield (
            "standardise=group scales the embeddings of each group of patients, such as a hospital's, by"
            f" the moments of the group, of at least {LEAST_PATIENTS} patients. These patients have no"
            " groups, and one patient alone is not enough. Declare the column of the groups:"
            ' group = "..." under [cohort] in cohort.toml.'
        )
        return
    for name, count in zip(*np.unique(groups, return_counts=True), strict=True):
        if count < LEAST_PATIENTS:
            yield (
                f"group {printable(str(name))} has {count_of(int(count), 'patient')}; standardise=group needs"
                f" at least {LEAST_PATIENTS} patients of each group, whose moments it estimates."
            )


def check_groups(groups: np.ndarray | None) -> np.ndarray:
    """Return groups within which embeddings can be standardised; raises DataError with all problems."""
    problems = list(group_problems(groups))
    if groups is None or problems:
        raise DataError(problems)
    return groups
