"""Outcomes that cannot be learned or read: mil-tune names what is wrong, with rows, before any training."""

from pathlib import Path

import pytest
from support.commands import Command

PATIENTS = 24
LETTERS = 'label = "L"\nclasses = ["a", "b", "c"]'
TARGET = 'target = "T"'
SURVIVAL = 'time = "T"\nevent = "E"\nhorizon = 10'
NUMBERS = [f"{row / 2}" for row in range(PATIENTS)]
TIMES = [f"{row + 1},{row % 2}" for row in range(PATIENTS)]
NO_CLASS_C = "the c class has 0 patients. Every fold needs patients of all classes: declare only classes"
FEW_OF_C = (
    "the c class has 2 patients, fewer than the 3 folds. Use fewer folds, merge the class with another (the"
    " words of both under one name), or exclude its patients."
)
CASES: dict[str, tuple[str, list[str], str, list[str]]] = {
    "one word of two": (
        "L",
        ["a"] * PATIENTS,
        'label = "L"\npositive = "a"\nnegative = "b"',
        ["the negative class has 0 patients. Every fold needs patients of all classes"],
    ),
    "one word of three": ("L", ["a"] * PATIENTS, LETTERS, ["the b class has 0 patients.", NO_CLASS_C]),
    "one grade": ("L", ["a"] * PATIENTS, f"{LETTERS}\nordered = true", [NO_CLASS_C]),
    "two words of three": ("L", ["a", "b"] * 12, LETTERS, [NO_CLASS_C]),
    "few patients of a class": ("L", ["a", "b"] * 11 + ["c"] * 2, LETTERS, [FEW_OF_C]),
    "few patients of a grade": ("L", ["a", "b"] * 11 + ["c"] * 2, f"{LETTERS}\nordered = true", [FEW_OF_C]),
    "words of no class": (
        "L",
        ["a", "b", "c"] * 7 + ["a", "d", "e"],
        LETTERS,
        ["row 24 (patient P22): L 'd' is not one of 'a' (class a)", "row 25 (patient P23): L 'e'"],
    ),
    "no label": ("L", [""] * PATIENTS, f'{LETTERS}\nunlabelled = ""', ["has no labelled patients"]),
    "constant target": ("T", ["3.5"] * PATIENTS, TARGET, ["patients whose target is always 3.5."]),
    "constant except for one": (
        "T",
        ["3.5"] * (PATIENTS - 1) + ["4"],
        TARGET,
        ["trains on patients whose target is always 3.5. Patients with different targets must be among"],
    ),
    "words as targets": (
        "T",
        ["low", "high"] * 12,
        TARGET,
        ["24 of 24 cells cannot be read", "row 2 (patient P00): T 'low'", "declare it as label"],
    ),
    "some words and no number": (
        "T",
        [*NUMBERS[4:], "low", "nan", "inf", "-1e999"],
        TARGET,
        [
            "row 22 (patient P20): T 'low' is not a finite number.",
            "row 23 (patient P21): no target in 'T'. Fill it in, or declare unlabelled = \"nan\"",
            "row 24 (patient P22): T 'inf' is not a finite number.",
            "row 25 (patient P23): T '-1e999' is not a finite number.",
        ],
    ),
    "logarithm of zero": (
        "T",
        NUMBERS,
        f'{TARGET}\ntransform = "log"',
        ["row 2 (patient P00): T '0.0' is not above 0, so it has no logarithm."],
    ),
    "two patients": ("T", NUMBERS[:2], TARGET, ["the cohort has 2 patients, fewer than the 3 folds."]),
    "times before the start": (
        "T,E",
        ["0,1", "-3,0", *TIMES[2:]],
        SURVIVAL,
        [
            "row 2 (patient P00): T '0' is not above 0.",
            "row 3 (patient P01): T '-3' is not above 0.",
            "A time counts from the start of the observation; empty time and event of patients",
        ],
    ),
    "other events": (
        "T,E",
        ["5,2", "6,dead", "7,0.5", "8,", "nan,1", *TIMES[5:]],
        SURVIVAL,
        [
            "row 2 (patient P00): E '2' is not 1 (event) or 0 (censored).",
            "row 3 (patient P01): E 'dead' is not 1 (event) or 0 (censored).",
            "row 4 (patient P02): E '0.5' is not 1 (event) or 0 (censored).",
            "row 5 (patient P03): no event in 'E'.",
            "row 6 (patient P04): no time in 'T'.",
            "Write 1 if the event happened at the time, and 0 if the patient was last seen then.",
        ],
    ),
    "no early event": (
        "T,E",
        [f"{row + 1},{int(row > 12)}" for row in range(PATIENTS)],
        SURVIVAL,
        ["patients whose first event is at 14: none of 11 events happened up to the horizon of 10."],
    ),
    "few early events": (
        "T,E",
        [f"{row + 1},{int(row > 7)}" for row in range(PATIENTS)],
        SURVIVAL,
        ["the event-by-horizon class has 2 patients, fewer than the 3 folds."],
    ),
    "only early events": (
        "T,E",
        [f"{row % 10 + 1},1" for row in range(PATIENTS)],
        SURVIVAL,
        ["the no-event-by-horizon class has 0 patients."],
    ),
    "all censored": ("T,E", [f"{row + 1},0" for row in range(PATIENTS)], SURVIVAL, ["who are all censored."]),
    "late horizon": (
        "T,E",
        TIMES,
        SURVIVAL.replace("10", "50"),
        ["patients who were followed up to 24, before the horizon of 50. Choose an earlier horizon"],
    ),
    "no horizon": ("T,E", TIMES, 'time = "T"\nevent = "E"', ["horizon is missing."]),
    "a horizon in words": ("T,E", TIMES, SURVIVAL.replace("10", '"ten"'), ["horizon must be a whole number"]),
    "a negative horizon": ("T,E", TIMES, SURVIVAL.replace("10", "-1"), ["horizon must be above 0"]),
    "an event of the time": ("T,E", TIMES, SURVIVAL.replace('"E"', '"T"'), ["time and event are both 'T'"]),
    "no unlabelled survival": (
        "T,E",
        [","] * PATIENTS,
        f'{SURVIVAL}\nunlabelled = ""',
        ["has no labelled patients to learn from. Declare the column of the outcome"],
    ),
}
KINDS = {
    "classes": ("L", ["a", "b", "c"], LETTERS),
    "number": ("T", NUMBERS, TARGET),
    "survival": ("T,E", TIMES, SURVIVAL),
}


