"""`read_folds` reads the official folds of a cohort, which `[splits] folds` in its cohort.toml names."""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.fold_readers import TEST, WrittenFold, WrittenFolds
from mil_toolkit.cohort.fold_tables import read_fold_tables
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.text import count_of, each_or_most, printable, some
from mil_toolkit.outcomes.outcome import Outcome

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfficialFolds:
    """The official folds of a cohort: for each repeat and fold, the labelled patients that it holds out.

    All other labelled patients, those of `val` included, are the training patients of the fold.
    """

    repeats: tuple[tuple[frozenset[str], ...], ...]


class FoldPatient(NamedTuple):
    """The part of a patient's data that the check of the folds needs; row: the position among the targets."""

    labelled: bool
    row: int
    group: str | None


@dataclass(frozen=True)
class _Check:
    """Checks of the folds as written.

    files: their names, for messages
    labelled: the patients who must have folds; others: patients that are passed over
    targets: of all patients of the table, see `Outcome`
    """

    files: str
    written: WrittenFolds
    labelled: Mapping[str, FoldPatient]
    others: Collection[str]
    table: str
    outcome: Outcome
    targets: np.ndarray

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the folds, a line each."""
        yield from self.unknown()
        repeats = self.repeats()
        yield from self._numbers(repeats)
        wrong_tests: list[str] = []
        for name, folds in repeats.items():
            of_repeat = f" of repeat {name}" if name else ""
            yield from self._absent(of_repeat, folds)
            wrong_tests += self._wrong_tests(of_repeat, folds)
        yield from wrong_tests
        if wrong_tests:
            yield (
                f"{self.files}: each repeat must test every labelled patient once, as cross-validation does."
                " Splits drawn at random, and a single split into train and test, cannot be the outer folds"
                " of a study; leave folds out of [splits] to use others."
            )
        for folds in repeats.values():
            yield from self._classes(folds)
            yield from self._groups(folds)

    def repeats(self) -> dict[str, list[WrittenFold]]:
        """Return the folds of each repeat."""
        names = dict.fromkeys(fold.repeat for fold in self.written.folds)
        return {name: [fold for fold in self.written.folds if fold.repeat == name] for name in names}

    def tested(self, fold: WrittenFold) -> frozenset[str]:
        """Return the labelled patients that a fold holds out."""
        return frozenset(
            patient for patient, part in fold.parts.items() if part.name == TEST and patient in self.labelled
        )

    def unknown(self) -> list[str]:
        """Return a line for each patient who has no row in the cohort's table."""
        places: dict[str, str] = {}
        named: dict[str, None] = {}
        for fold in self.written.folds:
            for patient, part in fold.parts.items():
                named[patient] = None
                if patient not in self.labelled and patient not in self.others:
                    places.setdefault(patient, part.place)
        reason = f"no row in {printable(self.table)}"
        lines = (f"{place}: patient {printable(patient)} has {reason}." for patient, place in places.items())
        summary = f"patients of {self.files} have {reason}:"
        return each_or_most([*map(printable, places)], len(named), lines, summary)

    def _numbers(self, repeats: Mapping[str, Sequence[WrittenFold]]) -> Iterator[str]:
        counts = {name: len(folds) for name, folds in repeats.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"repeat {name} has {count}" for name, count in counts.items())
            yield f"{self.files}: all repeats must have the same number of folds, but {listed}."
        if max(counts.values(), default=0) < 2:
            yield f"{self.files}: there must be at least two folds, not {max(counts.values(), default=0)}."
        for fold in self.written.folds:
            if not self.tested(fold):
                yield f"{self.files}: {fold.name} tests no labelled patient."

    def _sound(self) -> list[str]:
        """Return the labelled patients without a faulty row, in the order of the table."""
        return [patient for patient in self.labelled if patient not in self.written.faulty]

    def _absent(self, of_repeat: str, folds: Sequence[WrittenFold]) -> Iterator[str]:
        """Yield the patients without a row, and those that some folds name and others do not."""
        absent = []
        for patient in self._sound():
            without = [fold.name for fold in folds if fold.whole and patient not in fold.parts]
            if not any(patient in fold.parts for fold in folds):
                absent.append(printable(patient))
            elif without:
                parts = "none of train, val and test"
                yield f"{self.files}: patient {printable(patient)} is in {parts} of {some(without)}."
        yield from self._patients(absent, f"in no fold{of_repeat}")

    def _wrong_tests(self, of_repeat: str, folds: Sequence[WrittenFold]) -> list[str]:
        """Return the patients that the folds of a repeat test never or more than once."""
        never, lines = [], []
        for patient in self._sound():
            parts = {fold.name: fold.parts[patient] for fold in folds if patient in fold.parts}
            tests = [f"{name} ({part.place})" for name, part in parts.items() if part.name == TEST]
            if len(tests) > 1:
                lines.append(
                    f"patient {printable(patient)} is tested {len(tests)} times{of_repeat}: by {some(tests)}."
                )
            elif not tests and len(parts) == len(folds):
                never.append(printable(patient))
        return [*self._patients(never, f"tested by no fold{of_repeat}"), *lines]

    def _patients(self, patients: Sequence[str], reason: str) -> list[str]:
        lines = (f"{self.files}: patient {patient} is {reason}." for patient in patients)
        summary = f"labelled patients are {reason} in {self.files}:"
        return each_or_most(patients, len(self.labelled), lines, summary)

    def _classes(self, folds: Sequence[WrittenFold]) -> Iterator[str]:
        for fold in folds:
            tested = self.tested(fold)
            for part, patients in (("tests", tested), ("trains on", self.labelled.keys() - tested)):
                rows = [self.labelled[patient].row for patient in patients]
                lack = self.outcome.lack(self.targets[rows]) if rows else None
                if lack is None:
                    continue
                first = min(patients)
                place = f", {fold.parts[first].place}" if first in fold.parts else ""
                yield (
                    f"{self.files}: {fold.name} {part} {lack.what} ({count_of(len(patients), 'patient')},"
                    f" such as {printable(first)}{place}). {lack.need} its held-out and among its training"
                    " patients."
                )

    def _groups(self, folds: Sequence[WrittenFold]) -> Iterator[str]:
        """Yield each group of which a fold of a repeat holds out a part only, once."""
        named = {patient for fold in folds for patient in fold.parts} & {*self._sound()}
        divided: set[str] = set()
        for fold in folds:
            tested = self.tested(fold)
            inside, outside = self._by_group(tested), self._by_group(named - tested)
            for group in sorted((inside.keys() & outside.keys()) - divided):
                divided.add(group)
                patient, other = inside[group], outside[group]
                part = fold.parts.get(other)
                yield (
                    f"{fold.parts[patient].place}: {fold.name} tests patient {printable(patient)} of group"
                    f" {printable(group)}, but patient {printable(other)} of this group is in"
                    f" {f'{part.name}, {part.place}' if part else 'its training patients'}. No fold may"
                    " divide a group."
                )

    def _by_group(self, patients: Collection[str]) -> dict[str, str]:
        """Return the first of these patients of each group."""
        groups = {patient: self.labelled[patient].group for patient in sorted(patients, reverse=True)}
        return {group: patient for patient, group in groups.items() if group is not None}


