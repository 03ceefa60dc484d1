"""Which columns mil-init takes for ids, labels and groups."""

import re
from pathlib import Path

import pytest
from support.drafts import draft, flagged, with_column

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.errors import DataError


def test_the_id_is_the_column_that_names_the_folders(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, "A,B,LABEL\nx,P1,1\ny,P2,0\nz,P3,1\nx,P4,0\n")
    assert document["cohort"]["id"] == "B"
    assert drafted.problems == ()


def test_rows_and_folders_without_a_counterpart_are_flagged(tmp_path: Path) -> None:
    drafted, _ = draft(tmp_path, with_column("N", "1", "2", "5", "9"), "P1 P2 P3 P8 P9")
    assert flagged(drafted, r"2 folders without a row, for example 'P8', 'P9'")
    assert flagged(drafted, r"1 row without a folder, for example 'P4'")
    assert len(drafted.problems) == 3


def test_a_table_without_folder_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"no column of .*table\.csv .*'ID', 'LABEL'.* contains the names of the folders .*'X1'",
    ):
        draft(tmp_path, with_column("N", "1", "2", "5", "9"), "X1")
    assert not (tmp_path / "cohort.toml").exists()


@pytest.mark.parametrize(
    ("labels", "positive", "negative", "unlabelled"),
    [
        ("1 0 1 0", 1, 0, None),
        ("1.0 0.0 -1.0 0.0", 1, 0, -1),
        ("1 0 -1 0", 1, 0, -1),
        ("1 -1 -1 1", 1, -1, None),
        ("2 1 1 2", 1, 2, None),
        ("yes no no ?", "yes", "no", "?"),
        ("benign malignant benign unknown", "malignant", "benign", "unknown"),
        ("reactive x x reactive", "x", "reactive", None),
        ("a b b a", "b", "a", None),
        ("01 02 02 01", "02", "01", None),
    ],
)
def test_labels_are_guessed_and_flagged(
    tmp_path: Path, labels: str, positive: object, negative: object, unlabelled: object
) -> None:
    rows = [f"P{i},{label}" for i, label in enumerate(labels.split(), start=1)]
    drafted, document = draft(tmp_path, "\n".join(["ID,TARGET", *rows]))
    cohort = document["cohort"]
    assert (cohort["positive"], cohort["negative"], cohort.get("unlabelled")) == (
        positive,
        negative,
        unlabelled,
    )
    assert flagged(drafted, "TARGET .* is taken as positive")
    assert flagged(drafted, "is taken as unlabelled") == (unlabelled is not None)
    assert drafted.problems == ()


@pytest.mark.parametrize(
    ("cells", "checks"),
    [
        (
            "tumoral,Reaktiv,TUMORAL,tumoral",
            ["'TUMORAL' (1 row) is read as a different word from 'tumoral' (2 rows)"],
        ),
        (
            "tumoral,Reaktiv,,TUMORAL,?,,tumoral",
            [
                "'TUMORAL' (1 row)",
                "'?' (1 row) is read as a different word from ''",
                "as unlabelled",
            ],
        ),
    ],
)
def test_spellings_of_a_label_are_one_class_and_a_place_is_not_a_label(
    tmp_path: Path, cells: str, checks: list[str]
) -> None:
    rows = [f"P{i},{'AB'[i % 2]},{cell}" for i, cell in enumerate(cells.split(","), 1)]
    patients = " ".join(f"P{i}" for i in range(1, len(rows) + 1))
    drafted, document = draft(tmp_path, "\n".join(["ID,Zentrum,Diagnose (endgültig)", *rows]), patients)
    assert document["cohort"]["label"] == "Diagnose (endgültig)"
    assert (document["cohort"]["positive"], document["cohort"]["negative"]) == ("tumoral", "Reaktiv")
    assert "metadata" not in document and flagged(drafted, "does Zentrum group patients")
    assert all(flagged(drafted, re.escape(check)) for check in checks)
    assert any("'TUMORAL' is not one of" in problem for problem in drafted.problems)


@pytest.mark.parametrize(
    ("header", "other", "cells", "label", "why"),
    [
        ("DIAGNOSIS", "B", "x y z X", None, "3 different words .*(rows: 'x' 1, 'X' 1, 'y' 1, 'z' 1)"),
        ("DIAGNOSIS", "B", "x y z w", None, "4 different words .*(rows: 'x' 1, 'y' 1, 'z' 1, 'w' 1)"),
        ("DIAGNOSIS", "B", "1.5 2.5 3.5 4.5", None, "DIAGNOSIS is taken as the number to predict"),
        (
            "DIAGNOSIS",
            "CLASS",
            "x y y x",
            "DIAGNOSIS",
            "CLASS is left out: .*, but DIAGNOSIS is taken as the label",
        ),
    ],
)
def test_a_column_named_like_a_label_is_never_an_input(
    tmp_path: Path, header: str, other: str, cells: str, label: str | None, why: str
) -> None:
    rows = [f"P{i},{cell},{'ab'[i % 2]}" for i, cell in enumerate(cells.split(), 1)]
    drafted, document = draft(tmp_path, "\n".join([f"ID,{header},{other}", *rows]))
    assert document["cohort"].get("label") == label
    assert header not in [section["column"] for section in document.get("metadata", {}).values()]
    assert flagged(drafted, why.replace("(", r"\(").replace(")", r"\)"))
    assert drafted.problems == ()


