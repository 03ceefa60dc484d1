"""`cases`: an entry for each patient that is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pandas as pd

from mil_toolkit.core.text import printable
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.shown import shown_places, shown_values
from mil_toolkit.study.records import PatientRecord
from mil_toolkit.study.tables import class_columns, class_of

HIGHEST, LOWEST = 5, 3  # images of a patient that are shown
MOST_OTHERS = 2  # classes of a patient that are shown besides the true one, the most probable ones
OF_CLASS = 4  # images of a patient that are shown for each class with an attention of its own
EQUAL = 1e-6  # attention within a bag that differs by less counts as equal


@dataclass(frozen=True)
class WeightedImage:
    """An image of a patient: its name as stored and as shown, its attention, and its rank from 1."""

    stored: str
    name: str
    attention: float
    rank: int


@dataclass(frozen=True)
class ClassImages:
    """The images of highest attention of a class that has its own; none where it is equal on all images.

    is_true: whether it is the patient's class
    """

    name: str
    images: tuple[WeightedImage, ...]
    is_true: bool


@dataclass(frozen=True)
class Attention:
    """The attention on a patient's images.

    highest, lowest: images by attention, empty where it is equal on all images, and where each class has its
        own
    effective: effective number of images, 1 / sum of squared attention, which is the mean over classes that
        have their own; None where it is equal on all images
    classes: of class-wise attention, the images of the true class and the `MOST_OTHERS` most probable
        others, in the declared order
    """

    images: int
    highest: tuple[WeightedImage, ...]
    lowest: tuple[WeightedImage, ...]
    effective: float | None
    classes: tuple[ClassImages, ...] = ()


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
        """The images of highest and lowest attention; of class-wise attention, those of the true class first.

        Each image is there once.
        """
        if self.attention is None:
            return ()
        classes = [of_class.images for of_class in self.attention.classes]
        first = next((each.images for each in self.attention.classes if each.is_true), self.attention.highest)
        images: dict[str, WeightedImage] = {}
        for image in (*first, *chain.from_iterable(classes), *self.attention.lowest):
            images.setdefault(image.stored, image)
        return tuple(images.values())


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
            table.probabilities[:, place].mean(0),
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
    predicted: np.ndarray,
    naming: Naming,
) -> Case:
    name = naming.patient(stored)
    attention = None if rows is None else _attention(rows, _classes(rows, label, predicted, naming), naming)
    images = record.images if record else None
    metadata = record.metadata if record and not naming.anonymise else {}
    images = images or (attention.images if attention else None)
    return Case(stored, name, label, probability, wrong, images, metadata, attention)


def _classes(
    rows: pd.DataFrame, label: float | list[float], predicted: np.ndarray, naming: Naming
) -> tuple[ClassImages, ...]:
    """Return the images of classes that have their own attention; predicted: (C,), their probabilities."""
    columns = class_columns(rows)
    if not columns or isinstance(label, list):
        return ()
    true = int(label)
    others = [place for place in np.argsort(-predicted, kind="stable").tolist() if place != true]
    return tuple(
        ClassImages(
            printable(class_of(columns[place])),
            ranked(rows, columns[place], naming)[:OF_CLASS],
            place == true,
        )
        for place in sorted([true, *others[:MOST_OTHERS]])
    )


def _attention(rows: pd.DataFrame, classes: tuple[ClassImages, ...], naming: Naming) -> Attention:
    """Return the images by falling attention, or those of `classes` where these have their own."""
    images = ranked(rows, "attention", naming)
    if not images and not any(of_class.images for of_class in classes):
        return Attention(len(rows), (), (), None)
    falling = -np.sort(-rows["attention"].to_numpy())
    effective = float(1 / (falling**2).sum())
    if classes:
        return Attention(len(rows), (), (), effective, classes)
    lowest = images[max(HIGHEST, len(images) - LOWEST) :]
    return Attention(len(rows), images[:HIGHEST], lowest, effective)


def ranked(rows: pd.DataFrame, column: str, naming: Naming) -> tuple[WeightedImage, ...]:
    """Return all images by falling attention, ties in the order of the bag; none where it is equal on all."""
    images, attention = in_order(rows, column, naming), rows[column].to_numpy()
    order = np.argsort(-attention, kind="stable").tolist()
    if attention[order[0]] - attention[order[-1]] < EQUAL:
        return ()
    return tuple(replace(images[place], rank=rank) for rank, place in enumerate(order, 1))


def in_order(rows: pd.DataFrame, column: str, naming: Naming) -> tuple[WeightedImage, ...]:
    """Return all images in the order of the bag, whose rank is their place."""
    pairs = zip(rows["image"].tolist(), rows[column].tolist(), strict=True)
    return tuple(
        WeightedImage(name, naming.image(name, place), float(attention), place)
        for place, (name, attention) in enumerate(pairs, 1)
    )
