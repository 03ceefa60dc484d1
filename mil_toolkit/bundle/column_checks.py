"""`column_problems`: the metadata columns that a cohort must declare as those of the training patients."""

import json
from dataclasses import asdict
from pathlib import Path

from mil_toolkit.bundle.bundle import ModelBundle, declared
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.text import printable
from mil_toolkit.study.records import ColumnRecord


def column_problems(bundle: ModelBundle, cohort: Cohort) -> list[str]:
    """Return how the metadata columns of a cohort differ from those that a bundle was fitted with."""
    expected = {column.name: column for column in bundle.about.columns}
    present = {column.name: declared(column) for column in cohort.columns}
    return [
        problem
        for name in sorted(expected.keys() | present.keys())
        for problem in _column_differences(name, expected.get(name), present.get(name), cohort.source)
    ]


def _column_differences(
    name: str, expected: ColumnRecord | None, present: ColumnRecord | None, source: Path
) -> list[str]:
    """Return how a metadata column of a cohort differs from the one the model was trained with."""
    section = f"[metadata.{printable(name)}]"
    if expected is None:
        return [f"{section} is unknown to the model. Remove it from {source}."]
    if present is None:
        keys = {key: value for key, value in asdict(expected).items() if value is not None and key != "name"}
        trained = ", ".join(
            f"{key} = {printable(json.dumps(value, ensure_ascii=False))}" for key, value in keys.items()
        )
        return [f"{section} is missing in {source}. The model was trained with {trained}."]
    values = asdict(present)
    return [
        f"{section} {key} is {values[key] or 'not given'} in {source}; the model was trained with"
        f" {printable(value or 'none')}."
        for key, value in asdict(expected).items()
        if values[key] != value
    ]
