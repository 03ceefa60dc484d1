"""`Study`: the folder that `mil-tune` writes, readable without the command line that made it.

All names of files in it are here; what each JSON file holds is in `study.records`.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.study import MOST_EPOCHS, StudyConfig
from mil_toolkit.core.access import exists
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import check_schema, publish, read_json
from mil_toolkit.core.locks import CLAIM, exclusive
from mil_toolkit.core.reading import MEBIBYTE, check_input, read_input
from mil_toolkit.core.records import (
    Json,
    from_json,
    publish_record,
    read_record,
    to_json,
)
from mil_toolkit.core.text import printable, some
from mil_toolkit.evaluation.table import Table
from mil_toolkit.outcomes.kinds import decode_decision, outcome_of
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.study.canary_result import Canary
from mil_toolkit.study.description import SCHEMA, describe, patients_of, refuse_other, sources_of
from mil_toolkit.study.plan import Search, fold_name
from mil_toolkit.study.records import (
    REPORT,
    SOURCES,
    AblationScores,
    Best,
    Finding,
    LearningCurve,
    PatientsRecord,
    Sources,
    SplitsRecord,
    StudyDescription,
    StudyScores,
)
from mil_toolkit.training.patients import Features

SPLITS = "splits.json"
EPOCHS_LIMIT = 64 * MEBIBYTE  # an epoch takes about 1 KB
HIGHEST_SCORE = 1_000_000  # log-losses are below 40
Content = TypeVar("Content")
EpochScores = dict[str, float]  # `epoch`, then training and validation scores by name


@dataclass(frozen=True)
class SearchFolder:
    """The files of one search: in the study folder for the final search, else in a folder below `outer/`."""

    path: Path

    @property
    def best(self) -> Path:
        """What the search chose; see `Best`."""
        return self.path / "best.json"

    @property
    def trials(self) -> Path:
        """Table of the trials: `number`, `value`, `state`, then the hyperparameters."""
        return self.path / "trials.csv"

    @property
    def out_of_fold(self) -> Path:
        """Table of the predictions on the held-out patients of the inner folds, by all members."""
        return self.path / "out_of_fold.csv"

    @property
    def predictions(self) -> Path:
        """Table of predictions on held-out patients, of the outer fold or (in the study folder) of all."""
        return self.path / "predictions.csv"

    @property
    def attention(self) -> Path:
        """Table of attention on held-out patients, of the outer fold or (without any) of the inner folds."""
        return self.path / "attention.csv"

    def epochs(self, number: int) -> Path:
        """Scores after each epoch of a trial, a JSON object a line."""
        return self.path / "epochs" / f"trial{number:04d}.jsonl"

    def read_best(self) -> Best:
        """Read what the search chose; raises DataError where it has not ended."""
        value = read_json(self.best)
        _refuse_unknown(self.best, value, "config", HeadConfig)
        return from_json(value, Best, self.best, decode_decision)


@dataclass(frozen=True)
class AblationFolder:
    """The files of an ablation."""

    path: Path

    @property
    def scores(self) -> Path:
        """See `AblationScores`."""
        return self.path / "scores.json"

    @property
    def table(self) -> Path:
        """Table of the variants' scores."""
        return self.path / "table.csv"

    @property
    def predictions(self) -> Path:
        """Folder of the tables of predictions, one file a variant."""
        return self.path / "predictions"

    @property
    def all_epochs(self) -> Path:
        """Folder of the scores after each epoch, a folder a variant."""
        return self.path / "epochs"

    def epochs(self, variant: str, repeat: int, fold: int) -> Path:
        """Scores after each epoch of a variant in an outer fold."""
        return self.all_epochs / variant / f"{fold_name(repeat, fold)}.jsonl"


