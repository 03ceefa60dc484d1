"""`cases`: one entry for each scored patient, the worst mistakes first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mil_toolkit.core.files import digest, shown
from mil_toolkit.report.contents import Contents

HIGHEST, LOWEST = 5, 3  # images of a patient that are shown
ALIKE = 1e-6  # weights of a bag that differ by less all weigh the same


@dataclass(frozen=True)
class Weighed:
    """An image of a patient: its name as stored and as shown, and its attention; rank from 1."""

    stored: str
    name: str
    attention: float
    rank: int


@dataclass(frozen=True)
class Case:
    """A scored patient.

    stored, name: the id as stored and as shown; probability: mean over repeats; wrong: share of the repeats
    error: distance of the probability from the label; images: how many there are, None where unknown
    highest, lowest: images by attention, empty where there is none or all weigh the same
    effective: 1 / sum of squared attentions, as if so many images shared all of it
    """

    stored: str
    name: str
    label: int
    probability: float
    wrong: float
    images: int | None
    metadata: Mapping[str, Any]
    highest: tuple[Weighed, ...]
    lowest: tuple[Weighed, ...]
    effective: float | None

    @property
    def error(self) -> float:
        """Distance of the probability from the label."""
        return abs(self.label - self.probability)


class Naming:
    """What patients and images are called in the report: as they are, on one line, or anonymously."""

    def __init__(self, anonymise: bool):
        self.anonymise = anonymise
        self._numbers: dict[str, int] = {}

    def patient(self, stored: str) -> str:
        """By its id, or by a number in the order in which patients are first named."""
        if not self.anonymise:
            return shown(stored)
        return f"Patient {self._numbers.setdefault(stored, len(self._numbers) + 1)}"

    def image(self, stored: str, place: int) -> str:
        """By its name, or by its place (from 1) in the patient's bag."""
        return f"image {place}" if self.anonymise else shown(stored)


def cases(contents: Contents, naming: Naming) -> list[Case]:
    """All scored patients, the worst mistakes first: wrong in most repeats, then the farthest off."""
    table = contents.table
    wrong = (table.decisions != table.labels).mean(0)
    probabilities = table.probabilities.mean(0)
    order = sorted(
        range(len(table.labels)),
        key=lambda place: (
            -wrong[place],
            -abs(table.labels[place] - probabilities[place]),
            digest(table.patient_ids[place].encode(errors="surrogateescape")),
        ),
    )
    known = {} if contents.patients is None else {each["id"]: each for each in contents.patients["patients"]}
    weights = _by_patient(contents.attention)
    return [
        _case(
            table.patient_ids[place],
            int(table.labels[place]),
            float(probabilities[place]),
            float(wrong[place]),
            known.get(table.patient_ids[place], {}),
            weights.get(table.patient_ids[place]),
            naming,
        )
        for place in order
    ]


def _by_patient(attention: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    if attention is None:
        return {}
    return {str(patient): rows for patient, rows in attention.groupby("patient_id", sort=False)}


def _case(
    stored: str,
    label: int,
    probability: float,
    wrong: float,
    known: Mapping[str, Any],
    rows: pd.DataFrame | None,
    naming: Naming,
) -> Case:
    weighed = [] if rows is None else list(_weighed(rows, naming))
    alike = not weighed or weighed[0].attention - weighed[-1].attention < ALIKE
    shares = np.array([each.attention for each in weighed])
    lowest = max(HIGHEST, len(weighed) - LOWEST)
    return Case(
        stored,
        naming.patient(stored),
        label,
        probability,
        wrong,
        known.get("images") or len(weighed) or None,
        {} if naming.anonymise else known.get("metadata", {}),
        () if alike else tuple(weighed[:HIGHEST]),
        () if alike else tuple(weighed[lowest:]),
        None if alike else float(1 / (shares**2).sum()),
    )


def _weighed(rows: pd.DataFrame, naming: Naming) -> Iterator[Weighed]:
    """The images by falling attention, ties in the order of the bag."""
    names, attention = rows["image"].tolist(), rows["attention"].to_numpy()
    for rank, place in enumerate(np.argsort(-attention, kind="stable").tolist(), 1):
        yield Weighed(names[place], naming.image(names[place], place + 1), float(attention[place]), rank)
