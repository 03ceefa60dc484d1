"""The study's folder: what it says of itself, and what it refuses to be."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.studies import Tiny

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import plan_searches


def copied(tiny: Tiny, folder: Path) -> Path:
    return Path(shutil.copytree(tiny.study, folder / "study", ignore=shutil.ignore_patterns("model")))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_study_is_read_without_the_command_line_that_made_it(tiny: Tiny) -> None:
    study = Study.open(tiny.study)
    assert study.config == StudyConfig(
        trials=2,
        folds=2,
        outer_folds=2,
        members=2,
        settings={"epochs": (3,), "hidden": (32,), "pooling": ("attention",)},
    )
    description = study.description
    assert description.cohort.patients == 24
    assert description.features and description.features.spec == tiny.cache.spec
    study.check(tiny.cohort, tiny.cache)


@pytest.mark.parametrize("missing", ["config.json", "DONE", "best.json"])
def test_an_unfinished_study_is_told(missing: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    (folder / missing).unlink()
    words = "has not ended" if missing == "DONE" else missing
    with pytest.raises(DataError, match=words):
        Study.open(folder).final.read_best()


def test_what_is_no_study_is_told_with_what_would_be_one(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("[]")
    for folder, words in (
        (
            tmp_path / "absent",
            "absent is not a study folder: it does not exist. Name the folder that mil-tune wrote",
        ),
        (tmp_path, "is not a study folder: it has no config.json. Name the folder that mil-tune wrote"),
        (
            tiny.bundle,
            f"is a bundle, not a study folder. .* this may be {re.escape(str(tiny.bundle.parent))}",
        ),
        (tmp_path / "odd", r"config\.json is not the config\.json of a study"),
    ):
        with pytest.raises(DataError, match=words):
            Study.open(folder)


def test_a_newer_schema_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    edit(folder / "config.json", lambda config: config.update(schema=99))
    with pytest.raises(DataError, match=r"config\.json has schema 99, written by a newer .*Upgrade"):
        Study.open(folder)


def test_a_study_knows_where_its_data_lie_and_who_its_patients_are(tiny: Tiny) -> None:
    sources = json.loads((tiny.study / "sources.json").read_text())
    assert sources["cohort"] == str(tiny.cohort_toml) and sources["features"] == str(tiny.features)
    told = json.loads((tiny.study / "patients.json").read_text())
    labelled = tiny.cohort.labelled()
    assert [each["id"] for each in told["patients"]] == list(labelled.patient_ids)
    assert [each["label"] for each in told["patients"]] == labelled.labels.tolist()
    sizes = [len(labelled.images[patient]) for patient in labelled.patient_ids]
    assert [each["images"] for each in told["patients"]] == sizes
    for name in labelled.metadata:
        values = [each["metadata"][name] for each in told["patients"]]
        assert values == [None if pd.isna(value) else value for value in labelled.metadata[name]]
    assert [column["name"] for column in told["columns"]] == list(labelled.metadata)
    assert told["unlabelled"] == 3 and told["class_names"] == list(labelled.class_names)


def test_features_of_none_are_another_study(tiny: Tiny) -> None:
    with pytest.raises(DataError, match=r"features\.digest"):
        Study.open(tiny.study).check(tiny.cohort, None)


def test_an_unlabelled_patient_more_or_less_is_the_same_study(tiny: Tiny) -> None:
    Study.open(tiny.study).check(tiny.cohort.labelled(), tiny.cache)


def test_every_difference_is_named_and_nothing_written(tiny: Tiny, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path)
    before = (folder / "config.json").read_bytes()
    config = replace(Study.open(folder).config, trials=3, seed=5, settings={"epochs": (4,)})
    with pytest.raises(DataError) as caught:
        Study.begin(folder, config, tiny.cohort, tiny.cache)
    told = "\n".join(caught.value.problems)
    for line in (
        "study.trials: 2 there, 3 now.",
        "study.seed: 0 there, 5 now.",
        "study.settings.epochs: [3] there, [4] now.",
        "study.settings.hidden: [32] there, None now.",
    ):
        assert line in told
    assert "study.folds" not in told and (folder / "config.json").read_bytes() == before


# The plan.


@pytest.mark.parametrize(("repeats", "outer_folds", "count"), [(1, 0, 1), (1, 3, 4), (2, 2, 5), (3, 0, 1)])
def test_the_searches_of_a_study(repeats: int, outer_folds: int, count: int, tiny: Tiny) -> None:
    config = StudyConfig(folds=3, repeats=repeats, outer_folds=outer_folds)
    searches, saved = plan_searches(tiny.cohort.labelled(), config)
    assert len(searches) == count and len({search.name for search in searches}) == count
    assert searches[-1].name == "final" and not len(searches[-1].test)
    assert list(saved.searches) == [search.name for search in searches]
    for search in searches:
        assert not set(search.patients) & set(search.test)
        assert sorted([*search.patients, *search.test]) == list(range(24))
        held_out = np.concatenate([split.test for split in search.inner])
        assert sorted(held_out) == list(range(len(search.patients)))


def test_repeats_are_split_anew(tiny: Tiny) -> None:
    searches, _ = plan_searches(tiny.cohort.labelled(), StudyConfig(folds=2, repeats=2, outer_folds=2))
    first, second = (
        {frozenset(search.test) for search in searches[:-1] if search.path[0] == repeat} for repeat in (1, 2)
    )
    assert first != second


def test_groups_stay_together(tiny: Tiny) -> None:
    cohort: Cohort = tiny.cohort.labelled()
    groups = np.array([f"G{i // 2}" for i in range(len(cohort))])
    searches, _ = plan_searches(replace(cohort, groups=groups), StudyConfig(folds=2, outer_folds=2))
    for search in searches:
        assert not set(groups[search.patients]) & set(groups[search.test])
        own = groups[search.patients]
        for split in search.inner:
            assert not set(own[split.train]) & set(own[split.test])


def test_each_group_is_an_outer_fold(tiny: Tiny) -> None:
    cohort: Cohort = tiny.cohort.labelled()
    groups = np.array([f"G{i % 4}" for i in range(len(cohort))])
    config = StudyConfig(folds=2, outer_folds="groups")
    searches, saved = plan_searches(replace(cohort, groups=groups), config)
    assert [set(groups[search.test]) for search in searches[:-1]] == [{"G0"}, {"G1"}, {"G2"}, {"G3"}]
    assert len(searches) == 5 and len(saved.searches["repeat1-fold4"].test) == 6
    held_out = saved.held_out["repeat1-fold4"]
    assert held_out["positive"] + held_out["negative"] == 6
    with pytest.raises(DataError, match="group column"):
        plan_searches(cohort, config)
