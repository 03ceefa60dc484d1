"""Which files count as former tables of predictions, and are replaced."""

from pathlib import Path

import pytest

from mil_toolkit.bundle.outputs import prediction_output
from mil_toolkit.evaluation.scoring import BINARY, Scoring
from mil_toolkit.outcomes.number import Number

FIRST = {
    "binary": "patient_id,probability,prediction,spread",
    "number": "patient_id,predicted,low,high,spread",
}
LABEL = {"binary": "label", "number": "target"}
SCORINGS = {"binary": BINARY, "number": Number().scoring}


def is_former(path: Path, header: str, scoring: Scoring) -> bool:
    path.write_text(f"{header}\nP1,0.5\n")
    return prediction_output(path, scoring).is_former(path)


@pytest.mark.parametrize("kind", ["binary", "number"])
def test_tables_with_and_without_newer_columns_are_replaced(kind: str, tmp_path: Path) -> None:
    for first in (FIRST[kind], f"{FIRST[kind]},{LABEL[kind]}"):
        for added in (
            "",
            ",in_domain,reasons",
            ",in_domain,reasons,set",
            ",in_domain,reasons,set_low,set_high",
        ):
            assert is_former(tmp_path / "p.csv", first + added, SCORINGS[kind])


def test_other_tables_are_not_replaced(tmp_path: Path) -> None:
    for header in (
        f"{FIRST['binary']},set",
        f"{FIRST['binary']},in_domain",
        f"{FIRST['binary']},in_domain,reasons,set,note",
        f"{FIRST['binary']},in_domain,reasons,set_low",
        FIRST["number"],
    ):
        assert not is_former(tmp_path / "p.csv", header, BINARY)