def read_folds(
    declared: Declaration,
    patients: Mapping[str, FoldPatient],
    targets: np.ndarray | None,
    excluded: Collection[str],
    problems: Problems,
    *,
    log: bool = True,
) -> OfficialFolds | None:
    """Read and check the official folds of a cohort; None if it declares none, or where they are wrong.

    patients: of the cohort's table; excluded: ids of the rows that the cohort leaves out
    targets: of the patients; None where ids, targets and groups of the table could not be read, so that only
        the ids are compared
    log: whether to log how many patients without a label are passed over

    Each repeat must hold out every labelled patient once. Reported are patients of no row, patients without a
    fold, patients that are tested never or twice, empty folds, folds with one class, and divided groups.
    """
    files = declared.splits.fold_files
    labelled = {patient: known for patient, known in patients.items() if known.labelled}
    others = {*excluded, *(patients.keys() - labelled.keys())}
    ignored = excluded if targets is None else others
    written = read_fold_tables(declared, files, ignored, problems) if files else None
    if written is None:
        return None
    names, table = some([*map(printable, files)]), declared.cohort.table
    known = np.empty(0) if targets is None else targets
    check = _Check(names, written, labelled, others, table, declared.outcome, known)
    before = len(problems)
    problems.extend(check.problems() if targets is not None else check.unknown() if patients else ())
    if len(problems) > before or targets is None:
        return None
    if log:
        _log_passed_over(names, written, patients, excluded)
    repeats = check.repeats().values()
    return OfficialFolds(tuple(tuple(map(check.tested, folds)) for folds in repeats))


def _log_passed_over(
    names: str, written: WrittenFolds, patients: Mapping[str, FoldPatient], excluded: Collection[str]
) -> None:
    named = {patient for fold in written.folds for patient in fold.parts}
    counts = Counter(
        "excluded" if patient in excluded else "unlabelled"
        for patient in named
        if patient in excluded or not patients[patient].labelled
    )
    if counts:
        listed = " and ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        logger.info("%s: passing over patients whom no study scores: %s.", names, listed)