def errors(command: Command, folder: Path, header: str, rows: list[str], keys: str) -> str:
    """Return what mil-tune says about a table with these rows, which it refuses."""
    lines = [f"P{number:02d},{row},{40 + number % 17}" for number, row in enumerate(rows)]
    (folder / "table.csv").write_text("\n".join([f"ID,{header},AGE", *lines]))
    section = '[metadata.age]\ncolumn = "AGE"\nkind = "number"\n'
    (folder / "cohort.toml").write_text(
        f'[cohort]\nname = "bad"\ntable = "table.csv"\nid = "ID"\n{keys}\n{section}'
    )
    study = ("--study", folder / "study", "--features", "none", "--device", "cpu")
    folds = ("--folds", 3, "--outer-folds", 3, "--trials", 1, "--epochs", 1, "--workers", 1)
    done = command("tune", folder / "cohort.toml", *study, *folds)
    assert done.code == 3 and "Traceback" not in done.err
    assert not (folder / "study" / "study.json").exists()
    return done.err


@pytest.mark.parametrize("case", CASES)
def test_an_outcome_that_cannot_be_learned_is_explained(tmp_path: Path, command: Command, case: str) -> None:
    header, rows, keys, expected = CASES[case]
    printed = errors(command, tmp_path, header, rows, keys)
    for text in expected:
        assert printed.count(text) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_patient_with_two_rows_is_named_with_both(tmp_path: Path, command: Command, kind: str) -> None:
    header, values, keys = KINDS[kind]
    rows = (values * PATIENTS)[:PATIENTS]
    table = tmp_path / "once"
    table.mkdir()
    lines = "\n".join(f"P{number % 23:02d},{row}" for number, row in enumerate(rows))
    (table / "table.csv").write_text(f"ID,{header}\n{lines}")
    (table / "cohort.toml").write_text(f'[cohort]\nname = "bad"\ntable = "table.csv"\nid = "ID"\n{keys}\n')
    done = command("tune", table / "cohort.toml", "--study", table / "study", "--features", "none")
    assert done.code == 3 and "row 25: patient P00 already appears in row 2." in done.err
