"""A drawn cohort that has an outcome of every kind, and patients with targets of every kind."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.ordered import Ordered
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.training.patients import Patients

DECLARED = {
    "classes": 'label = "GRADE"\nclasses = ["a", "b", "c"]',
    "ordered": 'label = "GRADE"\nclasses = ["b", "c", "a"]\nordered = true',
    "number": 'target = "BLASTS"',
    "logarithm": 'target = "BLASTS"\ntransform = "log"',
    "survival": 'time = "OS"\nevent = "DEAD"\nhorizon = 5',
}
"""The declarations of the outcomes of `drawn_cohort`."""
OUTCOMES: dict[str, Outcome] = {
    "classes": Classes("L", ("a", "b c", "d:é")),
    "ordered": Ordered("L", ("low", "mid", "high")),
    "number": Number("T", unit="10^9/L"),
    "logarithm": Number("T", transform="log"),
    "survival": Survival("OS", "DEAD", 3),
}


def drawn_cohort(folder: Path, declared: str) -> Cohort:
    """Write and read a cohort of 36 patients with two columns of metadata, the last three unlabelled."""
    random = np.random.default_rng(0)
    marker = random.normal(size=36)
    table = pd.DataFrame({"ID": [f"P{place}" for place in range(36)], "MARKER": marker.round(3)})
    table["NOISE"] = random.normal(size=36).round(3)
    table["GRADE"] = np.array(["b", "c", "a"])[np.argsort(np.argsort(marker)) // 12]
    table["BLASTS"] = np.exp(marker + 2).round(2).astype(str)
    table["OS"] = np.exp(1.5 - marker + random.normal(size=36) / 2).round(2).astype(str)
    table["DEAD"] = (np.arange(36) % 3 > 0).astype(int).astype(str)
    table.loc[33:, ["GRADE", "BLASTS", "OS", "DEAD"]] = "?"
    table.to_csv(folder / "patients.csv", index=False)
    head = 'name = "drawn"\ntable = "patients.csv"\nid = "ID"\nunlabelled = "?"'
    declare = '[metadata.{}]\ncolumn = "{}"\nkind = "number"'.format
    columns = [declare(name.lower(), name) for name in ("MARKER", "NOISE")]
    sections = [f"[cohort]\n{head}\n{declared}", *columns, "[splits]\nstratify = ['label']"]
    (folder / "cohort.toml").write_text("\n".join(sections) + "\n")
    return read_cohort(folder / "cohort.toml", images=False)


def targets_of(outcome: Outcome, count: int) -> np.ndarray:
    """Return targets of so many patients; one third of those of survival are censored."""
    times = np.exp(np.random.default_rng(5).normal(1, 1, count))
    if outcome.class_names:
        return np.arange(count) % len(outcome.class_names)
    return np.stack([times, np.arange(count) % 3 > 0], axis=-1) if outcome.kind == "survival" else times


def with_outcome(patients: Patients, outcome: Outcome) -> Patients:
    """Return the same patients with targets of an outcome."""
    return replace(patients, labels=targets_of(outcome, len(patients)), outcome=outcome)
