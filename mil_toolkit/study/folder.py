"""`Study`: a folder of `mil-tune`, written once and readable without the command line that made it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import HeadConfig, StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import check_schema, publish_json, read_json
from mil_toolkit.core.locks import CLAIM, exclusive
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.description import SCHEMA, describe, patients_record, refuse_other, sources_record
from mil_toolkit.study.plan import FINAL, Search

SOURCES, PATIENTS = "sources.json", "patients.json"  # what a report needs to know


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
        publish_json(self.folder / SOURCES, sources_record(self.folder, cohort, cache))
        publish_json(self.folder / PATIENTS, patients_record(cohort, cache))

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