@dataclass(frozen=True)
class Study:
    """A study folder and what identifies the study."""

    folder: Path
    config: StudyConfig
    description: StudyDescription

    @classmethod
    def begin(
        cls,
        folder: Path,
        config: StudyConfig,
        cohort: Cohort,
        features: Features,
        splits: SplitsRecord | None = None,
    ) -> "Study":
        """Begin a study, or resume the one in the folder; splits: of its searches, if they are to be fixed.

        Raises DataError where the study in the folder has another description or other splits; the message
        names each difference.
        """
        study = cls(folder, config, describe(config, cohort, features))
        with exclusive(folder, CLAIM, wait=True):
            _publish_or_compare(study.config_path, study.description, StudyDescription)
            if splits is not None:
                _publish_or_compare(study.splits_path, splits, SplitsRecord)
        return study

    @classmethod
    def open(cls, folder: Path) -> "Study":
        """Open a finished study; raises DataError where the folder holds none or it has not ended."""
        description = _read_description(folder)
        study = cls(folder, description.study, description)
        try:
            check_input(study.done)
        except FileNotFoundError:
            advice = "Run its mil-tune command again to resume it."
            raise DataError(f"{printable(folder)} has not ended. {advice}") from None
        return study

    @property
    def outcome(self) -> Outcome:
        """What the study predicts; without the table's words if it has two classes."""
        return outcome_of(self.description.outcome)

    def table(self, predictions: pd.DataFrame) -> Table:
        """Return predictions of the study as arrays; see `Table.of`."""
        return Table.of(predictions, self.config.prevalence, self.outcome.scoring)

    def check(self, cohort: Cohort, features: Features) -> None:
        """Raise DataError where the study was made of another cohort or other features."""
        now = describe(self.config, cohort, features)
        # A newer version may search other hyperparameters; that does not change what this study found.
        stored, asked = (to_json(replace(each, space={})) for each in (self.description, now))
        refuse_other(self.config_path, stored, asked)

    @property
    def config_path(self) -> Path:
        """See `StudyDescription`."""
        return self.folder / "config.json"

    @property
    def splits_path(self) -> Path:
        """See `SplitsRecord`."""
        return self.folder / SPLITS

    @property
    def audit_path(self) -> Path:
        """The audit's findings, a list of `Finding`."""
        return self.folder / "audit.json"

    @property
    def sources_path(self) -> Path:
        """See `Sources`."""
        return self.folder / SOURCES

    @property
    def patients_path(self) -> Path:
        """See `PatientsRecord`."""
        return self.folder / "patients.json"

    @property
    def scores_path(self) -> Path:
        """See `StudyScores`."""
        return self.folder / "scores.json"

    @property
    def rivals(self) -> Path:
        """Table of the baselines' predictions of held-out patients, with their names in `rival`."""
        return self.folder / "rivals.csv"

    @property
    def done(self) -> Path:
        """Exists once the study has ended."""
        return self.folder / "DONE"

    @property
    def report(self) -> Path:
        """The report of `mil-report`."""
        return self.folder / REPORT

    @property
    def canary(self) -> Path:
        """The verdict of `mil-tune --canary`."""
        return self.folder / "canary.json"

    @property
    def model(self) -> Path:
        """The bundle that `mil-fit` writes by default."""
        return self.folder / "model"

    @property
    def finetuning(self) -> Path:
        """Folder of the checkpoints of `mil-fit --finetune`."""
        return self.folder / "finetune"

    @property
    def ablation(self) -> AblationFolder:
        """The files that `mil-ablate` writes."""
        return AblationFolder(self.folder / "ablation")

    def retuned(self, trials: int, variant: str) -> Path:
        """Study folder of an ablation's variant that has a search of its own with so many trials."""
        return self.folder / "retuned" / str(trials) / variant

    @property
    def learning_curve(self) -> Path:
        """See `LearningCurve`."""
        return self.folder / "learning_curve.json"

    def learning(self, share: float) -> "Study":
        """Return the part of a learning curve that uses a share of the training patients."""
        return replace(self, folder=self.folder / "learning" / f"{100 * share:.0f}")

    @property
    def final(self) -> SearchFolder:
        """The files of the search on all labelled patients."""
        return SearchFolder(self.folder)

    def search_folder(self, search: Search) -> SearchFolder:
        """Return the files of a search."""
        return self.outer_folder(search.name) if len(search.test) else self.final

    def outer_folder(self, name: str) -> SearchFolder:
        """Return the files of an outer fold's search."""
        return SearchFolder(self.folder / "outer" / name)

    def outer_folders(self) -> dict[str, SearchFolder]:
        """Return the files of every outer fold's search, by its name."""
        return outer_folders(self.folder)

    def record_data(self, cohort: Cohort, features: Features) -> None:
        """Publish what a report needs to know about the data; it is not part of the study's description."""
        publish_record(self.sources_path, sources_of(self.folder, cohort, features))
        publish_record(self.patients_path, patients_of(cohort, features))

    def read_scores(self) -> StudyScores:
        """Read the scores of a study that has ended."""
        return read_record(self.scores_path, StudyScores)

    def read_sources(self) -> Sources | None:
        """Read where the data are; None in studies of older versions."""
        return _read_if_any(self.sources_path, Sources)

    def read_patients(self) -> PatientsRecord | None:
        """Read the labelled patients; None in studies of older versions."""
        return _read_if_any(self.patients_path, PatientsRecord)

    def read_splits(self) -> SplitsRecord:
        """Read the splits of all searches."""
        return read_record(self.splits_path, SplitsRecord)

    def read_findings(self) -> list[Finding]:
        """Read the audit's findings; none in studies of older versions."""
        return _read_if_any(self.audit_path, list[Finding]) or []

    def read_canary(self) -> Canary | None:
        """Read the result of the canary; None where it did not run."""
        stored = _read_if_any(self.canary, Canary)
        return (
            None if stored is None else Canary.of(stored.aucs, stored.metric)
        )  # older files lack some figures

    def read_learning_curve(self) -> LearningCurve | None:
        """Read the learning curve; None where there is none."""
        return _read_if_any(self.learning_curve, LearningCurve)

    def read_ablation(self) -> AblationScores | None:
        """Read the scores of the ablation; None where there was none."""
        return _read_if_any(self.ablation.scores, AblationScores)


