"""Whether the outcome of a cohort has the meaning that a model was fitted with."""

from dataclasses import replace

import pytest
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.outcome_checks import outcome_problems
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.kinds import record_of
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.ordered import Ordered
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.outcomes.survival import Survival


def problems(tiny: Tiny, model: Outcome, here: Outcome, names: tuple[str, ...] = ()) -> list[str]:
    bundle = ModelBundle.load(tiny.bundle)
    names = names or model.class_names
    about = replace(
        bundle.about, outcome=record_of(model), class_names=names, class_counts=tuple(12 for _ in names)
    )
    return outcome_problems(replace(bundle, about=about), replace(tiny.cohort, outcome=here))


NUMBER = Number("BLASTS", "log", "%")
SURVIVAL = Survival("OS", "DEAD", 5)
GRADES = Ordered("G", ("low", "middle", "high"))
BINARY, CODED = Binary("DX", "tumoral", "reactive"), Binary("DX", "1", "0")
NAMES = {"tumoral": ("reactive", "tumoral"), "1": ("0", "1")}


def names_of(model: Outcome) -> tuple[str, ...]:
    """The names of the classes of a model with two of them, negative and positive."""
    return NAMES[str(model.positive)] if isinstance(model, Binary) else ()


@pytest.mark.parametrize(
    ("model", "here"),
    [
        (NUMBER, Number("B", "log", "%", "?")),
        (NUMBER, Number()),
        (SURVIVAL, Survival("months", "event", 5.0, "?")),
        (SURVIVAL, Number()),
        (GRADES, Ordered("grade", ("low", "middle", "high"), "?")),
        (GRADES, Binary()),
        (BINARY, Binary("class", "malignant", "benign")),
        (BINARY, Binary("class", "tumoral", "benign")),
        (BINARY, Binary("class", "reactive", "healthy")),
        (BINARY, Binary("class", "worse", "tumoral")),
        (CODED, Binary("class", "2", "1")),
        (CODED, Binary("class", "0", "-1")),
        (CODED, Binary("class", "1", "0")),
    ],
)
def test_other_headings_and_words_are_no_problem(tiny: Tiny, model: Outcome, here: Outcome) -> None:
    assert problems(tiny, model, here, names_of(model)) == []


@pytest.mark.parametrize(
    ("model", "here", "expected"),
    [
        (NUMBER, replace(NUMBER, unit="g/L"), ['unit is "g/L"', 'with "%"', 'Declare unit = "%"', "leave"]),
        (NUMBER, replace(NUMBER, unit=None), ["unit is not given", 'Declare unit = "%"']),
        (replace(NUMBER, unit=None), NUMBER, ['unit is "%"', "fitted without one", "Remove unit"]),
        (NUMBER, replace(NUMBER, transform=None), ["transform is not given", 'Declare transform = "log"']),
        (SURVIVAL, replace(SURVIVAL, horizon=3), ["horizon is 3", "with 5", "Declare horizon = 5"]),
        (SURVIVAL, replace(SURVIVAL, horizon=5.5), ["horizon is 5.5", "with 5"]),
        (SURVIVAL, NUMBER, ["declares the outcome number", "predicts the outcome survival"]),
        (GRADES, Ordered("G", ("low", "high", "middle")), ["in its order: 'low', 'middle', 'high'"]),
        (GRADES, Ordered("G", ("low", "middle", "top")), ["never trained on the class 'top'"]),
        (GRADES, Classes("G", ("low", "middle", "high")), ["declares the outcome classes"]),
        (BINARY, Binary("DX", "reactive", "tumoral"), ["positive is 'reactive'", "Exchange them"]),
        (CODED, Binary("DX", "0", "1"), ["positive is '0'", "with positive '1'", "Exchange them"]),
    ],
)
def test_another_meaning_of_the_outcome_is_refused(
    tiny: Tiny, model: Outcome, here: Outcome, expected: list[str]
) -> None:
    (problem,) = problems(tiny, model, here, names_of(model))
    assert all(part in problem for part in (*expected, str(tiny.cohort.source)))


def test_all_differences_are_named_at_once(tiny: Tiny) -> None:
    found = problems(tiny, NUMBER, Number("B", None, "g/L"))
    assert [line.partition(": ")[2].partition(" ")[0] for line in found] == ["transform", "unit"]
