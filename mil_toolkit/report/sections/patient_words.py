"""`PatientWords`: what the gallery of patients says of each of them, by the kind of outcome."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mil_toolkit.outcomes.survival import Survival
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.gallery import Case


class Order(NamedTuple):
    """The names of the first and the last patients of the gallery, and of the value that sorts them."""

    worst: str
    best: str
    value: str


class Piece(NamedTuple):
    """A part of a sentence, or the name of a class; look: what the name is called in the style sheet."""

    text: str
    is_name: bool = False
    look: str = ""


class Call(NamedTuple):
    """The observed and the predicted outcome of a patient; gauge: a probability that is drawn too."""

    pieces: tuple[Piece, ...]
    gauge: float | None = None


def _group(case: Case) -> object:
    return case.label


@dataclass(frozen=True)
class PatientWords:
    """The words of the gallery.

    call: returns the observed and the predicted outcome of a patient
    group: returns the value of the filter that selects a patient
    filter_name: of what is filtered; everything: of the choice of all patients; options: the other choices,
        value and name; none if there is no filter
    """

    order: Order
    call: Callable[[Case], Call]
    options: tuple[tuple[int, str], ...] = ()
    group: Callable[[Case], object] = _group
    filter_name: str = "Class"
    everything: str = "all"


_OF_CLASSES = Order("worst mistakes", "most confident correct", "probability")


def words_of_two_classes(contents: Contents) -> PatientWords:
    """Return the words for two classes, with the probability of the positive one."""
    names = contents.class_names

    def call(case: Case) -> Call:
        label = int(case.label)  # type: ignore[arg-type]
        return Call(
            (
                Piece("True class: "),
                Piece(names[label], is_name=True, look=f"class{label}"),
                Piece(". Probability of "),
                Piece(names[1], is_name=True),
                Piece(f": {case.probability:.3f}"),
            ),
            case.probability,
        )

    return PatientWords(_OF_CLASSES, call, tuple(enumerate(names)), everything="both")


def words_of_classes(contents: Contents) -> PatientWords:
    """Return the words for several classes, with the probability of the true one."""
    names = contents.class_names

    def call(case: Case) -> Call:
        name = Piece(names[int(case.label)], is_name=True)  # type: ignore[arg-type]
        probability = Piece(f". Its probability: {case.probability:.3f}")
        return Call((Piece("True class: "), name, probability), case.probability)

    return PatientWords(_OF_CLASSES, call, tuple(enumerate(names)))


def words_of_number(contents: Contents) -> PatientWords:
    """Return the words for a number."""

    def call(case: Case) -> Call:
        return Call((Piece(f"Observed: {case.label:.4g}. Predicted: {case.probability:.4g}"),))

    return PatientWords(Order("largest errors", "smallest errors", "prediction"), call)


def words_of_survival(contents: Contents) -> PatientWords:
    """Return the words for survival: time and event, and the risk up to the horizon."""
    horizon = Survival.of(contents.study.outcome).by

    def call(case: Case) -> Call:
        time, event = case.label  # type: ignore[misc]
        observed = f"{'Event' if event else 'Censored'} at {time:.4g}"
        risk = f"Predicted risk up to {horizon:g}: {case.probability:.3f}"
        return Call((Piece(f"{observed}. {risk}"),), case.probability)

    return PatientWords(
        Order("least expected outcomes", "most expected outcomes", "predicted risk"),
        call,
        ((1, "event"), (0, "censored")),
        group=lambda case: int(case.label[1]),  # type: ignore[index]
        filter_name="Outcome",
        everything="both",
    )