@pytest.mark.parametrize(
    "header", ["Zentrum", "Klinik", "STANDORT", "Krankenhaus", "Hôpital", "clinic_id", "Centre"]
)
def test_a_place_is_neither_label_nor_input(tmp_path: Path, header: str) -> None:
    drafted, document = draft(tmp_path, f"ID,{header}\nP1,a\nP2,b\nP3,b\nP4,a\n")
    assert "label" not in document["cohort"] and "metadata" not in document
    assert flagged(drafted, f"does {header} group patients")


def test_a_label_with_another_name_is_flagged_and_sex_is_not_a_label(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, "ID,SEX,HILL\nP1,M,yes\nP2,F,no\nP3,M,no\nP4,F,yes\n")
    assert document["cohort"]["label"] == "HILL"
    assert flagged(drafted, "HILL is taken as the label, although its name does not suggest it")
    assert list(document["metadata"]) == ["sex"]


def test_a_table_without_a_label_is_for_prediction(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, "ID,SEX,N\nP1,M,1\nP2,F,2\nP3,M,3.5\nP4,F,9\n")
    assert "label" not in document["cohort"] and "splits" not in document
    assert flagged(drafted, "no column looks like a label")
    assert read_cohort(drafted.output).labels.tolist() == [-1] * 4


PERMUTED = [2, 8, 1, 12, 3, 5, 7, 9, 4, 6, 11, 10]


def permuted_table(header: str, index: list[str], patients: list[object]) -> str:
    pairs = enumerate(zip(index, patients, strict=True))
    rows = (
        f"{index};{patient};{('tumoral', 'reactive')[row % 2]};{50 + row}" for row, (index, patient) in pairs
    )
    return "\n".join([f"{header};Diagnose;Alter", *rows])


@pytest.mark.parametrize(
    ("header", "patients", "expected"),
    [
        ("Nr;Patient", PERMUTED, "'1' by Nr and '2' by Patient; Patient is taken as the id"),
        ("Nr;X", PERMUTED, "'1' by Nr and '2' by X; X is taken as the id"),
        ("Patient;Nr", PERMUTED, "'1' by Patient and '2' by Nr; Nr is taken as the id"),
        ("Nr;Patient", ["x", *PERMUTED[1:]], "'1' by Nr and 'x' by Patient; Patient is taken as the id"),
    ],
)
def test_a_running_index_loses_against_a_column_that_names_the_folders(
    tmp_path: Path, header: str, patients: list[object], expected: str
) -> None:
    table = permuted_table(header, [str(row) for row in range(1, 13)], patients)
    drafted, document = draft(tmp_path, table, " ".join(map(str, range(1, 13))))
    assert document["cohort"]["id"] == header.split(";")[1]
    assert flagged(drafted, f"{' and '.join(header.split(';'))} name folders; one row is {expected}")


def test_of_two_columns_that_name_the_folders_the_one_named_as_id_is_taken(tmp_path: Path) -> None:
    table = permuted_table("Probe;Patient", [str(patient) for patient in reversed(PERMUTED)], PERMUTED)
    drafted, document = draft(tmp_path, table, " ".join(map(str, range(1, 13))))
    assert document["cohort"]["id"] == "Patient"
    assert flagged(drafted, "Probe and Patient name folders; one row is '10' by Probe and '2' by Patient")


def test_a_running_index_that_is_the_only_candidate_is_flagged(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, "Nr;L\n1;a\n2;b\n3;a\n4;b\n", "1 2 3 4")
    assert document["cohort"]["id"] == "Nr"
    assert flagged(drafted, "Nr is taken as the id, although it only numbers the rows")


def test_one_row_per_image_is_said_once(tmp_path: Path) -> None:
    rows = [f"P{row % 4 + 1},{row % 4 % 2},{row}.png" for row in range(400)]
    drafted, _ = draft(tmp_path, "\n".join(["ID,LABEL,FILE", *rows]))
    assert flagged(
        drafted, "ID has several rows for 4 patients, .* a list of images is declared as image_table"
    )
    (problem,) = drafted.problems
    assert problem.startswith(
        "396 of 400 rows of table.csv repeat the id of an earlier row: P1 (rows 2 and 6), P2 (rows 3 and 7),"
    )
    assert problem.endswith("with the columns patient and path, instead of images.")
