"""Reading a cohort: the values of valid data, and every problem of invalid data in one error."""

import os
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from support.cohort_files import TABLE, TOML, only_problem, problems, touch, write
from support.paths import ROOT

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.kinds import MetadataColumn
from mil_toolkit.core.cells import MISSING
from mil_toolkit.core.errors import DataError

REAL = ROOT.parent / "shared" / "lymphocytosis"


def test_a_cohort_is_read(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path))
    assert cohort.name == "tiny"
    assert len(cohort) == 3
    assert cohort.patient_ids == ("P1", "P2", "P3")
    assert cohort.labels.tolist() == [1, 0, -1]
    assert cohort.labels.dtype == np.int8
    assert cohort.groups is not None and cohort.groups.tolist() == ["Lyon", "Lyon", "Nice"]
    assert cohort.class_names == ("0", "1")
    assert cohort.stratify == ("label", "age")
    assert cohort.metadata.index.tolist() == ["P1", "P2", "P3"]
    assert cohort.metadata.columns.tolist() == ["age", "sex", "count"]
    assert cohort.columns[0].reference == date(2020, 12, 31)
    assert cohort.columns[2] == MetadataColumn(
        "count", "LYMPH_COUNT", "number", transform="log", unit="10^9/L"
    )
    assert cohort.image_names["P2"] == ("a.png", "b.JPG")
    assert cohort.images["P2"] == (tmp_path / "images/P2/a.png", tmp_path / "images/P2/b.JPG")


def test_metadata_are_in_their_units_and_missing_values_stay_missing(tmp_path: Path) -> None:
    metadata = read_cohort(write(tmp_path)).metadata
    assert metadata["age"].dtype == np.float64
    assert metadata["age"]["P1"] == (date(2020, 12, 31) - date(1942, 5, 15)).days / 365.25
    assert metadata["age"]["P2"] == (date(2020, 12, 31) - date(1952, 5, 15)).days / 365.25
    assert metadata["sex"].dtype == object
    assert metadata["sex"].tolist() == ["M", "F", None]
    np.testing.assert_array_equal(metadata["count"], [12.8, 4.0, np.nan])


def test_only_a_missing_marker_is_missing(tmp_path: Path) -> None:
    for marker in (*MISSING, "NA", "NaN", "N/A"):
        metadata = read_cohort(
            write(tmp_path, TABLE.replace("12.8", marker).replace("M,", f"{marker},"))
        ).metadata
        assert np.isnan(metadata["count"]["P1"])
        assert metadata["sex"]["P1"] is None


def test_labels_may_be_words_and_numbers_compare_as_numbers(tmp_path: Path) -> None:
    words = TOML.replace("positive = 1", 'positive = "tumoral"').replace(
        "negative = 0", 'negative = "reactive"'
    )
    table = TABLE.replace("P1,1", "P1,tumoral").replace("P2,0", "P2,reactive").replace("P3,-1", "P3,-1.0")
    cohort = read_cohort(write(tmp_path, table, words))
    assert cohort.labels.tolist() == [1, 0, -1]
    assert cohort.class_names == ("reactive", "tumoral")


def test_empty_label_cells_are_unlabelled_only_where_declared(tmp_path: Path) -> None:
    table = TABLE.replace("P3,-1", "P3,")
    assert only_problem(write(tmp_path, table)).startswith(
        "table.csv, row 4 (patient P3): no label in 'LABEL'"
    )
    declared = write(tmp_path, table, TOML.replace("unlabelled = -1", 'unlabelled = ""'))
    assert read_cohort(declared).labels.tolist() == [1, 0, -1]


def test_without_a_label_every_patient_is_to_be_predicted(tmp_path: Path) -> None:
    keys = ("label =", "positive", "negative", "unlabelled", "group")
    toml = "\n".join(line for line in TOML.splitlines() if not line.startswith(keys))
    cohort = read_cohort(write(tmp_path, TABLE.replace("LABEL", "OTHER"), toml))
    assert cohort.labels.tolist() == [-1, -1, -1]
    assert cohort.groups is None
    assert cohort.class_names == ("0", "1")
    assert len(cohort.labelled()) == 0 and len(cohort.unlabelled()) == 3


def test_metadata_and_splits_may_be_left_out(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, toml=TOML.split("[metadata.age]")[0]))
    assert cohort.metadata.shape == (3, 0)
    assert cohort.stratify == ("label",)


