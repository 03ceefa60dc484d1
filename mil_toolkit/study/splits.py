"""Checks of the splits that a study stored (splits.json)."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import OFFICIAL, StudyConfig
from mil_toolkit.core.seeds import FINAL
from mil_toolkit.core.text import printable, some
from mil_toolkit.study.plan import fold_name, official_tests
from mil_toolkit.study.records import HeldOut, SplitsRecord

FINAL_NAME = "final"


def search_paths(splits: SplitsRecord, config: StudyConfig) -> list[tuple[int, int]]:
    """Return repeat and fold of every outer fold that a study with these options has, then FINAL."""
    if not config.outer_folds:
        return [FINAL]
    stored = len(splits.searches) - 1  # with `groups` or `official`, the cohort determines the folds
    folds = config.outer_folds if isinstance(config.outer_folds, int) else stored // config.repeats
    paths = [(repeat, fold) for repeat in range(1, config.repeats + 1) for fold in range(1, folds + 1)]
    return [*paths, FINAL]


def search_name(path: tuple[int, int]) -> str:
    """Return the name of the search with this path."""
    return FINAL_NAME if path == FINAL else fold_name(*path)


def split_problems(
    splits: SplitsRecord,
    config: StudyConfig,
    labelled: Collection[str],
    groups: Mapping[str, str] | None = None,
) -> list[str]:
    """Return what is wrong with the splits of a study with these options, a sentence each.

    labelled: ids of all labelled patients; groups: of these patients, None where there are none or they are
        unknown
    """
    expected = [search_name(path) for path in search_paths(splits, config)]
    if expected != list(splits.searches):
        return [f"it has the searches {some(list(splits.searches))}; the options give {some(expected)}."]
    problems = list(_outer_problems(splits, config, labelled))
    for name, held_out in splits.searches.items():
        training = set(labelled) - set(held_out.test)
        problems += _inner_problems(name, held_out.inner, training, config.folds)
        if groups is not None:
            problems += _group_problems(name, held_out, training, groups)
    return problems


def official_problems(splits: SplitsRecord, config: StudyConfig, cohort: Cohort) -> list[str]:
    """Return whether the outer folds of a study with official folds are not those of its cohort.

    A cohort that declares none any more is not compared.
    """
    if config.outer_folds != OFFICIAL or cohort.folds is None:
        return []
    expected = official_tests(cohort.labelled())
    outer = {name: held_out.test for name, held_out in splits.searches.items() if name != FINAL_NAME}
    if len(outer) != len(expected):
        return [f"it has {len(outer)} outer folds; {printable(cohort.source)} declares {len(expected)}."]
    other = [
        name
        for (name, test), official in zip(outer.items(), expected, strict=True)
        if set(test) != set(official)
    ]
    declared = f"the official folds that {printable(cohort.source)} declares"
    return [f"its outer folds are not {declared}: they differ in {some(other)}."] if other else []


def _outer_problems(splits: SplitsRecord, config: StudyConfig, labelled: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with the outer folds: each repeat holds every patient out once."""
    if splits.searches[FINAL_NAME].test:
        yield "the final search, which trains on all patients, has held-out patients."
    paths = search_paths(splits, config)[:-1]
    for repeat in range(1, config.repeats + 1) if paths else ():
        tests = [splits.searches[fold_name(*path)].test for path in paths if path[0] == repeat]
        yield from _partition_problems(f"the outer folds of repeat {repeat}", tests, set(labelled))


def _inner_problems(
    name: str, inner: Sequence[Sequence[str]], training: set[str], folds: int
) -> Iterator[str]:
    """Yield what is wrong with the inner folds: they hold every training patient out once."""
    if len(inner) != folds:
        yield f"{name} has {len(inner)} inner folds; the options of the study give {folds}."
    elif folds == 1:  # a single split holds a share of the patients out
        yield from _partition_problems(f"the inner fold of {name}", inner, training & set(inner[0]), training)
    else:
        yield from _partition_problems(f"the inner folds of {name}", inner, training)


def _partition_problems(
    what: str, folds: Sequence[Sequence[str]], everyone: set[str], known: set[str] | None = None
) -> Iterator[str]:
    """Yield whether some folds hold patients out who are unknown, twice or not at all."""
    counts = Counter(patient for fold in folds for patient in fold)
    for patients, fault in (
        (counts.keys() - (known or everyone), "hold patients out who are not theirs to hold out"),
        ({patient for patient, count in counts.items() if count > 1}, "hold patients out more than once"),
        (everyone - counts.keys(), "never hold these patients out"),
    ):
        if patients:
            yield f"{what} {fault}: {some(sorted(map(printable, patients)))}."
    if not all(folds):
        yield f"{what} have a fold without patients."


def _group_problems(
    name: str, held_out: HeldOut, training: set[str], groups: Mapping[str, str]
) -> Iterator[str]:
    """Yield whether a search holds out a part of a group only."""
    for what, fold, others in (
        (f"the outer fold {name}", held_out.test, training),
        *((f"an inner fold of {name}", fold, training - set(fold)) for fold in held_out.inner),
    ):
        divided = {groups.get(patient) for patient in fold} & {groups.get(patient) for patient in others}
        if divided:
            names = some(sorted(printable(str(group)) for group in divided))
            yield f"{what} divides groups between held-out and training patients: {names}."
