"""`PatientWords`: the prediction for one patient in words, for the terminal and for the page."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from mil_toolkit.bundle.abstention import set_members, training_note
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.contributions import EARLY, LATE
from mil_toolkit.bundle.one_patient import OnePrediction
from mil_toolkit.core.records import Json
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.words import number
from mil_toolkit.outcomes.sets import SET, SET_HIGH, SET_LOW
from mil_toolkit.study.records import ColumnRecord
from mil_toolkit.training.encoder import NumberEncoder


@dataclass(frozen=True)
class PatientWords:
    """Sentences about a prediction.

    abstain: error rate of its set; None without a set
    reference: the day at which ages were computed from dates of birth
    """

    bundle: ModelBundle
    prediction: OnePrediction
    reference: date
    abstain: float | None = None

    @property
    def row(self) -> pd.Series:
        """The patient's row in the table of predictions."""
        return self.prediction.predictions.table.iloc[0]

    @property
    def patient(self) -> str:
        """The patient's id, on one line."""
        return printable(self.prediction.cohort.patient_ids[0])

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(map(len, self.prediction.cohort.images.values()))

    @property
    def looks_at_images(self) -> bool:
        """Whether the images count in the prediction; a model on metadata may keep its features."""
        return self.bundle.head.model.pooling is not None

    def _float(self, name: str) -> float:
        return float(self.row[name])

    @property
    def values(self) -> list[float]:
        """The predicted values, in the order of the columns."""
        return [self._float(name) for name in self.bundle.scoring.values]

    @property
    def decision(self) -> str | None:
        """The class that is predicted, on one line; None if nothing is decided."""
        return None if self.class_name is None else printable(self.class_name)

    @property
    def decided(self) -> int | None:
        """The number of the class that is predicted; None if nothing is decided."""
        column = self.bundle.scoring.decision
        return None if column is None else int(self._float(column))

    @property
    def class_name(self) -> str | None:
        """The class that is predicted, as it was declared; None if nothing is decided."""
        return None if self.decided is None else self.bundle.about.class_names[self.decided]

    def value_words(self, values: list[float]) -> str:
        """Return predicted values in words: a probability, those of all classes, a number or a risk."""
        names = [printable(name) for name in self.bundle.about.class_names]
        return self.bundle.about.predicted.text.prediction(names, values)

    def answer(self) -> Iterator[str]:
        """Yield the prediction, the decision and how it was made, and the set, a sentence each."""
        words, members = self.value_words(self.values), self.bundle.head.member_count
        yield f"{words[0].upper()}{words[1:]}{self._spread(members)}."
        if intervals := self.bundle.scoring.intervals:
            low, high = map(self._float, intervals)
            interval = f"95 % prediction interval: {low:.4g} to {high:.4g}."
            yield interval if math.isfinite(low) else self._no_interval()
        others = {name: self._float(name) for name in self.bundle.scoring.values[1:]}
        if further := self.bundle.about.predicted.text.further(others):
            yield further
        if self.decision is not None:
            yield f"Decision: {self.decision}{self._rule()}"
        if self.abstain is not None:
            yield from self._set(self.abstain)

    def _no_interval(self) -> str:
        """Return why there is no prediction interval: too few patients gave the last calibration."""
        if moving := [step for step in self.bundle.about.recalibrations or () if step.moved]:
            where = moving[-1].where
            return f"No prediction interval: the model was recalibrated on too few patients ({where})."
        return "No prediction interval: too few training patients."

    def _spread(self, members: int) -> str:
        spreads = self.bundle.scoring.spread_names
        if members == 1 or len(spreads) > 1:
            return ""
        return f" (standard deviation over the {members} members: {number(self._float(spreads[0]))})"

    def _rule(self) -> str:
        constants = self.bundle.decision.constants
        if "threshold" not in constants:
            return ", the class whose probability is the largest multiple of its share in training."
        positive = bool(self._float("prediction"))
        relation = "at or above" if positive else "below"
        return (
            f" ({'positive' if positive else 'negative'}): the probability is {relation} the threshold of"
            f" {number(constants['threshold'])}."
        )

    def members(self, alpha: float) -> list[int]:
        """Return the numbers of the classes in the set at an error rate; empty if it is an interval."""
        values = np.array(self.values)
        members = set_members(self.bundle.about, values if len(values) == 1 else values[None], alpha)
        return [] if members is None else np.flatnonzero(members[0]).tolist()

    def _set(self, alpha: float) -> Iterator[str]:
        if SET in self.row:
            open_set = "; the model does not decide" if len(self.members(alpha)) > 1 else ""
            yield f"Set at an error rate of {alpha:g}: {self.row[SET]}{open_set}."
        else:
            low, high = self._float(SET_LOW), self._float(SET_HIGH)
            yield f"Interval at an error rate of {alpha:g}: {low:.4g} to {high:.4g}."
        if self.prediction.fitted_on and (note := training_note(1)):
            yield note

    def warnings(self) -> Iterator[str]:
        """Yield what a reader has to know before the prediction, a sentence each."""
        prediction = self.prediction
        if prediction.reasons is None:
            yield (
                "Whether the patient is like those that the model was fitted on is not known: the bundle"
                " stores nothing about it."
            )
        for reason in prediction.reasons or ():
            yield f"Unlike the training patients: {reason}."
        yield from self._outside()
        for name in prediction.given.missing:
            yield (
                f"{printable(name)} is missing. The model was fitted with patients who lacked it, too, and"
                f" takes it as {self._filled(name)}."
            )
        if prediction.fitted_on:
            yield (
                "The model was, or may have been, fitted on this patient: the prediction says nothing of how"
                " well it performs."
            )

    def _outside(self) -> Iterator[str]:
        """Yield which numbers lie outside of what training patients had, unless a reason says so."""
        reasons = self.prediction.reasons or []
        for name, (low, high) in (self.bundle.about.ranges or {}).items():
            value = self.prediction.given.values.get(name)
            is_said = any(reason.startswith(f"{printable(name)} is ") for reason in reasons)
            if isinstance(value, float) and not low <= value <= high and not is_said:
                yield f"{printable(name)} is {value:.4g}, outside the training range {low:.4g} to {high:.4g}."

    def _filled(self, name: str) -> str:
        encoders = {encoder.name: encoder for encoder in self.bundle.head.encoder.encoders}
        filled = "the training median" if isinstance(encoders[name], NumberEncoder) else "the average patient"
        return f"{filled}, and as missing"

    def contributions(self) -> Iterator[str]:
        """Yield what the images and the metadata contribute, a sentence each."""
        given = self.prediction.contributions
        if given.fusion is None:
            only = "images" if self.looks_at_images else "metadata"
            yield f"The model decides by {only} only."
            return
        yield from self._fusion()
        for what, values in (("images", given.without_images), ("metadata", given.without_metadata)):
            if values is not None:
                yield f"With average {what} of the training patients instead: {self.value_words(values)}."

    def _fusion(self) -> Iterator[str]:
        given = self.prediction.contributions
        if given.fusion == EARLY:
            yield (
                "The model joins images and metadata before it decides (early fusion), so that its output is"
                " not a sum of the two. Each can only be replaced:"
            )
        if given.fusion != LATE or given.parts is None:
            return
        images, metadata = given.parts.images, given.parts.metadata
        names = self.bundle.about.class_names if len(images) > 1 else ()
        labels = [f" of {printable(name)}" for name in names]
        if len(labels) != len(images):  # a single output, or several that are not logits of classes
            labels = [""] if len(images) == 1 else []
        what = "output" if not self.bundle.about.class_names else "logit"
        for label, image, clinical in zip(labels, images, metadata, strict=False):
            yield (
                f"The {what}{label} before calibration is {number(image + clinical, '+')}: images"
                f" {number(image, '+')}, metadata {number(clinical, '+')}."
            )

    def given(self) -> list[tuple[str, str]]:
        """Return the metadata as they were understood: pairs of a column and its value with the unit."""
        return [(printable(column.name), self._shown(column)) for column in self.bundle.about.columns]

    def _shown(self, column: ColumnRecord) -> str:
        value = self.prediction.given.values.get(column.name)
        if value is None:
            return "missing"
        if isinstance(value, str):
            return printable(value)
        unit = f" {printable(column.unit)}" if column.unit else ""
        if column.kind != "birth-date":
            return f"{value:.6g}{unit}"
        born = f" (from the date of birth, on {self.reference})" if self._is_born(column.name) else ""
        return f"{value:.4g} years{born}"

    def _is_born(self, name: str) -> bool:
        return name in self.prediction.given.born

    def lines(self) -> list[str]:
        """Return everything for a terminal."""
        images = f", {count_of(self.images, 'image')}" if self.images else ""
        given = "; ".join(f"{name} {value}" for name, value in self.given())
        lines = [f"Patient {self.patient}{images}" + (f": {given}." if given else ".")]
        lines += [f"  Warning: {warning}" for warning in self.warnings()]
        lines += [f"  {sentence}" for sentence in self.answer()]
        if self.prediction.reasons == []:
            lines.append("  In the domain: the patient is like those that the model was fitted on.")
        lines += [f"  {sentence}" for sentence in self.contributions()]
        return lines + [f"  {step.sentence}" for step in self.bundle.about.recalibrations or ()]

    def to_json(self) -> dict[str, Json]:
        """Return everything as a JSON object; ends of intervals that are infinite are null."""
        prediction, row = self.prediction, self.row
        columns = self.bundle.scoring.prediction_names
        return {
            "patient": prediction.cohort.patient_ids[0],
            "images": self.images,
            "values": {**prediction.given.values},
            "missing": [*prediction.given.missing],
            "outcome": self.bundle.about.predicted.kind,
            "prediction": {name: _number(self._float(name)) for name in columns},
            "constants": dict(self.bundle.decision.constants),
            "decision": self.class_name,
            "set": self._set_json(row),
            "in_domain": None if prediction.reasons is None else not prediction.reasons,
            "reasons": None if prediction.reasons is None else [*prediction.reasons],
            "contributions": prediction.contributions.to_json(),
            "fitted_on": prediction.fitted_on,
            "recalibrated": [step.summary for step in self.bundle.about.recalibrations or ()],
        }

    def _set_json(self, row: pd.Series) -> Json:
        if self.abstain is None:
            return None
        if SET in row:
            return str(row[SET])
        return [_number(self._float(name)) for name in (SET_LOW, SET_HIGH)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
