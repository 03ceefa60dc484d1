"""The searches of a study and the splits they run on."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import OFFICIAL, StudyConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest_json
from mil_toolkit.core.seeds import FINAL, derive_seed, inner_folds_path, outer_folds_path, subset_path
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.splits import Split, describe_splits, leave_one_group_out, make_splits
from mil_toolkit.study.records import HeldOut, SplitsRecord


@dataclass(frozen=True)
class Search:
    """One search: the patients it may use and its held-out patients, as indices among the labelled patients.

    path: (repeat, outer fold) from 1, or FINAL for the search on all patients; its seeds derive from it
    inner: splits of `patients`, as indices within them
    """

    path: tuple[int, int]
    patients: np.ndarray
    test: np.ndarray
    inner: list[Split]

    @property
    def name(self) -> str:
        """The search's name in the storage and, for an outer fold, its folder below `outer/`."""
        return fold_name(*self.path) if len(self.test) else "final"

    @property
    def digest(self) -> str:
        """A digest of the splits that names no patient."""
        return digest_json([self.patients.tolist(), [split.test.tolist() for split in self.inner]])


def fold_name(repeat: int, fold: int) -> str:
    """Return the name of an outer fold's search."""
    return f"repeat{repeat}-fold{fold}"


def search_path(name: str) -> tuple[int, int]:
    """Return the path of the search with this name."""
    numbers = re.fullmatch(r"repeat(\d+)-fold(\d+)", name)
    return (int(numbers[1]), int(numbers[2])) if numbers else FINAL


def plan_searches(cohort: Cohort, config: StudyConfig) -> tuple[list[Search], SplitsRecord]:
    """Return every search of a study on a cohort's labelled patients, the final one last, and the splits.

    Outer folds that are neither official nor groups are stratified by the label only, and so are the inner
    folds unless the cohort declares strata of age: strata of label x age copy the cohort's chance association
    of age and label into every scored fold, and a score on shuffled labels then lies above chance.
    Raises DataError where a class has fewer patients than folds, or the targets of a search are all equal.
    """
    _check_cohort(cohort)
    everyone = np.arange(len(cohort))
    searches: list[Search] = []
    bins: dict[str, int] = {}
    for repeat in range(1, config.repeats + 1 if config.outer_folds else 1):
        for fold, split in enumerate(_outer_splits(cohort, config, repeat), 1):
            inner, count = _inner_splits(cohort, split.train, config, (repeat, fold))
            searches.append(Search((repeat, fold), split.train, split.test, inner))
            bins[searches[-1].name] = count
    inner, bins["final"] = _inner_splits(cohort, everyone, config, FINAL)
    searches.append(Search(FINAL, everyone, everyone[:0], inner))
    _check_targets(cohort, searches)
    splits = SplitsRecord(
        bins,
        {search.name: _counts(cohort, search.test) for search in searches[:-1]},
        {search.name: _held_out(search, cohort.patient_ids) for search in searches},
    )
    return searches, splits


def check_labelled(cohort: Cohort) -> None:
    """Raise DataError where no patient is labelled; cohort: the labelled patients."""
    if not len(cohort):
        advice = "Declare the column of the outcome, and do not list all of its words as unlabelled."
        raise DataError(f"{printable(cohort.source)} has no labelled patients to learn from. {advice}")


def _check_cohort(cohort: Cohort) -> None:
    """Raise DataError where the patients lack what an outcome without classes needs.

    Of classes, `make_splits` says which one has too few patients.
    """
    lack = None if cohort.class_names or not len(cohort) else cohort.outcome.lack(cohort.labels)
    if lack is not None:
        raise DataError(f"{printable(cohort.source)} has {lack.what}. {lack.need} the labelled patients.")


def _check_targets(cohort: Cohort, searches: Sequence[Search]) -> None:
    """Raise DataError where the training patients of a search lack what the outcome needs."""
    lacks = ((search.name, cohort.outcome.lack(cohort.labels[search.patients])) for search in searches)
    problems = [
        f"search {name} of {printable(cohort.source)} trains on {lack.what}."
        f" {lack.need} its training patients."
        for name, lack in lacks
        if lack is not None
    ]
    if problems:
        raise DataError(problems)


def check_outer_folds(cohort: Cohort, config: StudyConfig) -> None:
    """Raise UsageError where a study of a cohort with official folds would use other outer folds.

    A study without outer folds may be made of any cohort.
    """
    official = cohort.folds
    if official is None:
        if config.outer_folds == OFFICIAL:
            raise UsageError(
                f'--outer-folds {OFFICIAL} needs official folds: folds = "folds.csv" under [splits] in'
                f" {printable(cohort.source)}."
            )
        return
    declared = f"{printable(cohort.source)} declares official folds under [splits]"
    if config.outer_folds not in (0, OFFICIAL):
        raise UsageError(
            f"{declared}, and --outer-folds {config.outer_folds} would use others. Run mil-tune without"
            " --outer-folds (or with 0: no outer folds), and with another --study if this one has other outer"
            " folds; or remove folds from [splits]."
        )
    repeats = len(official.repeats)
    if config.outer_folds == OFFICIAL and config.repeats != repeats:
        raise UsageError(
            f"{declared} with {count_of(repeats, 'repeat')}, so --repeats {config.repeats} cannot be used."
            " Leave --repeats out."
        )


def longest_first(searches: Sequence[Search]) -> list[Search]:
    """Return the searches in the order in which they begin, so that none of several processes ends late."""
    return sorted(searches, key=lambda search: -len(search.patients))