def outer_folders(folder: Path) -> dict[str, SearchFolder]:
    """Return the files of every outer fold's search of a study folder, by its name in splits.json."""
    splits = _read_if_any(folder / SPLITS, SplitsRecord)
    names = sorted(splits.searches)[1:] if splits else []  # without `final`, the first by name
    return {name: SearchFolder(folder / "outer" / name) for name in names}


def _read_if_any(path: Path, kind: type[Content]) -> Content | None:
    return read_record(path, kind) if exists(path) else None


def is_study_folder(folder: Path) -> bool:
    """Return whether a folder holds a study, finished or not."""
    path = folder / "config.json"
    value = read_json(path) if exists(path) else None
    return isinstance(value, dict) and "study" in value


def _publish_or_compare(path: Path, asked: object, kind: type) -> None:
    """Publish a record, or raise DataError where another one is there."""
    if exists(path):
        stored = _read_description(path.parent) if kind is StudyDescription else read_record(path, kind)
        refuse_other(path, to_json(stored), to_json(asked))
    else:
        publish_record(path, asked)


def _read_description(folder: Path) -> StudyDescription:
    """Read a study's config.json; raises DataError where there is none, or it is not that of a study."""
    path = folder / "config.json"
    advice = "Name the folder that mil-tune wrote"
    if not exists(path):
        reason = "it has no config.json" if exists(folder) else "it does not exist"
        raise DataError(f"{folder} is not a study folder: {reason}. {advice}, as studies/NAME.")
    value = read_json(path)
    if isinstance(value, dict) and "study" in value:
        check_schema(path, value.get("schema"), SCHEMA)
        return _description(path, value)
    if isinstance(value, dict) and "head" in value:
        raise DataError(f"{folder} is a bundle, not a study folder. {advice}; this may be {folder.parent}.")
    raise DataError(f"{path} is not the config.json of a study. {advice}.")


def _description(path: Path, value: Json) -> StudyDescription:
    """Return the content of a config.json as a record; options that mil-tune would refuse are bad data."""
    _refuse_unknown(path, value, "study", StudyConfig)
    try:
        return from_json(value, StudyDescription, path)
    except UsageError as error:
        raise DataError([f"{printable(path)}: {problem}" for problem in str(error).splitlines()]) from None


def _refuse_unknown(path: Path, value: Json, section: str, kind: type) -> None:
    """Raise DataError where a section has keys that the fields of its type do not name.

    They would change the result of a version that knows them.
    """
    part = value.get(section) if isinstance(value, dict) else None
    unknown = sorted(part.keys() - {field.name for field in fields(kind)}) if isinstance(part, dict) else []
    if unknown:
        names = some([printable(name) for name in unknown])
        raise DataError(f"{printable(path)}: {section} has fields that this version does not know: {names}.")


def publish_epochs(path: Path, rows: Sequence[EpochScores]) -> None:
    """Publish the scores after each epoch as JSON, one line an epoch."""
    publish(path, ("\n".join(map(json.dumps, rows)) + "\n").encode())


def read_epochs(path: Path) -> list[EpochScores]:
    """Read the scores after each epoch, which may be NaN; raises DataError where the file cannot be read."""
    try:
        lines = read_input(path, EPOCHS_LIMIT).decode().splitlines()
        rows = [msgspec.convert(json.loads(line), EpochScores) for line in lines if line]
    except FileNotFoundError:
        raise DataError(f"{printable(path)} does not exist.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{printable(path)} cannot be read: {printable(str(error))}.") from None
    for number, row in enumerate(rows, 1):
        problem = _epoch_problem(row, rows[0].keys())
        if problem:
            raise DataError(f"{printable(path)}, row {number}: {problem}.")
    return rows


def _epoch_problem(row: EpochScores, names: Collection[str]) -> str | None:
    """Return what is wrong with the scores after an epoch, which all have the same names."""
    if not 1 <= row.get("epoch", 0) <= MOST_EPOCHS:
        return f"it has no epoch between 1 and {MOST_EPOCHS}"
    if row.keys() != set(names):
        return "its scores are not those of the first row"
    if any(abs(value) > HIGHEST_SCORE for value in row.values()):  # false for NaN
        return f"a score is above {HIGHEST_SCORE}"
    unpaired = [name for name in names if name.replace("validation_", "training_") not in names]
    return f"{printable(unpaired[0])} has no score of training beside it" if unpaired else None
