"""Reading cohort.toml: every mistake is reported with its section."""

import os
from datetime import date
from pathlib import Path

import pytest
from support.cohort_files import TABLE, TOML, only_problem, problems, write

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.declaration import COHORT_KEYS, METADATA_KEYS, SPLIT_KEYS, STUDY_KEYS
from mil_toolkit.cohort.toml import TOML_LIMIT


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[cohort]", "[cohorts]", "unknown key 'cohorts'. Did you mean 'cohort'?"),
        ("[cohort]", "[cohort", "is not valid TOML"),
        ("images =", "image =", "[cohort]: unknown key 'image'. Did you mean 'images'?"),
        ("images =", "image =", "[cohort]: images (folders) or image_table is missing."),
        (
            '["images"]',
            '"images"',
            "[cohort]: images must be a non-empty list of texts in quotes, not 'images'.",
        ),
        ('["images"]', "[]", "[cohort]: images must be a non-empty list of texts in quotes, not []."),
        (
            '["images"]',
            '["images"]\nimage_table = "i.csv"',
            "images and image_table are both given; keep only one.",
        ),
        ('name = "tiny"', "", "[cohort]: name is missing."),
        (
            '"tiny"',
            '"../tiny"',
            "name '../tiny' must start with a letter or digit and contain only letters, digits, _",
        ),
        ('"tiny"', '""', "name '' must start with a letter"),
        ('id = "ID"', "", "[cohort]: id is missing."),
        ("[splits]", "[study]\ndates = 2020\n[splits]", "[study]: dates must be text in quotes, not 2020."),
        ("[splits]", "[study]\ndate = 'x'\n[splits]", "[study]: unknown key 'date'. Did you mean 'dates'?"),
        (
            "[splits]",
            "[study]\nlowest_threshold = 0.6\nhighest_threshold = 0.4\n[splits]",
            "highest_threshold must be probabilities between 0 and 1 in this order, not 0.6 and 0.4.",
        ),
        (
            "[splits]",
            "[study]\nhighest_threshold = 1\n[splits]",
            "[study]: highest_threshold must be a number with a decimal point, not 1.",
        ),
        ('table = "table.csv"', "", "[cohort]: table is missing."),
        ("positive = 1", "", "[cohort]: positive is missing."),
        (
            "positive = 1",
            "positive = true",
            "positive must be text in quotes or a whole number, or a non-empty list of these, not True.",
        ),
        ("positive = 1", "positive = []", "or a non-empty list of these, not []."),
        ("positive = 1", "positive = [1, true]", "or a non-empty list of these, not [1, True]."),
        (
            "positive = 1",
            'positive = [1, "CLL"]\nexclude = ["CLL", "MCL"]',
            "[cohort]: the word 'CLL' is declared more than once: positive, exclude. Keep one.",
        ),
        (
            "positive = 1",
            'positive = ["x", 0]',
            "the word '0.0' is declared more than once: negative, positive.",
        ),
        (
            "positive = 1",
            'positive = [1, "1.0"]',
            "is declared more than once: positive, positive. Keep one.",
        ),
        ("unlabelled = -1", "exclude = 1", "negative, positive, exclude must differ, but they are 0, 1, 1."),
        (
            'label = "LABEL"',
            "exclude = [2]",
            "exclude lists words of the label column, but label is missing.",
        ),
        (
            "positive = 1",
            'positive = "0"',
            "negative, positive, unlabelled must differ, but they are 0, '0', -1.",
        ),
        ("negative = 0", 'separator = "|"', "separator must be one of ',', ';', '\\t', not '|'."),
        ("negative = 0", 'decimal = "x"', 'decimal must be "." or ",", not \'x\'.'),
        ("[metadata.age]", "[metadata.label]", "a metadata column cannot be called 'label'."),
        ("[metadata.age]", '[metadata.""]', "a metadata column cannot be called ''."),
        (
            "[metadata.age]",
            "[metadata]\nage = 3\n[metadata.years]",
            "must be a section with column and kind, not 3.",
        ),
        ('column = "DOB"', "", "[metadata.age]: column is missing."),
        ('kind = "birth-date"', "", "[metadata.age]: kind is missing."),
        ('"birth-date"', '"birthdate"', "unknown kind 'birthdate'. Did you mean 'birth-date'?"),
        ("reference = 2020-12-31", "", "[metadata.age]: kind 'birth-date' requires reference."),
        (
            "2020-12-31",
            '"2020-12-31"',
            "reference must be a date without quotes, such as 2020-12-31, not '2020-12-31'.",
        ),
        ("2020-12-31", "2020-12-31T10:00:00", "reference must be a date without quotes"),
        ('"%m/%d/%Y"', '"%m/%Y"', "formats: '%m/%Y' does not describe a complete date"),
        ('"%m/%d/%Y"', '"%Q"', "formats: '%Q' does not describe a complete date"),
        ('"%m/%d/%Y"', "1", "formats must be a non-empty list of texts in quotes, not [1, '%d-%m-%Y']."),
        ('kind = "category"', 'kind = "category"\nunit = "x"', "unit does not apply to kind 'category'."),
        ('"log"', '"sqrt"', "transform must be \"log\", not 'sqrt'."),
        ('column = "GENDER"', 'column = "LABEL"', "column 'LABEL' is the id or the label column"),
        ('"label", "age"', '"label", "aeg"', "stratify names 'aeg', which is neither"),
        (
            'stratify = ["label", "age"]',
            "seed = 5",
            "[splits]: unknown key 'seed'. Known: 'stratify', 'folds'.",
        ),
    ],
)
def test_a_mistake_in_the_toml_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in TOML
    found = problems(write(tmp_path, toml=TOML.replace(old, new)))
    assert any(expected in problem for problem in found), found


