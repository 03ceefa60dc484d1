"""`cases`: an entry for each patient that is shown."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mil_toolkit.core.text import printable
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.shown import shown_places, shown_values
from mil_toolkit.study.records import PatientRecord

HIGHEST, LOWEST = 5, 3  # images of a patient that are shown
EQUAL = 1e-6  # attention within a bag that differs by less counts as equal


@dataclass(frozen=True)
class WeightedImage:
    """An image of a patient: its name as stored and as shown, its attention, and its rank from 1."""

    stored: str
    name: str
    attention: float
    rank: int


@dataclass(frozen=True)
class Attention:
    """The attention on a patient's images.

    highest, lowest: images by attention, empty where it is equal on all images
    effective: effective number of images, 1 / sum of squared attention; None where it is equal on all images
    """

    images: int
    highest: tuple[WeightedImage, ...]
    lowest: tuple[WeightedImage, ...]
    effective: float | None


@dataclass(frozen=True)
class Case:
    """A predicted patient.

    stored, name: the id as stored and as shown; wrong: share of the repeats; label: the target
    probability: mean of the predicted values over repeats; of class 1 if there are two classes, of the true
        class if there are several, the risk at the horizon of survival
    images: their number, None where unknown; attention: None where there is none
    """

    stored: str
    name: str
    label: int | float | list[float]
    probability: float
    wrong: float
    images: int | None
    metadata: Mapping[str, float | str | None]
    attention: Attention | None

    @property
    def shown_images(self) -> tuple[WeightedImage, ...]:
        """The images of highest and lowest attention."""
        return (*self.attention.highest, *self.attention.lowest) if self.attention else ()


class Naming:
    """The names of patients and images in the report: as stored, on one line, or anonymous."""

    def __init__(self, anonymise: bool):
        self.anonymise = anonymise
        self._numbers: dict[str, int] = {}

    def patient(self, stored: str) -> str:
        """Return the id, or a number in the order in which patients are first named."""
        if not self.anonymise:
            return printable(stored)
        return f"Patient {self._numbers.setdefault(stored, len(self._numbers) + 1)}"

    def image(self, stored: str, place: int) -> str:
        """Return the name, or the place (from 1) in the patient's bag."""
        return f"image {place}" if self.anonymise else printable(stored)


def cases(contents: Contents, naming: Naming) -> list[Case]:
    """Return the patients to show; see `shown_places`."""
    table = contents.table
    wrong, values, _ = shown_values(table)
    records = (
        {} if contents.patients is None else {record.id: record for record in contents.patients.patients}
    )
    attention = _by_patient(contents.attention)
    return [
        _case(
            table.patient_ids[place],
            table.labels[place].tolist(),
            float(values[place]),
            float(wrong[place]),
            records.get(table.patient_ids[place]),
            attention.get(table.patient_ids[place]),
            naming,
        )
        for place in shown_places(table)
    ]


def _by_patient(attention: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    if attention is None:
        return {}
    return {str(patient): rows for patient, rows in attention.groupby("patient_id", sort=False)}


def _case(
    stored: str,
    label: float | list[float],
    probability: float,
    wrong: float,
    record: PatientRecord | None,
    rows: pd.DataFrame | None,
    naming: Naming,
) -> Case:
    name = naming.patient(stored)
    attention = None if rows is None else _attention(rows, naming)
    images = record.images if record else None
    metadata = record.metadata if record and not naming.anonymise else {}
    images = images or (attention.images if attention else None)
    return Case(stored, name, label, probability, wrong, images, metadata, attention)


def _attention(rows: pd.DataFrame, naming: Naming) -> Attention:
    """Return the images by falling attention, ties in the order of the bag."""
    names, attention = rows["image"].tolist(), rows["attention"].to_numpy()
    order = np.argsort(-attention, kind="stable")
    shares = attention[order]
    if shares[0] - shares[-1] < EQUAL:
        return Attention(len(order), (), (), None)

    def ranked(ranks: range) -> tuple[WeightedImage, ...]:
        places = ((rank, int(order[rank])) for rank in ranks)
        return tuple(
            WeightedImage(
                names[place], naming.image(names[place], place + 1), float(attention[place]), rank + 1
            )
            for rank, place in places
        )

    highest = range(min(HIGHEST, len(order)))
    lowest = range(max(HIGHEST, len(order) - LOWEST), len(order))
    return Attention(len(order), ranked(highest), ranked(lowest), float(1 / (shares**2).sum()))
