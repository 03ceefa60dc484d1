"""Tables: text that a spreadsheet could take for a formula."""

from pathlib import Path

import pandas as pd
import pytest

from mil_toolkit.study.tables import publish_table, read_predictions


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "'=", "''-"])
def test_a_formula_in_a_csv_is_text_and_is_read_back_unchanged(start: str, tmp_path: Path) -> None:
    patient = f"{start}1+cmd|' /C calc'!A0"
    table = pd.DataFrame({"patient_id": [patient, "P1", "'quoted'"], "image": ["=x.png", "-y.png", "z.png"]})
    table["attention"] = [-0.5, 0.25, 0.25]
    publish_table(tmp_path / "t.csv", table)
    raw = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    cells = [*raw["patient_id"], *raw["image"]]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert raw["patient_id"][1:].tolist() == ["P1", "'quoted'"] and raw["attention"][0] == "-0.5"
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "t.csv"), table, check_dtype=False)
