# Floor 3.1: the study folder: what a study was told, its splits, what its searches chose.
"""`Study`: a folder of `mil-tune`, written once and readable without the command line that made it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mil_toolkit.calibration import Decision
from mil_toolkit.cohort import Cohort
from mil_toolkit.errors import DataError
from mil_toolkit.features import FeatureCache
from mil_toolkit.files import CLAIM, check_schema, digest_json, exclusive, publish_json, read_json
from mil_toolkit.hparams import HeadConfig, StudyConfig
from mil_toolkit.nested import derive_seeds
from mil_toolkit.space import Space
from mil_toolkit.splits import Split, describe_splits, leave_one_group_out, make_splits
from mil_toolkit.wording import SOME, some

SCHEMA = 1
MEMBERS = 1_000_000  # in the place of a trial's number: the seeds of run-again and refit
SOURCES, PATIENTS = "sources.json", "patients.json"  # what a report needs to know
_TOLD = ("name", "kind", "transform", "unit")  # of a metadata column
FINAL = (0, 0)  # in the place of a repeat and its outer fold: the search on all labelled patients


@dataclass(frozen=True)
class Search:
    """One search: the patients it may see and those it never sees, by place among the labelled patients.

    path: (repeat, outer fold) from 1, or FINAL for the search on all; its seeds derive from it
    inner: splits of `patients`, by place within them
    """

    path: tuple[int, int]
    patients: np.ndarray
    test: np.ndarray
    inner: list[Split]

    @property
    def name(self) -> str:
        """The search's name in the storage and, for an outer fold, its folder below `outer/`."""
        return "repeat{}-fold{}".format(*self.path) if len(self.test) else "final"

    @property
    def digest(self) -> str:
        """Of who is held out where, without naming anybody."""
        return digest_json([self.patients.tolist(), [split.test.tolist() for split in self.inner]])


@dataclass(frozen=True)
class Best:
    """What a search chose.

    number: of the trial, from 0; its seeds derive from it
    epoch, value: the configuration's one epoch, and the objective there on the inner folds, which chose both
    decision: calibration and threshold, from the out-of-fold logits of `members` seeds
    training: scores on the training patients of the inner folds; parameters: those that the search moved
    passed_over: where the defaults were kept, the `trial` with the best value, its `lead` over them with all members
        and the `error` that it had to surpass, null where undefined; None where nothing was passed over, or an older
        version chose
    """

    number: int
    config: HeadConfig
    epoch: int
    value: float
    decision: Decision
    training: Mapping[str, float | None]
    parameters: Mapping[str, Any]
    passed_over: Mapping[str, float | None] | None = None

    @classmethod
    def read(cls, path: Path) -> "Best":
        """Read a best.json; raises DataError where there is none."""
        saved = read_json(path)
        built = {"config": HeadConfig(**saved["config"]), "decision": Decision(**saved["decision"])}
        return cls(**{**saved, **built})