def test_a_toml_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in only_problem(tmp_path / "cohort.toml")
    assert "is a folder, where a regular file is expected" in only_problem(tmp_path)
    (tmp_path / "cohort.toml").write_bytes(b"name = '\xe9'")
    assert "is not valid TOML" in only_problem(tmp_path / "cohort.toml")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert read_cohort(write(tmp_path, toml="\ufeff" + TOML)).name == "tiny"


def test_braces_and_line_breaks_in_names_do_no_harm(tmp_path: Path) -> None:
    toml = TOML.replace("[metadata.age]", '[metadata."{x}\\n{source}"]').replace('"label", "age"', '"label"')
    found = problems(write(tmp_path, TABLE.replace("5/15/1942", "{0}"), toml))
    assert found[0].endswith("DOB '{0}' matches none of the formats %m/%d/%Y, %d-%m-%Y.")
    assert found[1].startswith(r"Add its format to [metadata.{x}\n{source}] formats in ")


@pytest.mark.parametrize("separator", ["|", "ab", ""])
def test_an_invalid_separator_is_reported_and_the_table_is_read_nevertheless(
    tmp_path: Path, separator: str
) -> None:
    toml = TOML.replace("[metadata.age]", f'separator = "{separator}"\n[metadata.age]')
    assert only_problem(write(tmp_path, toml=toml)).endswith(
        f"[cohort]: separator must be one of ',', ';', '\\t', not {separator!r}."
    )


def test_the_known_keys_are_the_fields_of_the_sections() -> None:
    assert COHORT_KEYS["positive"] == COHORT_KEYS["exclude"] == (str, int, list)
    assert COHORT_KEYS["images"] == METADATA_KEYS["formats"] == SPLIT_KEYS["stratify"] == (list,)
    assert COHORT_KEYS["id"] == COHORT_KEYS["group"] == (str,)
    assert METADATA_KEYS["reference"] == (date,)
    assert STUDY_KEYS["setting"] == (str,) and STUDY_KEYS["lowest_threshold"] == (float,)
    assert list(METADATA_KEYS) == ["column", "kind", "formats", "reference", "transform", "unit"]


@pytest.mark.parametrize(
    "value",
    ["[" * 100_000 + "]" * 100_000, "{a=" * 20_000 + "1" + "}" * 20_000, "9" * 5000, "[[[[[[[1]]]]]]]"],
)
def test_values_that_python_cannot_hold_are_refused(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, toml=TOML.replace('"tiny"', value))
    assert "is not valid TOML" in only_problem(path) or "name must be text" in only_problem(path)


@pytest.mark.parametrize("number", ["0x" + "f" * 20_000, "9" * 4000, "-9223372036854775809"])
@pytest.mark.parametrize("key", ["positive = 1", 'name = "tiny"', 'kind = "category"', 'images = ["images"]'])
def test_whole_numbers_beyond_64_bits_are_refused(tmp_path: Path, number: str, key: str) -> None:
    found = problems(write(tmp_path, toml=TOML.replace(key, f"{key.split()[0]} = {number}")), images=False)
    assert any(f"{key.split()[0]} must be " in problem for problem in found)
    listed = problems(write(tmp_path, toml=TOML.replace(key, f"{key.split()[0]} = [{number}]")), images=False)
    assert any(f"{key.split()[0]} must be " in problem for problem in listed)


def test_many_unknown_keys_are_one_problem(tmp_path: Path) -> None:
    keys = "\n".join(f'"\\u001b{number}" = 1' for number in range(100_000))
    problem = only_problem(write(tmp_path, toml=TOML.replace("[splits]", f"[splits]\n{keys}")))
    assert (
        "[splits]: unknown keys '\\x1b0', " in problem
        and " and 99995 more. Known: 'stratify', 'folds'." in problem
    )


def test_a_toml_has_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path)
    os.truncate(path, TOML_LIMIT + 1)
    assert "cohort.toml is larger than 2 MiB" in only_problem(path)


@pytest.mark.parametrize("format", ["%Y%Y", "%", "%%%", "(%Y", "%d%m%Y%d", "%Q", "\\u0000%d%m%Y"])
def test_formats_that_strptime_cannot_use_are_refused(tmp_path: Path, format: str) -> None:
    path = write(tmp_path, toml=TOML.replace('"%d-%m-%Y"', f'"{format}"'))
    assert "does not describe a complete date" in only_problem(path)


def test_a_name_that_is_too_long_for_a_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, toml=TOML.replace('"tiny"', f'"{"é" * 150}"'))
    assert "name has more than 200 bytes" in only_problem(path)


def test_statements_about_the_study_are_read(tmp_path: Path) -> None:
    text = TOML + '\n[study]\nsetting = "ward A"\nlowest_threshold = 0.1\n'
    study = read_cohort(write(tmp_path, TABLE, text)).study
    assert (study.setting, study.dates, study.lowest_threshold) == ("ward A", None, 0.1)


@pytest.mark.parametrize("number", ["0", "-0.25", "inf", "nan"])
def test_a_resolution_must_be_a_positive_number(tmp_path: Path, number: str) -> None:
    path = write(
        tmp_path, toml=TOML.replace("[metadata.age]", f"microns_per_pixel = {number}\n[metadata.age]")
    )
    assert "[cohort]: microns_per_pixel must be a positive number, not " in only_problem(path)


@pytest.mark.parametrize("number", ["0.25", "2"])
def test_a_resolution_may_be_whole_or_not(tmp_path: Path, number: str) -> None:
    path = write(
        tmp_path, toml=TOML.replace("[metadata.age]", f"microns_per_pixel = {number}\n[metadata.age]")
    )
    assert read_cohort(path).microns_per_pixel == float(number)
