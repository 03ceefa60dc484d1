"""`judge`: whether patients are in the domain of a bundle, and the reasons where they are not."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mil_toolkit.bundle.domain.fit import FittedDomain
from mil_toolkit.bundle.domain.images import Locator
from mil_toolkit.bundle.domain.measures import (
    ImageMeasures,
    bag_sizes,
    measure_images,
    new_gaps,
    new_words,
    number_values,
)
from mil_toolkit.bundle.domain.records import Domain, KnownImages, KnownNumber
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients


@dataclass(frozen=True)
class Sign:
    """A measure in which patients may be outside, and the reason to give for the patient at a place.

    outside: (n,) bool
    """

    outside: np.ndarray
    reason: Callable[[int], str]


def reasons_by_patient(
    fitted: FittedDomain, head: FittedHead, units: Mapping[str, str | None], patients: Patients
) -> list[list[str]]:
    """Return why each patient is outside the domain; no reason if it is inside.

    fitted: its projection is that of the head in bundles of older versions
    units: of the number columns, by name

    Every measure has a surprise, and the largest one decides: a patient is outside if it exceeds the limit.
    A word or a gap that no training patient had in the column is outside, unless held-out training patients
    had such words in this column, or such gaps in any column, too often to tell anything.
    """
    reasons: list[list[str]] = [[] for _ in patients.ids]
    for sign in _signs(fitted, head, units, patients):
        for place in np.flatnonzero(sign.outside).tolist():
            reasons[place].append(sign.reason(place))
    return reasons


def _signs(
    fitted: FittedDomain, head: FittedHead, units: Mapping[str, str | None], patients: Patients
) -> Iterator[Sign]:
    domain, measured = fitted.domain, None
    if domain.images is not None and fitted.projection is not None:
        locator = Locator(head.model.config, fitted.projection)
        measured = measure_images(domain.images.space, locator, patients, np.arange(len(patients)))
    values, away = number_values(head.encoder, patients.metadata), None if measured is None else measured[1]
    for name, known in domain.numbers.items():
        unit = f" {printable(units[name] or '')}" if units.get(name) else ""
        yield _number_sign(domain, known, values[name], away, printable(name), unit)
    for name, missing in new_gaps(head.encoder, patients.metadata).items() if domain.gaps else ():
        yield Sign(missing, _Novelty(name, patients).reason)
    for name, new in new_words(head.encoder, patients.metadata).items():
        if name not in domain.unreliable:
            yield Sign(new, _Novelty(name, patients).reason)
    if domain.bag_size is not None:
        yield _number_sign(domain, domain.bag_size, bag_sizes(patients), None, "number of images", "")
    if domain.images is not None and measured is not None:
        yield from _image_signs(domain, domain.images, measured[0])


def _number_sign(
    domain: Domain, known: KnownNumber, values: np.ndarray, away: np.ndarray | None, name: str, unit: str
) -> Sign:
    ranges = np.broadcast_to(known.spread.usual(away), (len(values), 2))
    images = "" if known.spread.guess is None else " with such images"

    def reason(place: int) -> str:
        low, high = ranges[place]
        usual = f"nine in ten training patients have {low:.4g} to {high:.4g}{unit}{images}"
        return f"{name} is {values[place]:.4g}{unit}; {usual}"

    surprises = known.tail.surprise(known.spread.distances(values, away))
    return Sign(surprises > domain.limit, reason)


@dataclass(frozen=True)
class _Novelty:
    """The reason for a word or a gap that no training patient had."""

    name: str
    patients: Patients

    def reason(self, place: int) -> str:
        """Return the reason for the patient at this place."""
        value = self.patients.metadata[self.name].iloc[place]
        if pd.isna(value):
            return f"{printable(self.name)} is missing; it never was in training"
        return f"{printable(self.name)} is {printable(repr(str(value)))}, which training never saw"


def _image_signs(domain: Domain, known: KnownImages, measures: ImageMeasures) -> Iterator[Sign]:
    shares = measures.shares(known.foreign)
    whole, usual = known.whole.surprise(measures.whole) > domain.limit, known.whole.start
    yield Sign(
        whole,
        lambda place: (
            "the images as a whole are unlike those of training"
            f" (distance {np.exp(measures.whole[place]):.1f}, usually below {np.exp(usual):.1f})"
        ),
    )
    foreign = known.share.surprise(shares) > domain.limit
    yield Sign(foreign, lambda place: f"{shares[place]:.0%} of the images are unlike those of training")


def counts_line(in_domain: np.ndarray | None, count: int) -> str | None:
    """Return what mil-predict says about the domain of its patients; None where all are inside.

    in_domain: (n,) bool; None if the bundle does not know its domain
    """
    if in_domain is None:
        return (
            "Whether the patients are like those that the model was fitted on is not known: the bundle stores"
            " nothing about it. Fit the model again with mil-fit to know."
        )
    outside = int((~in_domain).sum())
    if not outside:
        return None
    verb = "is" if outside == 1 else "are"
    return (
        f"{outside} of {count_of(count, 'patient')} {verb} unlike those that the model was fitted on; see"
        " in_domain and reasons in the table of predictions."
    )