def test_without_images_no_folder_is_looked_at(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path, patients=""), images=False)
    assert cohort.images == {} and cohort.image_names == {}
    assert len(cohort.select(["P2"])) == 1


def test_selecting_keeps_rows_together(tmp_path: Path) -> None:
    cohort = read_cohort(write(tmp_path))
    two = cohort.select(["P3", "P1"])
    assert two.patient_ids == ("P3", "P1")
    assert two.labels.tolist() == [-1, 1]
    assert two.groups is not None and two.groups.tolist() == ["Nice", "Lyon"]
    assert two.metadata.equals(cohort.metadata.loc[["P3", "P1"]])
    assert list(two.images) == ["P3", "P1"] and two.images["P1"] == cohort.images["P1"]
    assert cohort.labelled().patient_ids == ("P1", "P2")
    assert cohort.unlabelled().patient_ids == ("P3",)
    assert cohort.select(cohort.patient_ids).digest() == cohort.digest()
    with pytest.raises(DataError, match=r"P9 is not in cohort tiny") as caught:
        cohort.select(["P1", "P9", "P8"])
    assert len(caught.value.problems) == 2


def test_the_digest_depends_only_on_the_values(tmp_path: Path) -> None:
    digest = read_cohort(write(tmp_path)).digest()
    for same in (
        TABLE.replace("12.8", "12.80"),
        TABLE.replace(" f ", "F"),
        TABLE.replace("5/15/1942", "15-05-1942"),
        TABLE.replace("n/a", ""),
    ):
        assert read_cohort(write(tmp_path, same)).digest() == digest
    (tmp_path / "elsewhere").mkdir()
    assert read_cohort(write(tmp_path / "elsewhere")).digest() == digest
    assert read_cohort(tmp_path / "cohort.toml", images=False).digest() == digest
    for old, new in (("P1,1", "P1,0"), ("12.8", "12.9"), ("M,", "F,"), ("5/15", "5/16"), ("Nice", "Nîmes")):
        assert read_cohort(write(tmp_path, TABLE.replace(old, new))).digest() != digest
    renamed = write(tmp_path, TABLE.replace("P3", "P4"), patients="P4")
    shutil.rmtree(tmp_path / "images" / "P3")
    assert read_cohort(renamed).digest() != digest


def test_every_problem_is_reported_in_one_error(tmp_path: Path) -> None:
    toml = TOML.replace("unit =", "units =").replace('kind = "category"', 'kind = "word"')
    table = (
        TABLE.replace("P2,0", "P2,7").replace("5/15/1942", "soon").replace("12.8", "-1").replace("P3", "P4")
    )
    path = write(tmp_path, table + "9,P5,1\n", toml, patients="P1 P2 P3 P6")
    touch(tmp_path / "images" / "loose.png")
    text = "\n".join(problems(path))
    for expected in (
        "[metadata.count]: unknown key 'units'. Did you mean 'unit'?",
        "[metadata.sex]: unknown kind 'word'. Known: 'number', 'category', 'birth-date'.",
        "row 5: 3 cells, but the header has 7.",
        "row 3 (patient P2): LABEL '7' is not one of",
        "row 2 (patient P1): DOB 'soon' matches none of",
        "images/P3 has no row in table.csv.",
        "images/P6 has no row in table.csv.",
        "images/loose.png is not in a patient's folder.",
        "table.csv: patient P4 has no images in images.",
    ):
        assert expected in text
    assert "LYMPH_COUNT" not in text, "a section with a mistake of its own is not read further"


def test_the_example_reads_the_real_cohort(tmp_path: Path) -> None:
    if not REAL.exists():
        assert os.environ.get("CI") != "true", f"{REAL} is missing"
        pytest.skip("the real cohort is not here")
    for name in ("clinical_annotation.csv", "trainset", "testset"):
        (tmp_path / name).symlink_to(REAL / name)
    shutil.copy(ROOT / "examples" / "lymphocytosis.toml", tmp_path)
    cohort = read_cohort(tmp_path / "lymphocytosis.toml")
    assert (len(cohort.labelled()), len(cohort.unlabelled())) == (90, 6)
    assert int((cohort.labels == 1).sum()) == 62
    assert sum(map(len, cohort.images.values())) == 7781
    assert set(cohort.metadata["sex"]) == {"F", "M"}
    assert not cohort.metadata.isna().any(axis=None)
    assert cohort.metadata["age"].between(18, 110).all()
