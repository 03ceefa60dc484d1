"""Tables of held-out predictions: the value of a patient is that of the members' mean output."""

import numpy as np
import pandas as pd
import pytest

from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.class_calibration import ClassDecision
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.number import Number, NumberRule
from mil_toolkit.outcomes.ordered import Ordered, OrderedDecision
from mil_toolkit.outcomes.outcome import DecisionRule, Outcome
from mil_toolkit.study.prediction_checks import Expected, prediction_problems

MEMBERS, PATIENTS = 4, 9
NAMES = ("a", "b", "c")
PRIORS = (0.5, 0.3, 0.2)
CASES: dict[str, tuple[Outcome, DecisionRule, tuple[int, ...]]] = {
    "binary": (Binary(), Decision(0.8, 0.1, 0.4), ()),
    "classes": (Classes("L", NAMES), ClassDecision(0.7, (0.4, -0.1, -0.3), PRIORS, NAMES), (3,)),
    "ordered": (Ordered("L", NAMES), OrderedDecision(0.7, (0.4, -0.1, -0.3), PRIORS, NAMES), (2,)),
    "number": (Number("T"), NumberRule(2.0, 5.0, 1.0), ()),
}


def predicted(kind: str, scale: float) -> tuple[pd.DataFrame, Expected]:
    """Return a table of one fold as a study makes it, and what it must contain."""
    outcome, rule, width = CASES[kind]
    random = np.random.default_rng(0)
    outputs = scale * random.normal(size=(MEMBERS, PATIENTS, *width))
    scoring, ids = outcome.scoring, [f"P{number}" for number in range(PATIENTS)]
    columns: dict[str, object] = {"patient_id": ids, "repeat": 1, "fold": 1}
    columns |= scoring.target_columns(np.arange(PATIENTS) % 2)
    columns |= scoring.prediction_columns(rule.predict(outputs.mean(0)))
    columns |= rule.constants
    for number, values in enumerate(rule.predict(outputs).values, 1):
        columns |= scoring.member_columns(number, values)
    targets = {patient: (float(number % 2),) for number, patient in enumerate(ids)}
    return pd.DataFrame(columns), Expected(
        scoring, 1, dict.fromkeys(ids, 1), targets, rule.constants, MEMBERS
    )


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("kind", CASES)
def test_the_table_of_a_study_is_accepted(kind: str, scale: float) -> None:
    assert prediction_problems(*predicted(kind, scale)) == []


@pytest.mark.parametrize("kind", ["binary", "classes", "number"])
def test_a_value_that_is_not_that_of_the_mean_output_is_named(kind: str) -> None:
    table, expected = predicted(kind, 0.5)
    name = expected.scoring.values[-1]
    table[name] += 1e-4 * (np.arange(PATIENTS) == 3)
    assert prediction_problems(table, expected) == [
        f"{name} is not that of the members' mean logit in row 5."
    ]