@dataclass(frozen=True)
class Study:
    """A study folder with what it was told."""

    folder: Path
    config: StudyConfig
    described: Mapping[str, Any]

    @classmethod
    def begin(
        cls,
        folder: Path,
        config: StudyConfig,
        cohort: Cohort,
        cache: FeatureCache | None,
        fixed: Mapping[str, Any] = MappingProxyType({}),
    ) -> "Study":
        """Begin a study, or go on with the one that stands there.

        fixed: more that must not change, as JSON by file name. Raises DataError where that one was told something
        else; the message names each difference.
        """
        described = describe(config, cohort, cache)
        with exclusive(folder, CLAIM, wait=True):
            for name, value in {"config.json": described, **fixed}.items():
                if (folder / name).exists():
                    refuse_other(folder / name, read_json(folder / name), value)
                else:
                    publish_json(folder / name, value)
        return cls(folder, config, described)

    @classmethod
    def open(cls, folder: Path) -> "Study":
        """Open a finished study; raises DataError where there is none or it has not ended."""
        described = _read_described(folder)
        check_schema(folder / "config.json", described.get("schema"), SCHEMA)
        if not (folder / "DONE").exists():
            raise DataError(
                f"{folder} has not ended. Run its mil-tune command again: it goes on where it stopped."
            )
        settings = {name: tuple(values) for name, values in described["study"]["settings"].items()}
        return cls(folder, StudyConfig(**{**described["study"], "settings": settings}), described)

    def check(self, cohort: Cohort, cache: FeatureCache | None) -> None:
        """Raise DataError where the study was made of another cohort or other features."""
        now = describe(self.config, cohort, cache)
        # What a newer version would search does not matter to what was found.
        refuse_other(self.folder / "config.json", *({**each, "space": {}} for each in (self.described, now)))

    def folder_of(self, search: Search) -> Path:
        """Where a search keeps its trials and its choice: the final one in the study folder itself."""
        return self.folder / "outer" / search.name if len(search.test) else self.folder

    def seed(self, search: Search, number: int) -> tuple[int, ...]:
        """What the seeds of a search's trial derive from; MEMBERS for the members of its choice."""
        return (self.config.seed, *search.path, number)

    def final_seed(self, number: int) -> tuple[int, ...]:
        """The same for the final search."""
        return (self.config.seed, *FINAL, number)

    def record(self, cohort: Cohort, cache: FeatureCache | None) -> None:
        """Keep beside the study what a report needs to know of its data; none of it tells one study from another."""
        publish_json(self.folder / SOURCES, _sources(self.folder, cohort, cache))
        publish_json(self.folder / PATIENTS, _patients(cohort, cache))

    @property
    def best(self) -> Best:
        """What the final search chose."""
        return Best.read(self.folder / "best.json")


def _read_described(folder: Path) -> dict[str, Any]:
    """A study's config.json; raises DataError where there is none, or another folder's."""
    if not (folder / "config.json").is_file():
        why = "it has no config.json" if folder.exists() else "it does not exist"
        raise DataError(f"{folder} is no study: {why}. Name the folder that mil-tune wrote, as studies/NAME.")
    described = read_json(folder / "config.json")
    if isinstance(described, dict) and "study" in described:
        return described
    if isinstance(described, dict) and "head" in described:
        raise DataError(
            f"{folder} is a bundle, not a study. Name the folder that mil-tune wrote; this may be {folder.parent}."
        )
    raise DataError(f"{folder / 'config.json'} is not that of a study. Name the folder that mil-tune wrote.")


def epochs_of(folder: Path, number: int) -> Path:
    """Where a search, which keeps its trials in `folder`, has the scores of each epoch of a trial."""
    return folder / "epochs" / f"trial{number:04d}.jsonl"