def costs(searches: Sequence[Search]) -> dict[str, float]:
    """Return about how long an epoch of each search takes, relative to the longest, by the search's name."""
    most = max(len(search.patients) for search in searches)
    return {search.name: len(search.patients) / most for search in searches}


def stored_searches(splits: SplitsRecord, patient_ids: Sequence[str]) -> list[Search]:
    """Return the searches of a study as its splits.json has them, the final one last.

    patient_ids: of the labelled patients, in order

    A finished study is always read this way: `plan_searches` may give other folds after an edit of [splits]
    in cohort.toml, or with another version of scikit-learn, and patients who chose a configuration would then
    be scored.
    """
    places = {patient: place for place, patient in enumerate(patient_ids)}
    return [_stored_search(name, held_out, places) for name, held_out in splits.searches.items()]


def _stored_search(name: str, held_out: HeldOut, places: Mapping[str, int]) -> Search:
    whole = _split_off(len(places), places, held_out.test)
    within = {patient: row for row, patient in enumerate(np.array(list(places))[whole.train].tolist())}
    inner = [_split_off(len(within), within, patients) for patients in held_out.inner]
    return Search(search_path(name), whole.train, whole.test, inner)


def _split_off(count: int, places: Mapping[str, int], patients: Sequence[str]) -> Split:
    """Return the split that holds out these patients and trains on all others."""
    test = np.array(sorted(places[patient] for patient in patients), dtype=int)
    return Split(np.setdiff1d(np.arange(count), test), test)


def thin(search: Search, cohort: Cohort, config: StudyConfig, share: float) -> Search:
    """Return an outer fold's search on a share of its training patients, with new inner folds.

    Groups stay whole, each class keeps its share, and the patients of a smaller share are among those of a
    larger one. Raises DataError where a class then has fewer patients than folds.
    """
    random = np.random.default_rng(derive_seed(*subset_path(config.seed, search.path)))
    units = search.patients if cohort.groups is None else cohort.groups[search.patients]
    names, unit_of = np.unique(units, return_inverse=True)
    strata = cohort.outcome.strata(cohort.labels[search.patients])
    of_units = np.floor(np.bincount(unit_of, strata) / np.bincount(unit_of) + 0.5)  # the mean, rounded
    kept = np.zeros(len(names), dtype=bool)
    for places in (np.flatnonzero(of_units == stratum) for stratum in np.unique(of_units)[::-1]):
        kept[random.permutation(places)[: math.ceil(share * len(places))]] = True
    patients = search.patients[kept[unit_of]]
    inner, _ = _inner_splits(cohort, patients, config, search.path)
    return Search(search.path, patients, search.test, inner)


def _counts(cohort: Cohort, patients: np.ndarray) -> dict[str, int]:
    """Return the number of these patients in each stratum by its name; without names, that of all."""
    if not cohort.outcome.stratum_names:
        return {"patients": len(patients)}
    strata = cohort.outcome.strata(cohort.labels[patients])
    return {name: int((strata == number).sum()) for number, name in cohort.outcome.stratum_names.items()}


def official_tests(cohort: Cohort) -> list[list[str]]:
    """Return the held-out patients of each official fold, the folds of the first repeat first."""
    assert cohort.folds is not None
    folds = (fold for repeat in cohort.folds.repeats for fold in repeat)
    return [[patient for patient in cohort.patient_ids if patient in fold] for fold in folds]


def _official_splits(cohort: Cohort, repeat: int) -> list[Split]:
    assert cohort.folds is not None
    held_out = (np.isin(cohort.patient_ids, [*fold]) for fold in cohort.folds.repeats[repeat - 1])
    return [Split(np.flatnonzero(~test), np.flatnonzero(test)) for test in held_out]


def _outer_splits(cohort: Cohort, config: StudyConfig, repeat: int) -> list[Split]:
    if config.outer_folds == OFFICIAL:
        return _official_splits(cohort, repeat)
    if isinstance(config.outer_folds, int):
        seed = derive_seed(*outer_folds_path(config.seed, repeat))
        strata, names = cohort.outcome.strata(cohort.labels), cohort.outcome.stratum_names
        return make_splits(strata, config.outer_folds, seed, groups=cohort.groups, names=names)[0]
    if cohort.groups is None:
        raise DataError(
            f'--outer-folds groups needs a group column: group = "..." under [cohort] in {cohort.source}.'
        )
    strata, names = cohort.outcome.strata(cohort.labels), cohort.outcome.stratum_names
    return leave_one_group_out(strata, cohort.groups, names)


def _inner_splits(
    cohort: Cohort, patients: np.ndarray, config: StudyConfig, path: tuple[int, int]
) -> tuple[list[Split], int]:
    by_age = "age" in cohort.stratify and "age" in cohort.metadata
    ages = cohort.metadata["age"].to_numpy(float)[patients] if by_age else None
    groups = None if cohort.groups is None else cohort.groups[patients]
    strata, names = cohort.outcome.strata(cohort.labels[patients]), cohort.outcome.stratum_names
    try:
        seed = derive_seed(*inner_folds_path(config.seed, path))
        return make_splits(strata, config.folds, seed, ages, groups, names=names)
    except DataError as error:
        among = "all labelled patients"
        if path != FINAL:
            among = "the training patients of repeat {}, outer fold {}".format(*path)
        raise DataError([f"inner folds of {among}: {problem}" for problem in error.problems]) from None


def _held_out(search: Search, patient_ids: Sequence[str]) -> HeldOut:
    inner = describe_splits(search.inner, [patient_ids[place] for place in search.patients])
    return HeldOut([patient_ids[place] for place in search.test], inner)
