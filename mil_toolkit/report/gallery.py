"""`cases`: an entry for each predicted patient, the worst mistakes first; of very many, for some."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mil_toolkit.core.files import digest
from mil_toolkit.core.text import printable
from mil_toolkit.report.contents import Contents
from mil_toolkit.study.records import PatientRecord

HIGHEST, LOWEST = 5, 3  # images of a patient that are shown
MOST_WORST = MOST_BEST = 1000  # patients that are shown; each takes about 3 KB of the page
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

    stored, name: the id as stored and as shown; label, probability: the target, and the mean
        of the predicted values over repeats; wrong: share of the repeats
    images: their number, None where unknown; attention: None where there is none
    """

    stored: str
    name: str
    label: int | float
    probability: float
    wrong: float
    images: int | None
    metadata: Mapping[str, float | str | None]
    attention: Attention | None

    @property
    def error(self) -> float:
        """Distance of the probability from the label."""
        return abs(self.label - self.probability)

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
    """Return the predicted patients, the worst mistakes first: wrong in most repeats, then by error.

    Of more than MOST_WORST + MOST_BEST patients, the first MOST_WORST and the last MOST_BEST.
    """
    table = contents.table
    decided = table.scoring.decision is not None
    wrong = (table.decisions != table.labels).mean(0) if decided else np.zeros(len(table.labels))
    probabilities = table.probabilities.mean(0)
    order = sorted(
        range(len(table.labels)),
        key=lambda place: (
            -wrong[place],
            -abs(table.labels[place] - probabilities[place]),
            digest(table.patient_ids[place].encode(errors="surrogateescape")),
        ),
    )
    records = (
        {} if contents.patients is None else {record.id: record for record in contents.patients.patients}
    )
    attention = _by_patient(contents.attention)
    return [
        _case(
            table.patient_ids[place],
            table.labels[place].item(),
            float(probabilities[place]),
            float(wrong[place]),
            records.get(table.patient_ids[place]),
            attention.get(table.patient_ids[place]),
            naming,
        )
        for place in (order if shows_all(len(order)) else [*order[:MOST_WORST], *order[-MOST_BEST:]])
    ]


def shows_all(patients: int) -> bool:
    """Return whether `cases` returns all of this number of patients."""
    return patients <= MOST_WORST + MOST_BEST


def _by_patient(attention: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    if attention is None:
        return {}
    return {str(patient): rows for patient, rows in attention.groupby("patient_id", sort=False)}


def _case(
    stored: str,
    label: float,
    probability: float,
    wrong: float,
    record: PatientRecord | None,
    rows: pd.DataFrame | None,
    naming: Naming,
) -> Case:
    name = naming.patient(stored)
    attention = None if rows is None else _attention(list(_by_weight(rows, naming)))
    images = record.images if record else None
    metadata = record.metadata if record and not naming.anonymise else {}
    images = images or (attention.images if attention else None)
    return Case(stored, name, label, probability, wrong, images, metadata, attention)


def _attention(ranked: list[WeightedImage]) -> Attention:
    if ranked[0].attention - ranked[-1].attention < EQUAL:
        return Attention(len(ranked), (), (), None)
    shares = np.array([image.attention for image in ranked])
    lowest = max(HIGHEST, len(ranked) - LOWEST)
    effective = float(1 / (shares**2).sum())
    return Attention(len(ranked), tuple(ranked[:HIGHEST]), tuple(ranked[lowest:]), effective)


def _by_weight(rows: pd.DataFrame, naming: Naming) -> Iterator[WeightedImage]:
    """Yield the images by falling attention, ties in the order of the bag."""
    names, attention = rows["image"].tolist(), rows["attention"].to_numpy()
    for rank, place in enumerate(np.argsort(-attention, kind="stable").tolist(), 1):
        yield WeightedImage(
            names[place], naming.image(names[place], place + 1), float(attention[place]), rank
        )
