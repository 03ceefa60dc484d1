"""Small cohorts and studies of every kind of outcome, made from the tiny cohort."""

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from support.studies import Tiny

KEYS = {
    "ordered": ('label = "GRADE"', 'classes = ["low", "medium", "high"]', "ordered = true"),
    "classes": ('label = "SUBTYPE"', 'classes = ["AML", "ALL", "CML"]'),
    "number": ('target = "BLASTS"', 'unit = "%"'),
    "survival": ('time = "OS"', 'event = "DEAD"', "horizon = 5"),
}
_OF_BINARY = ("label", "positive", "negative", "unlabelled")
_FAST = {"trials": 1, "epochs": 2, "folds": 2, "outer-folds": 2, "members": 1, "workers": 1}


def outcome_cohort(tiny: Tiny, kind: str, folder: Path) -> Path:
    """Copy the tiny cohort with an outcome of another kind, and return its cohort.toml."""
    shutil.copytree(tiny.cohort_toml.parent, folder)
    table = pd.read_csv(folder / "patients.csv", dtype=str, keep_default_na=False)
    known = table["DIAGNOSIS"] != ""
    row, tumoral = np.arange(len(table)), (table["DIAGNOSIS"] == "tumoral").to_numpy()
    columns = {
        "GRADE": np.array(["low", "medium", "high"])[(row + tumoral) % 3],
        "SUBTYPE": np.array(["AML", "ALL", "CML"])[row % 3],
        "BLASTS": 10.25 + 30 * tumoral + row % 7,
        "OS": np.round(0.5 + (row * 7 % 24) / 3 * (1 - 0.4 * tumoral), 2),
        "DEAD": (row % 4 > 0).astype(int),
    }
    for name, values in columns.items():
        table[name] = pd.Series(values).astype(str).where(known, "?")
    table.to_csv(folder / "patients.csv", index=False)
    toml = folder / "cohort.toml"
    lines = [line for line in toml.read_text().splitlines() if not line.startswith((*_OF_BINARY, "stratify"))]
    place = lines.index("[cohort]") + 1
    toml.write_text("\n".join([*lines[:place], *KEYS[kind], 'unlabelled = "?"', *lines[place:]]))
    return toml


def outcome_study(tiny: Tiny, kind: str, folder: Path) -> Path:
    """Return the folder of a finished study of a cohort of this kind, with its bundle and its report."""
    toml, study = outcome_cohort(tiny, kind, folder / "cohort"), folder / "study"
    options = [word for name, value in _FAST.items() for word in (f"--{name}", str(value))]
    data = [str(toml), "--features", str(tiny.features), "--study", str(study)]
    settings = ["--set", "hidden=32", "--set", "pooling=attention"]
    assert import_module("mil_toolkit.cli.tune").main([*data, *options, *settings]) == 0
    assert import_module("mil_toolkit.cli.fit").main(data) == 0
    return study
