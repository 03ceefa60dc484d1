"""mil-init: what it guesses, what it flags, and that its file can be read."""

import json
import os
import re
import tomllib
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_toolkit.cli.init import main
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.draft import Draft, draft_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.core.errors import DataError

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared" / "lymphocytosis"


def write(folder: Path, table: str, patients: str = "P1 P2 P3 P4") -> tuple[Path, Path]:
    """A table and a folder of images, one (empty) image per patient."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.csv").write_text(table, encoding="utf-8")
    for patient in patients.split():
        (folder / "images" / patient).mkdir(parents=True)
        (folder / "images" / patient / "a.png").touch()
    return folder / "table.csv", folder / "images"


def draft(folder: Path, table: str, patients: str = "P1 P2 P3 P4") -> tuple[Draft, dict[str, Any]]:
    """The draft of a table, and what its TOML says."""
    path, images = write(folder, table, patients)
    drafted = draft_cohort(path, [images], folder / "cohort.toml")
    return drafted, tomllib.loads(drafted.output.read_text(encoding="utf-8"))


def with_column(header: str, *cells: str) -> str:
    """A table of four labelled patients with one more column."""
    return "\n".join(
        [f"ID,LABEL,{header}", *(f"P{i},{i % 2},{cell}" for i, cell in enumerate(cells, start=1))]
    )


def flagged(drafted: Draft, pattern: str) -> bool:
    """Whether a doubt says this."""
    return any(re.search(pattern, doubt) for doubt in drafted.doubts)


# The whole file.


def test_the_real_cohort_is_guessed_but_for_what_nobody_can_guess(tmp_path: Path) -> None:
    if not REAL.exists():
        assert os.environ.get("CI") != "true", f"{REAL} is missing"
        pytest.skip("the real cohort is not here")
    for name in ("clinical_annotation.csv", "trainset", "testset"):
        (tmp_path / name).symlink_to(REAL / name)
    (tmp_path / "example.toml").write_bytes((REPOSITORY / "examples" / "lymphocytosis.toml").read_bytes())
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
    assert [each.transform for each in guessed.columns] == [each.transform for each in example.columns]
    assert guessed.image_names == example.image_names
    assert guessed.stratify == example.stratify


def test_the_synthetic_cohort_is_guessed(tmp_path: Path) -> None:
    declared = draw_cohort(tmp_path / "s", patients=20, unlabelled=2, image_size=16, images=(1, 2))
    drafted = draft_cohort(tmp_path / "s/patients.csv", [tmp_path / "s/images"], tmp_path / "s/mine.toml")
    text = re.sub("(?m)^reference = .*$", "reference = 2020-12-31", drafted.output.read_text())
    drafted.output.write_text(text)
    assert read_cohort(drafted.output).digest() == read_cohort(declared).digest()
    assert read_cohort(drafted.output).class_names == ("reactive", "tumoral")


def test_paths_are_relative_to_the_output(tmp_path: Path) -> None:
    table, images = write(tmp_path / "data", with_column("N", "1", "2.5", "3", "4.5"))
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
        path, images = write(Path(folder), "", "P1 P2 P3 P4")
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


# Id and label.


def test_the_id_is_the_column_that_names_the_folders(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, "A,B,LABEL\nx,P1,1\ny,P2,0\nz,P3,1\nx,P4,0\n")
    assert document["cohort"]["id"] == "B"
    assert drafted.problems == ()


def test_strangers_among_rows_and_folders_are_flagged_and_named(tmp_path: Path) -> None:
    drafted, _ = draft(tmp_path, with_column("N", "1", "2", "5", "9"), "P1 P2 P3 P8 P9")
    assert flagged(drafted, r"2 folders without a row, like 'P8', 'P9'")
    assert flagged(drafted, r"1 row without a folder, like 'P4'")
    assert len(drafted.problems) == 3


def test_a_table_that_names_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no column of .*table\.csv .*'ID', 'LABEL'.* names the folders .*'X1'"
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
    assert flagged(drafted, "is taken as not labelled") == (unlabelled is not None)
    assert drafted.problems == ()


@pytest.mark.parametrize(
    ("cells", "checks"),
    [
        (
            "tumoral,Reaktiv,TUMORAL,tumoral",
            ["'TUMORAL' (rows: 1) is read as another word than 'tumoral' (2)"],
        ),
        (
            "tumoral,Reaktiv,,TUMORAL,?,,tumoral",
            [
                "'TUMORAL' (rows: 1)",
                "'?' (rows: 1) is read as another word than ''",
                "as not labelled",
            ],
        ),
    ],
)
def test_a_label_of_several_spellings_is_one_whatever_the_hospital(
    tmp_path: Path, cells: str, checks: list[str]
) -> None:
    rows = [f"P{i},{'AB'[i % 2]},{cell}" for i, cell in enumerate(cells.split(","), 1)]
    patients = " ".join(f"P{i}" for i in range(1, len(rows) + 1))
    drafted, document = draft(tmp_path, "\n".join(["ID,Zentrum,Diagnose (endgültig)", *rows]), patients)
    assert document["cohort"]["label"] == "Diagnose (endgültig)"
    assert (document["cohort"]["positive"], document["cohort"]["negative"]) == ("tumoral", "Reaktiv")
    assert "metadata" not in document and flagged(drafted, "does Zentrum group patients")
    assert all(flagged(drafted, re.escape(check)) for check in checks)
    assert any("'TUMORAL' is none of" in problem for problem in drafted.problems)


@pytest.mark.parametrize(
    ("header", "other", "cells", "label", "why"),
    [
        ("DIAGNOSIS", "B", "x y z X", None, "3 different words .* (rows: 'x' 1, 'X' 1, 'y' 1, 'z' 1)"),
        ("DIAGNOSIS", "B", "1.5 2.5 3.5 4.5", None, "4 different words"),
        ("DIAGNOSIS", "CLASS", "x y y x", "DIAGNOSIS", "CLASS is left out: .*, but DIAGNOSIS is taken"),
    ],
)
def test_what_is_named_like_a_label_is_never_an_input(
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


def test_a_label_of_another_name_is_flagged_and_sex_is_none(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, "ID,SEX,HILL\nP1,M,yes\nP2,F,no\nP3,M,no\nP4,F,yes\n")
    assert document["cohort"]["label"] == "HILL"
    assert flagged(drafted, "HILL is taken as the label, though its name does not say so")
    assert list(document["metadata"]) == ["sex"]


def test_a_table_without_a_label_is_for_prediction(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, "ID,SEX,N\nP1,M,1\nP2,F,2\nP3,M,3.5\nP4,F,9\n")
    assert "label" not in document["cohort"] and "splits" not in document
    assert flagged(drafted, "no column looks like a label")
    assert read_cohort(drafted.output).labels.tolist() == [-1] * 4


# The other columns.


def test_skewed_positive_numbers_get_a_logarithm(tmp_path: Path) -> None:
    section = draft(tmp_path / "a", with_column("N", "1", "2", "3", "900"))[1]["metadata"]["n"]
    assert section == {"column": "N", "kind": "number", "transform": "log"}
    assert (
        "transform" not in draft(tmp_path / "b", with_column("N", "0", "2", "3", "900"))[1]["metadata"]["n"]
    )
    assert (
        "transform" not in draft(tmp_path / "c", with_column("N", "5", "6", "7.5", "8"))[1]["metadata"]["n"]
    )


def test_a_code_is_flagged(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, with_column("STAGE", "1", "2", "3", "2"))
    assert document["metadata"]["stage"]["kind"] == "number"
    assert flagged(drafted, "STAGE has 3 different numbers; a code")


def test_a_decimal_comma_is_declared_and_flagged(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, with_column("N", '"1,5"', '"2,25"', "3", "n/a"))
    assert document["cohort"]["decimal"] == ","
    assert flagged(drafted, "decimal comma, like '1,5', '2,25'")
    assert read_cohort(drafted.output).metadata["n"].tolist()[:3] == [1.5, 2.25, 3.0]


@pytest.mark.parametrize(
    ("header", "cells", "why"),
    [
        ("N", "7 7 7 7", "Left out: N, since it has the same value in every row"),
        ("N", "? ? ? ?", "Left out: N, since it is empty"),
        ("N", "0 1 2 3", "Left out: N, since it counts the rows"),
        ("SITE", "a b c a", "Left out: SITE, since where a patient was seen"),
        ("", "5 6 7 9", "Left out: a column without a name"),
        ("N", "1e999 1 2 5", "CHECK: N is left out: some numbers are too large"),
        (
            "SEEN",
            "2020-01-01 2020-01-02 2020-01-03 2020-01-04",
            "CHECK: SEEN is left out: dates, and its name",
        ),
        ("LABEL", "a b c d", "CHECK: LABEL stands 2 times in the header and is left out"),
    ],
)
def test_what_the_model_should_not_see_is_left_out_with_its_reason(
    tmp_path: Path, header: str, cells: str, why: str
) -> None:
    drafted, document = draft(tmp_path, with_column(header, *cells.split()))
    assert "metadata" not in document
    assert f"# {why}" in drafted.output.read_text()
    assert drafted.problems == ()


def test_free_text_is_left_out_and_flagged(tmp_path: Path) -> None:
    rows = [f"P{i},{i % 2},remark {i}" for i in range(30)]
    patients = " ".join(f"P{i}" for i in range(30))
    drafted, document = draft(tmp_path, "\n".join(["ID,LABEL,NOTE", *rows]), patients)
    assert "metadata" not in document
    assert flagged(
        drafted, "NOTE is left out: 30 different words, neither all numbers nor dates, like 'remark 0'"
    )


@pytest.mark.parametrize(
    ("header", "usual", "why"),
    [
        ("Geb.-Datum", "{:02d}.01.1950", "28 of 30 cells are dates, 2 not, like '> 200', 'unbekannt'"),
        ("COUNT", "{}.5", "28 of 30 cells are numbers, 2 not, like '> 200', 'unbekannt'"),
        ("COUNT", '"{},5"', "28 of 30 cells are numbers, 2 not, like '> 200', 'unbekannt'"),
    ],
)
def test_of_many_cells_those_that_do_not_fit_are_shown(
    tmp_path: Path, header: str, usual: str, why: str
) -> None:
    cells = [*(usual.format(i) for i in range(1, 29)), "> 200", "unbekannt"]
    rows = [f"P{i},{i % 2},{cell}" for i, cell in enumerate(cells)]
    table, patients = "\n".join(["ID,LABEL," + header, *rows]), " ".join(f"P{i}" for i in range(30))
    drafted, document = draft(tmp_path, table, patients)
    assert "metadata" not in document
    assert flagged(drafted, why)


def test_a_hospital_is_proposed_as_a_group(tmp_path: Path) -> None:
    drafted, document = draft(tmp_path, with_column("HOSPITAL", "a", "b", "a", "b"))
    assert "group" not in document["cohort"]
    assert flagged(drafted, "does HOSPITAL group patients")
    grouped = drafted.output.read_text().replace("# group", "group")
    drafted.output.write_text(grouped)
    assert read_cohort(drafted.output).groups is not None


def test_a_word_of_one_row_is_flagged(tmp_path: Path) -> None:
    drafted, _ = draft(tmp_path, with_column("SEX", "M", "M", "f", "X"))
    assert flagged(drafted, "SEX has words of one row alone, like 'F', 'X'")


# Dates.


@pytest.mark.parametrize(
    ("cells", "formats", "doubt"),
    [
        ("1942-05-15 1950-01-02 1960-02-03 1970-03-04", ["%Y-%m-%d"], None),
        ("15/05/1942 01/02/1950 02/03/1960 n/a", ["%d/%m/%Y"], None),
        ("5/15/1942 1/2/1950 2/3/1960 3/4/1970", ["%m/%d/%Y"], None),
        (
            "5/1/1942 1/2/1950 2/3/1960 3/4/1970",
            ["%d/%m/%Y"],
            "'5/1/1942' fit %d/%m/%Y and %m/%d/%Y; %d/%m/%Y is taken",
        ),
        ("5/15/1942 1/22/1950 3-4-1960 30-4-1970", ["%m/%d/%Y", "%d-%m-%Y"], "DOB is written in 2 ways"),
        ("5/15/1942 15/5/1950 16/5/1950 17/5/1950", ["%d/%m/%Y"], "1 do not fit %d/%m/%Y, like '5/15/1942'"),
    ],
)
def test_date_formats_are_guessed(tmp_path: Path, cells: str, formats: list[str], doubt: str | None) -> None:
    drafted, document = draft(tmp_path, with_column("DOB", *cells.split()))
    assert document["metadata"]["age"]["formats"] == formats
    assert document["splits"]["stratify"] == ["label", "age"]
    about_formats = [each for each in drafted.doubts if each.startswith("DOB") and "reference" not in each]
    assert len(about_formats) == (doubt is not None)
    assert doubt is None or doubt in about_formats[0]
    assert bool(drafted.problems) == (doubt is not None and "do not fit" in doubt)


def test_the_reference_is_the_day_of_the_table_but_after_every_birth(tmp_path: Path) -> None:
    rows = with_column("DOB", "1942-05-15", "1950-01-02", "1960-02-03", "2019-03-04")
    path, images = write(tmp_path, rows)
    for written, expected in ((date(2021, 6, 1), date(2021, 6, 1)), (date(1990, 1, 1), date(2019, 3, 4))):
        noon = (written - date(1970, 1, 1)).days * 86400 + 43200
        os.utime(path, (noon, noon))
        output = tmp_path / f"{written}.toml"
        drafted = draft_cohort(path, [images], output)
        assert tomllib.loads(output.read_text())["metadata"]["age"]["reference"] == expected
        assert flagged(drafted, "DOB becomes the age at the reference")
        assert drafted.problems == ()


# The command.


def test_the_command_prints_the_doubts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write(tmp_path, with_column("N", "1", "2", "5", "9"))
    output = tmp_path / "cohort.toml"
    assert main([str(table), str(images), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{output}: 4 patients.")
    assert "- LABEL 1 is taken as positive, 0 as negative." in printed
    assert "cannot be read" not in printed


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write(tmp_path, with_column("N", "1", "2", "5", "9"), "P1 P2 P3")
    assert main([str(table), str(images), "--output", str(tmp_path / "c.toml"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["output"], printed["patients"]) == (str(tmp_path / "c.toml"), 4)
    assert any("LABEL 1" in doubt for doubt in printed["doubts"])
    assert printed["problems"] == ["table.csv: patient P4 has no images in images."]


def test_a_folder_without_folders_is_told(tmp_path: Path) -> None:
    table, images = write(tmp_path, with_column("N", "1", "2", "5", "9"), "")
    images.mkdir()
    with pytest.raises(DataError, match=r"there is no folder in .*images\. Each patient needs one"):
        draft_cohort(table, [images], tmp_path / "cohort.toml")


def test_what_stands_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write(tmp_path, with_column("N", "1", "2", "5", "9"))
    output = tmp_path / "cohort.toml"
    output.write_text("mine")
    assert main([str(table), str(images), "--output", str(output)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert output.read_text() == "mine"


def test_bad_data_end_with_3_and_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write(tmp_path, "ID,LABEL\nP1,1,2\nP2\n")
    arguments = [str(table), str(images), "--output", str(tmp_path / "cohort.toml")]
    assert main(arguments) == 3
    errors = capsys.readouterr().err
    assert "row 2: 3 cells" in errors and "row 3: 1 cells" in errors and "Traceback" not in errors
    assert main([str(table), str(tmp_path / "none"), str(table), *arguments[2:]]) == 3
    assert capsys.readouterr().err.count("cannot be read") == 2
    assert main([str(tmp_path / "none.csv"), *arguments[1:]]) == 3
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "cohort.toml").exists()


def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write(tmp_path, with_column("N", "1", "2", "5", "9"))
    assert main([str(table), str(images), "--output", str(table / "cohort.toml")]) == 2
    errors = capsys.readouterr().err
    assert "cannot be written" in errors and "Traceback" not in errors


def test_a_path_that_is_not_unicode_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write(tmp_path / os.fsdecode(b"caf\xe9"), with_column("N", "1", "2", "5", "9"))
    assert main([str(table), str(images), "--output", str(tmp_path / "cohort.toml")]) == 3
    assert "is not UTF-8" in capsys.readouterr().err
