"""Tables: text that a spreadsheet could take for a formula."""

from pathlib import Path

import pandas as pd
import pytest

from mil_toolkit.core.errors import DataError
from mil_toolkit.study import tables
from mil_toolkit.study.tables import attention_parts, publish_table, read_attention, read_predictions


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


@pytest.fixture(name="attention")
def _attention(tmp_path: Path) -> pd.DataFrame:
    """A table of attention, which attention.csv has too."""
    table = pd.DataFrame({"patient_id": list("aaabbbb"), "image": [f"{row}.png" for row in range(7)]})
    table["attention"] = [0.5, 0.25, 0.25, 0.1, 0.2, 0.3, 0.4]
    publish_table(tmp_path / "attention.csv", table)
    return table


@pytest.mark.parametrize("rows", [1, 3, 7, 8])
def test_attention_is_read_a_few_rows_at_a_time(
    rows: int, attention: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_ROWS", rows)
    parts = [*attention_parts(tmp_path / "attention.csv")]
    assert [len(part) for part in parts] == [rows] * (7 // rows) + [7 % rows] * (7 % rows > 0)
    pd.testing.assert_frame_equal(pd.concat(parts), attention, check_dtype=False)
    pd.testing.assert_frame_equal(read_attention(tmp_path / "attention.csv"), attention, check_dtype=False)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("b,5.png,2", "row 7: attention is not between 0 and 1"),
        ("b,5.png,x", "row 7: attention is 'x', not a finite number"),
        ("b,5.png,0.3,4", "cannot be read as a table"),
    ],
)
def test_errors_in_later_rows_name_their_row(
    cells: str, reason: str, attention: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "attention.csv"
    path.write_text(path.read_text().replace("b,5.png,0.3", cells))
    with pytest.raises(DataError) as whole:
        read_attention(path)
    monkeypatch.setattr(tables, "_ROWS", 2)
    with pytest.raises(DataError, match=reason) as in_parts:
        read_attention(path)
    assert reason.startswith("cannot") or str(in_parts.value) == str(whole.value)


def test_a_table_without_rows_has_one_empty_part(tmp_path: Path) -> None:
    path = tmp_path / "attention.csv"
    path.write_text("patient_id,image,attention\n")
    (part,) = attention_parts(path)
    assert part.empty and read_attention(path).empty
    path.write_text("patient_id,weight\n")
    with pytest.raises(DataError, match="where patient_id, image, attention are expected"):
        read_attention(path)
    path.write_text("")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_attention(path)