def epoch_lines(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Scores after each epoch as JSON, one line an epoch."""
    return ("\n".join(map(json.dumps, rows)) + "\n").encode()


def read_epochs(path: Path) -> list[dict[str, float]]:
    """Read such lines; raises DataError where it cannot be read."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def describe(config: StudyConfig, cohort: Cohort, cache: FeatureCache | None) -> dict[str, Any]:
    """All that fixes a study, as JSON: the options, the search space, digests of labelled patients and embeddings."""
    labelled = cohort.labelled()
    features = None
    if cache is not None:
        features = {
            "name": cache.folder.name,
            "digest": cache.digest(labelled.patient_ids),
            "spec": cache.spec,
        }
    settings = {name: list(values) for name, values in config.settings.items()}
    return {
        "schema": SCHEMA,
        "study": asdict(config) | {"settings": settings},
        "space": Space(config.settings, cache is not None, not cohort.metadata.empty).described(),
        "cohort": {"name": cohort.name, "digest": labelled.digest(), "patients": len(labelled)},
        "features": features,
    }


def _sources(folder: Path, cohort: Cohort, cache: FeatureCache | None) -> dict[str, Any]:
    """Where a study's data lie, as they were named, and the folder that relative names start from."""
    return {
        "working_folder": str(Path.cwd()),
        "study": str(folder),
        "cohort": str(cohort.source),
        "features": None if cache is None else str(cache.folder),
    }


def _patients(cohort: Cohort, cache: FeatureCache | None) -> dict[str, Any]:
    """The labelled patients with their metadata and numbers of images, and how the metadata were declared."""
    labelled = cohort.labelled()
    bags = [] if cache is None else cache.winners(labelled.patient_ids)
    sizes: list[int | None] = [len(bag.image_names) for bag in bags] or [None] * len(labelled)
    metadata = labelled.metadata.astype(object).where(labelled.metadata.notna(), None).to_dict("records")
    rows = zip(labelled.patient_ids, labelled.labels.tolist(), sizes, metadata, strict=True)
    return {
        "class_names": list(cohort.class_names),
        "unlabelled": len(cohort) - len(labelled),
        "columns": [{name: asdict(column)[name] for name in _TOLD} for column in cohort.columns],
        "patients": [dict(zip(("id", "label", "images", "metadata"), row, strict=True)) for row in rows],
    }


def refuse_other(where: object, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise DataError that names each difference between what a study was told and what it is told now."""
    there, here = _flat(found), _flat(asked)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if names:
        lines = [f"{name}: {_difference(there.get(name), here.get(name))}" for name in names]
        advice = "Use another --study, or the cohort, features and options that it was made with."
        raise DataError([f"{where} describes another study:", *lines, advice])


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    """Every value by the names that lead to it; folds by their number."""
    if isinstance(nested, list) and nested and isinstance(nested[0], list):
        nested = {f"fold{number}": each for number, each in enumerate(nested, 1)}
    if not isinstance(nested, Mapping):
        return {prefix: nested}
    parts = (_flat(value, f"{prefix}.{name}" if prefix else name) for name, value in nested.items())
    return {name: value for part in parts for name, value in part.items()}


def _difference(there: Any, here: Any) -> str:
    """Of long lists, such as patients, what one of them alone has."""
    if isinstance(there, list) and isinstance(here, list) and len(there) + len(here) > 2 * SOME:
        there, here = [some(_alone(one, other)) for one, other in ((there, here), (here, there))]
        return f"{there} there, {here} now."
    return f"{there!r} there, {here!r} now."


def _alone(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    return [each for each in one if each not in other]


def plan_searches(cohort: Cohort, config: StudyConfig) -> tuple[list[Search], dict[str, Any]]:
    """Every search of a study on the labelled patients of a cohort, the final one last, and splits.json.

    The inner folds are stratified as the cohort declares, the outer ones on the label alone: strata of label x age
    would copy the cohort's own chance link between age and label into every scored fold, and a score on shuffled
    labels would then lie above chance. Raises DataError where a class has fewer patients than folds.
    """
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
    saved = {
        "age_bins": bins,
        "held_out": {each.name: _counted(cohort.labels[each.test]) for each in searches[:-1]},
        "searches": {each.name: _describe(each, cohort.patient_ids) for each in searches},
    }
    return searches, saved


def _counted(labels: np.ndarray) -> dict[str, int]:
    return {"positive": int((labels == 1).sum()), "negative": int((labels == 0).sum())}


def _outer_splits(cohort: Cohort, config: StudyConfig, repeat: int) -> list[Split]:
    if isinstance(config.outer_folds, int):
        seed = derive_seeds(1, config.seed, repeat, 0)[0]
        return make_splits(cohort.labels.astype(int), config.outer_folds, seed, groups=cohort.groups)[0]
    if cohort.groups is None:
        raise DataError(
            f'--outer-folds groups needs a group column: group = "..." under [cohort] in {cohort.source}.'
        )
    return leave_one_group_out(cohort.labels, cohort.groups)


def _inner_splits(
    cohort: Cohort, patients: np.ndarray, config: StudyConfig, path: tuple[int, int]
) -> tuple[list[Split], int]:
    by_age = "age" in cohort.stratify and "age" in cohort.metadata
    ages = cohort.metadata["age"].to_numpy(float)[patients] if by_age else None
    groups = None if cohort.groups is None else cohort.groups[patients]
    labels = cohort.labels[patients].astype(int)
    try:
        return make_splits(labels, config.folds, derive_seeds(1, config.seed, *path)[0], ages, groups)
    except DataError as error:
        among = (
            "all labelled patients" if path == FINAL else "what repeat {}, outer fold {} leaves".format(*path)
        )
        raise DataError([f"inner folds of {among}: {problem}" for problem in error.problems]) from None


def _describe(search: Search, patient_ids: Sequence[str]) -> dict[str, Any]:
    """The held-out patients of a search and of each of its inner folds, by id."""
    inner = describe_splits(search.inner, [patient_ids[place] for place in search.patients])
    return {"test": [patient_ids[place] for place in search.test], "inner": inner}
