"""How often the answers of `mil-predict --abstain` contain the outcome of new patients.

    python benchmarks/abstention.py drawn [--cohorts 400]
    python benchmarks/abstention.py study STUDY_FOLDER

`drawn` draws small cohorts, each patient alone or in groups of three that share an effect. Five folds, which
never divide a group, give the held-out scores. A model of all patients answers for new patients of other
groups, as a bundle does. The models are linear discriminants and least squares, which are fitted at once.
`study` prints the coverage on the outer folds of a study, each with the calibration of the others.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mil_toolkit.evaluation.conformal import HeldOutScores, class_sets
from mil_toolkit.evaluation.words import with_interval
from mil_toolkit.study.abstention import coverage
from mil_toolkit.study.folder import Study
from mil_toolkit.study.tables import read_predictions

ALPHAS, FOLDS, NEW, COLUMNS = (0.1, 0.2), 5, 60, 4
KINDS = {"binary": 2, "three classes": 3, "number": 0}


class Drawn(NamedTuple):
    """Drawn patients: columns (n, COLUMNS), targets (n,), and their groups (n,)."""

    columns: np.ndarray
    targets: np.ndarray
    groups: np.ndarray


def draw(count: int, classes: int, size: int, random: np.random.Generator) -> Drawn:
    """Return patients in groups of this size. classes: 0 for a number."""
    groups = np.arange(count) // size
    effects = random.normal(0, 0.7 * (size > 1), (count // size + 1, COLUMNS))[groups]
    columns = random.normal(size=(count, COLUMNS)) + effects
    if classes:
        targets = random.permutation(np.arange(count) % classes)
        columns[:, 0] += 1.5 * targets
        columns[:, 1] -= 1.0 * (targets == 1)
        return Drawn(columns, targets, groups)
    return Drawn(columns, columns[:, 0] + random.normal(0, 1, count) + effects[:, 1], groups)


def predict(train: Drawn, new: np.ndarray, classes: int) -> np.ndarray:
    """Return probabilities (m, classes), or numbers (m,), of new patients by their columns (m, COLUMNS)."""
    if not classes:
        design = np.c_[np.ones(len(train.columns)), train.columns]
        solution = np.linalg.lstsq(design, train.targets, rcond=None)[0]
        return np.asarray(np.c_[np.ones(len(new)), new] @ solution)
    means = np.stack([train.columns[train.targets == number].mean(0) for number in range(classes)])
    centred = train.columns - means[train.targets]
    precision = np.linalg.inv(centred.T @ centred / len(centred) + 0.05 * np.eye(COLUMNS))
    away = new[:, None] - means
    logits = -0.5 * np.einsum("mcj,jk,mck->mc", away, precision, away)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def held_out(patients: Drawn, classes: int, random: np.random.Generator) -> list[HeldOutScores]:
    """Return the scores of patients by the models of the folds that hold out their group."""
    names = np.unique(patients.groups)
    fold = (random.permutation(len(names)) % FOLDS)[patients.groups]
    scores = np.zeros((len(fold), max(1, classes)))
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        model = Drawn(*(values[train] for values in patients))
        predicted = predict(model, patients.columns[test], classes)
        scores[test] = 1 - predicted if classes else np.abs(predicted - patients.targets[test])[:, None]
    if not classes:
        return [HeldOutScores.of(scores[:, 0], patients.groups)]
    masks = [patients.targets == number for number in range(classes)]
    return [HeldOutScores.of(scores[mask, at], patients.groups[mask]) for at, mask in enumerate(masks)]


def covered(count: int, classes: int, size: int, alpha: float, seed: int) -> tuple[np.ndarray, float]:
    """Return the shares of new patients whose answer is right, by class or all, and the undecided."""
    random = np.random.default_rng(seed)
    patients, new = draw(count, classes, size, random), draw(NEW, classes, size, random)
    calibration = held_out(patients, classes, random)
    predicted = predict(patients, new.columns, classes)
    if not classes:
        inside = np.abs(predicted - new.targets) <= calibration[0].margin(alpha)
        return np.array([inside.mean()]), 0.0
    sets = class_sets(calibration, 1 - predicted, alpha)
    inside = sets[np.arange(NEW), new.targets]
    shares = [inside[new.targets == number].mean() for number in range(classes)]
    return np.array(shares), float((sets.sum(1) > 1).mean())


def print_drawn(cohorts: int) -> None:
    """Print the coverage over cohorts of several kinds and sizes, with its standard error."""
    for kind, classes in KINDS.items():
        for count, size in ((30, 1), (90, 1), (90, 3)):
            for alpha in ALPHAS:
                drawn = [covered(count, classes, size, alpha, seed) for seed in range(cohorts)]
                shares = np.array([shares for shares, _ in drawn])
                error = shares.std(0, ddof=1) / np.sqrt(cohorts)
                words = ", ".join(f"{one:.3f}" for one in shares.mean(0))
                undecided = np.mean([share for _, share in drawn])
                print(
                    f"{kind}, {count} patients in groups of {size}, ALPHA {alpha:g}: coverage {words}"
                    f" (standard error at most {error.max():.3f}); undecided {undecided:.3f}"
                )


def print_study(folder: Path) -> None:
    """Print the coverage on the outer folds of a study."""
    study = Study.open(folder)
    table, sets = study.table(read_predictions(study.final.predictions)), study.outcome.sets
    assert sets is not None  # it has classes or a number
    for alpha in ALPHAS:
        one = coverage(sets, table, alpha)
        words = ", then each class: ".join(
            [with_interval(one.covered), ", ".join(with_interval(share) for share in one.classes)]
        )
        print(f"ALPHA {alpha:g}: coverage {words}; undecided {one.undecided}; bound of CV+ {one.bound:.3f}")


def main() -> None:
    """Print the coverage in drawn cohorts, or on the outer folds of a study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("drawn").add_argument("--cohorts", type=int, default=400)
    kinds.add_parser("study").add_argument("folder", type=Path, metavar="STUDY_FOLDER")
    arguments = parser.parse_args()
    if arguments.kind == "drawn":
        print_drawn(arguments.cohorts)
    else:
        print_study(arguments.folder)


if __name__ == "__main__":
    main()
