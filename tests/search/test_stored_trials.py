"""Databases that no search has written: a sentence that names the file and the trial, and exit code 3."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.study.tune import tune

CONFIG = StudyConfig(trials=3, folds=2, outer_folds=0, members=1, settings={"epochs": (3,)})
CONCLUDED = ("best.json", "scores.json", "DONE")  # without these a search reads its trials again


@dataclass(frozen=True)
class Finished:
    """A cohort and a finished study on its metadata."""

    cohort: Cohort
    study: Path

    def resume(self, study: Path) -> None:
        """Run mil-tune again in a folder."""
        tune(self.cohort, None, study, CONFIG, "cpu")


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("stored")
    cohort = read_cohort(draw_cohort(folder / "cohort", patients=24, image_size=8, images=(1, 2)))
    finished = Finished(cohort, folder / "study")
    finished.resume(finished.study)
    return finished


@pytest.fixture(name="study")
def _study(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the study that stopped before its conclusion."""
    study = Path(shutil.copytree(finished.study, tmp_path / "study"))
    for name in CONCLUDED:
        (study / name).unlink()
    return study


def execute(study: Path, statement: str) -> None:
    connection = sqlite3.connect(study / "optuna.db")
    with connection:
        assert connection.execute(statement).rowcount
    connection.close()


def sql(statement: str) -> Callable[[Path], None]:
    return lambda study: execute(study, statement)


def user_attribute(name: str, value: str) -> Callable[[Path], None]:
    return sql(
        f"update trial_user_attributes set value_json = '{value}' where key = '{name}' and trial_id = 2"
    )


def parameter(name: str, value: str) -> Callable[[Path], None]:
    return sql(f"update trial_params set param_value = {value} where param_name = '{name}'")


def cut(study: Path) -> None:
    path = study / "optuna.db"
    os.truncate(path, path.stat().st_size // 2)


def pipe(name: str) -> Callable[[Path], None]:
    def replace(study: Path) -> None:
        (study / name).unlink(missing_ok=True)
        os.mkfifo(study / name)

    return replace


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no database": (
        lambda study: (study / "optuna.db").write_bytes(b"x" * 9000) and None,
        "is not an SQLite",
    ),
    "an empty file": (lambda study: os.truncate(study / "optuna.db", 0), "is not an SQLite"),
    "half a file": (cut, "is damaged|holds something"),
    "a pipe": (pipe("optuna.db"), "is a named pipe"),
    "a pipe as journal": (pipe("optuna.db-journal"), "is a named pipe"),
    "an older Optuna": (sql("update alembic_version set version_num = 'v2.4.0.a'"), "upgrad"),
    "a newer Optuna": (sql("update alembic_version set version_num = 'v99.0.0.a'"), "pip install -U optuna"),
    "no version": (sql("update version_info set library_version = 7, schema_version = 'x'"), ""),
    "no table": (sql("alter table trial_values rename to other"), "its value None is not a finite"),
    "no column": (sql("alter table trials rename column state to other"), "no such column"),
    "text as value": (sql("update trial_values set value = 'good'"), "value .*good.* is not a finite number"),
    "text as step": (
        sql("update trial_intermediate_values set step = step || 'x'"),
        "after epoch|holds something",
    ),
    "text after an epoch": (
        sql("update trial_intermediate_values set intermediate_value = 'good'"),
        "'good' after epoch 1 is not a number",
    ),
    "an unknown state": (sql("update trials set state = 'DONE'"), "holds something"),
    "text as a time": (sql("update trials set datetime_start = 'yesterday'"), "holds something"),
    "no epoch": (sql("delete from trial_user_attributes where key = 'epoch'"), "epoch None is not a whole"),
    "epoch 0": (user_attribute("epoch", "0"), "epoch 0 is not a whole number from 1"),
    "text as epoch": (user_attribute("epoch", '"three"'), "epoch 'three' is not a whole number"),
    "text as number": (user_attribute("number", '"two"'), "number 'two' is not one of 3"),
    "a number too high": (user_attribute("number", "1000000000"), "number 1000000000 is not one of 3"),
    "a number twice": (user_attribute("number", "0"), "two trials have the same number"),
    "no JSON": (user_attribute("number", "{"), "holds something"),
    "a value out of space": (parameter("learning_rate", "77.0"), "learning_rate = 77.0 is not in the search"),
    "text as a parameter": (parameter("learning_rate", "'fast'"), "learning_rate = 'fast' is not in the"),
    "an unknown choice": (parameter("metadata_branch", "99"), "holds something"),
    "an unknown parameter": (
        sql("update trial_params set param_name = 'luck' where param_name = 'gamma'"),
        "luck = .* is not in the search space",
    ),
    "no parameters": (
        sql("delete from trial_params where trial_id = 2"),
        "hyperparameters are not all there",
    ),
    "no distribution": (sql("update trial_params set distribution_json = '{}'"), "holds something"),
    "another study": (sql("update study_user_attributes set value_json = '[]'"), "describes another study"),
    "a study that is no JSON": (sql("update study_user_attributes set value_json = '['"), "holds something"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_database_is_refused(change: str, finished: Finished, study: Path) -> None:
    apply, words = CHANGES[change]
    apply(study)
    if not words:
        finished.resume(study)
        return
    with pytest.raises(DataError, match=words) as caught:
        finished.resume(study)
    assert "optuna.db" in str(caught.value)


def test_an_honest_database_is_resumed(finished: Finished, study: Path) -> None:
    finished.resume(study)
    for name in CONCLUDED:
        assert (study / name).read_bytes() == (finished.study / name).read_bytes()
