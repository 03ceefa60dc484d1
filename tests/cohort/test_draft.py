"""The draft as a whole: it can be read, and says what should be checked."""

import os
import re
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drafts import draft, flagged, with_column, write_data
from support.paths import ROOT

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.draft import draft_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.core.errors import DataError
from mil_toolkit.outcomes.number import Number

REAL = ROOT.parent / "shared" / "lymphocytosis"


def test_the_real_cohort_is_guessed_except_for_the_reference_date(tmp_path: Path) -> None:
    if not REAL.exists():
        assert os.environ.get("CI") != "true", f"{REAL} is missing"
        pytest.skip("the real cohort is not here")
    for name in ("clinical_annotation.csv", "trainset", "testset"):
        (tmp_path / name).symlink_to(REAL / name)
    (tmp_path / "example.toml").write_bytes((ROOT / "examples" / "lymphocytosis.toml").read_bytes())
    table, images = tmp_path / "clinical_annotation.csv", [tmp_path / "trainset", tmp_path / "testset"]
    drafted = draft_cohort(table, images, tmp_path / "cohort.toml")
    assert drafted.patients == 96 and drafted.problems == ()
    assert flagged(drafted, "age at the reference")
    text = drafted.output.read_text()
    corrected, count = re.subn("(?m)^reference = .*$", "reference = 2020-12-31", text)
    assert count == 1
    drafted.output.write_text(corrected)
    example, guessed = read_cohort(tmp_path / "example.toml"), read_cohort(drafted.output)
    assert guessed.digest() == example.digest()
    assert [column.transform for column in guessed.columns] == [
        column.transform for column in example.columns
    ]
    assert guessed.image_names == example.image_names
    assert guessed.stratify == example.stratify


def test_the_synthetic_cohort_is_guessed(tmp_path: Path) -> None:
    declared = draw_cohort(tmp_path / "s", patients=20, unlabelled=2, image_size=16, images=(1, 2))
    drafted = draft_cohort(tmp_path / "s/patients.csv", [tmp_path / "s/images"], tmp_path / "s/mine.toml")
    text = re.sub("(?m)^reference = .*$", "reference = 2020-12-31", drafted.output.read_text())
    drafted.output.write_text(text)
    assert read_cohort(drafted.output).digest() == read_cohort(declared).digest()
    assert read_cohort(drafted.output).class_names == ("reactive", "tumoral")


def test_a_column_of_decimals_with_the_name_of_a_label_is_a_number_to_predict(tmp_path: Path) -> None:
    drafted, _ = draft(tmp_path, "ID,TARGET\nP1,1.5\nP2,?\nP3,3\nP4,4.5\n")
    assert drafted.problems == () and flagged(drafted, "TARGET is taken as the number to predict")
    read = read_cohort(drafted.output)
    assert read.outcome == Number("TARGET", unlabelled=("?",)) and len(read.labelled()) == 3


def test_paths_are_relative_to_the_output(tmp_path: Path) -> None:
    table, images = write_data(tmp_path / "data", with_column("N", "1", "2.5", "3", "4.5"))
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep")
    drafted = draft_cohort(table, [images], tmp_path / "link" / "new" / "cohort.toml")
    assert tomllib.loads(drafted.output.read_text())["cohort"]["table"] == "../../data/table.csv"
    assert drafted.problems == ()


def test_the_draft_names_the_cohort_by_its_folder(tmp_path: Path) -> None:
    table = with_column("N", "1", "2.5", "3", "4.5")
    assert draft(tmp_path / "lung 2", table)[1]["cohort"]["name"] == "lung 2"
    assert draft(tmp_path / "@@", table)[1]["cohort"]["name"] == "cohort"


HEADERS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=50)
@given(HEADERS, st.lists(HEADERS, min_size=4, max_size=4))
def test_hostile_headers_and_cells_make_a_toml_that_reads(header: str, cells: list[str]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""').replace("\x00", "") + '"'

    with TemporaryDirectory() as folder:
        rows = with_column(quoted(header), *map(quoted, cells))
        path, images = write_data(Path(folder), "", "P1 P2 P3 P4")
        path.write_bytes(rows.encode())
        drafted = draft_cohort(path, [images], Path(folder) / "cohort.toml")
        document = tomllib.loads(drafted.output.read_text(encoding="utf-8"))
        assert document["cohort"]["id"] == "ID"
        assert drafted.patients == 4
        if document["cohort"].get("label") == "LABEL":
            assert drafted.problems == ()


@pytest.mark.parametrize(
    "header", ['a"b', "a\\b", "[x]", "a\nb", "# CHECK: x", "é ü", "a=b", "\x7f", "{x}", "'''"]
)
def test_hostile_headers_are_written_as_they_are(tmp_path: Path, header: str) -> None:
    quoted = '"' + header.replace('"', '""') + '"'
    drafted, document = draft(tmp_path, with_column(quoted, "a", "b", "b", "a"))
    (section,) = document["metadata"].values()
    assert section == {"column": header.strip(), "kind": "category"}
    assert drafted.problems == ()
    assert not flagged(drafted, "^x")


def test_an_image_folder_without_patient_folders_is_refused(tmp_path: Path) -> None:
    table, images = write_data(tmp_path, with_column("N", "1", "2", "5", "9"), "")
    images.mkdir()
    with pytest.raises(DataError, match=r"there is no folder in .*images\. Each patient needs one"):
        draft_cohort(table, [images], tmp_path / "cohort.toml")
