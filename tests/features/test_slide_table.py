"""The table that says which feature files belong to which patient."""

from pathlib import Path

import pytest
from support.commands import Command, Done
from support.foreign_files import write_features

from mil_toolkit.features.cache import FeatureCache

SLIDES = ("s1", "s2", "s3.part", "TCGA-XX")


def try_table(tmp_path: Path, command: Command, text: str) -> Done:
    """Import four slides by a table with this text."""
    for name in SLIDES:
        write_features(tmp_path / f"f/{name}.h5")
    (tmp_path / "slides.csv").write_text(text)
    options = ("--format", "trident", "--cohort", "c", "--cache", tmp_path / "cache")
    done = command("cache", "import", tmp_path / "f", *options, "--table", tmp_path / "slides.csv")
    assert "Traceback" not in done.err
    return done


def sizes(done: Done) -> dict[str, int]:
    """Return the number of instances of every imported patient."""
    assert done.code == 0, done.err
    cache = FeatureCache.open(Path(done.out.strip()))
    return dict(zip(cache.patient_ids, cache.bags(cache.patient_ids).sizes.tolist(), strict=True))


@pytest.mark.parametrize("second", ["s1", "s1.h5", "s1.svs", " s1 "])
def test_a_repeated_row_counts_once(tmp_path: Path, command: Command, second: str) -> None:
    """Also if it names the file in another way."""
    done = try_table(tmp_path, command, f"case_id,slide_id\nA,s1\nA,{second}\nA,s2\n")
    assert sizes(done) == {"A": 4}
    assert "slides.csv: 1 repeated row ignored." in done.err


@pytest.mark.parametrize("second", ["s1", "s1.h5"])
def test_a_slide_of_two_patients_is_an_error(tmp_path: Path, command: Command, second: str) -> None:
    done = try_table(tmp_path, command, f"case_id,slide_id\nA,s1\nB,{second}\nB,s2\nA,s2\n")
    assert done.code == 3 and len(done.err.splitlines()) == 2
    assert f"row 3: slide '{second}' belongs to patient B here, but to A in " in done.err
    assert "row 5: slide 's2' belongs to patient A here, but to B in " in done.err


@pytest.mark.parametrize("row", [",s1", " ,s1", "A,", "A, ", "nan,s1"])
def test_a_row_without_patient_or_file_is_an_error(tmp_path: Path, command: Command, row: str) -> None:
    done = try_table(tmp_path, command, f"case_id,slide_id\nB,s2\n{row}\n")
    assert done.code == 3 and "slides.csv, row 3: expected a patient and a file, got " in done.err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("row", ["B", "B,s2,,more"])
def test_short_and_long_rows_are_errors(tmp_path: Path, command: Command, row: str) -> None:
    done = try_table(tmp_path, command, f"case_id,slide_id,label\nA,s1,1\n{row}\n")
    assert done.code == 3 and "slides.csv, row 3: " in done.err


@pytest.mark.parametrize("text", ["", "case_id,slide_id\n", "case_id,slide_id", "\n"])
def test_a_table_without_rows_is_an_error(tmp_path: Path, command: Command, text: str) -> None:
    done = try_table(tmp_path, command, text)
    assert done.code == 3 and "slides.csv" in done.err


@pytest.mark.parametrize(
    "text",
    [
        "case_id;slide_id\nA;s1\nB;s2\n",
        "\ufeffcase_id\tslide_id\r\nA\ts1\r\nB\ts2\r\n",
        'case_id,slide_id\n" A ",s1\n"B"," s2"\n',
        "patient,path\nA,s1.h5\nB,s2.h5\n",
        "label;case_id;slide_id\n1;A;s1\n0;B;s2\n\n",
    ],
)
def test_separators_quotes_and_spaces_do_not_matter(tmp_path: Path, command: Command, text: str) -> None:
    assert sizes(try_table(tmp_path, command, text)) == {"A": 2, "B": 2}


@pytest.mark.parametrize("name", ["TCGA-XX.CF4496E0", "TCGA-XX.CF4496E0.svs", "s3", "s3.other", "s1.2"])
def test_a_name_is_not_cut_at_its_dots(tmp_path: Path, command: Command, name: str) -> None:
    """TCGA-XX.CF4496E0 is neither shortened in the message nor taken for TCGA-XX."""
    done = try_table(tmp_path, command, f"case_id,slide_id\nA,{name}\n")
    assert done.code == 3
    assert f"slides.csv, row 2 (patient A): there is no feature file '{name}'." in done.err


@pytest.mark.parametrize("name", ["s3.part", "s3.part.h5", "s3.part.SVS", "TCGA-XX.ndpi"])
def test_a_known_extension_is_cut(tmp_path: Path, command: Command, name: str) -> None:
    assert sizes(try_table(tmp_path, command, f"case_id,slide_id\nA,{name}\n")) == {"A": 2}


def test_all_problems_are_reported_at_once(tmp_path: Path, command: Command) -> None:
    done = try_table(tmp_path, command, "case_id,slide_id\nA,s1\n,s2\nB,s1\nC,s9\nD\n")
    rows = [f"row {number}" in done.err for number in range(2, 7)]
    assert done.code == 3 and len(done.err.splitlines()) == 4 and all(rows)


def test_rows_without_files_are_summarised_if_they_are_most(tmp_path: Path, command: Command) -> None:
    """As in the table of another folder."""
    rows = "".join(f"A,other{number}\n" for number in range(500))
    done = try_table(tmp_path, command, f"case_id,slide_id\nA,s1\n{rows}")
    assert done.code == 3 and len(done.err.splitlines()) == 1
    assert "500 of 501 rows of" in done.err and "name no feature file: 'other0', 'other1'" in done.err
