"""Official folds: every published layout gives the same folds, and every mistake is named with its row."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.errors import DataError

PATIENTS = [f"P{number}" for number in range(8)]  # of alternating classes, in pairs of groups
TABLE = "ID,L,G\n" + "".join(f"P{number},{number % 2},g{number // 2}\n" for number in range(8))
TABLE += "U1,-1,g9\nX1,other,g9\n"
TOML = """\
[cohort]
name = "official"
table = "t.csv"
id = "ID"
label = "L"
positive = 1
negative = 0
unlabelled = -1
exclude = "other"
{group}
[splits]
folds = {folds}
"""
FIRST, LAST = frozenset(PATIENTS[:4]), frozenset(PATIENTS[4:])
EXPECTED = ((FIRST, LAST),)


def long_table(header: str, rows: Sequence[str]) -> str:
    """The layout with one row for each patient and repeat."""
    return "\n".join([header, *rows]) + "\n"


LONG = long_table("patient,fold", [f"{patient},{int(patient in LAST)}" for patient in PATIENTS])


def columns(parts: Callable[[str, int], str], separator: str = ",") -> str:
    """The layout with one column for each of two folds."""
    rows = [["patient", "fold_0", "fold_1"]]
    rows += [[patient, parts(patient, 0), parts(patient, 1)] for patient in PATIENTS]
    return "".join(f"{separator.join(row)}\n" for row in rows)


def part(patient: str, fold: int) -> str:
    """Test a half of the patients in each fold; two of the others are for validation."""
    if patient in EXPECTED[0][fold]:
        return "test"
    return "val" if patient in ("P0", "P5") else "train"


def lists(fold: int) -> str:
    """A file as CLAM writes it: an index without a name, and the patients of each part in a column."""
    members = {name: [p for p in PATIENTS if part(p, fold) == name] for name in ("train", "val", "test")}
    height = max(map(len, members.values()))
    filled = [[name, *ids, *[""] * (height - len(ids))] for name, ids in members.items()]
    rows = zip(["", *map(str, range(height))], *filled, strict=True)
    return "".join(f"{','.join(row)}\n" for row in rows)


def marks(fold: int) -> str:
    """A file `splits_N_bool.csv` as CLAM writes it."""
    names = ("train", "val", "test")
    rows = [[patient, *(str(part(patient, fold) == name) for name in names)] for patient in PATIENTS]
    return "".join(f"{','.join(row)}\n" for row in [["", *names], *rows])


def write(folder: Path, files: Mapping[str, str], grouped: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "t.csv").write_text(TABLE)
    for name, text in files.items():
        (folder / name).write_text(text)
    names = ", ".join(f'"{name}"' for name in files)
    value = names if len(files) == 1 else f"[{names}]"
    (folder / "c.toml").write_text(TOML.format(folds=value, group='group = "G"\n' if grouped else ""))
    return folder / "c.toml"


def problems(folder: Path, *texts: str, grouped: bool = False) -> list[str]:
    names = ["f.csv"] if len(texts) == 1 else [f"f{number}.csv" for number in range(len(texts))]
    with pytest.raises(DataError) as caught:
        read_cohort(write(folder, dict(zip(names, texts, strict=True)), grouped), images=False)
    return caught.value.problems


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"f.csv": LONG}, id="long"),
        pytest.param({"f.csv": LONG.replace("patient", "ID")}, id="the cohort's id"),
        pytest.param({"f.csv": LONG.replace(",0\n", ",1.0\n").replace(",1\n", ",10\n")}, id="numbers"),
        pytest.param({"f.csv": columns(part)}, id="columns"),
        pytest.param({"f.tsv": columns(part, "\t").replace("patient", "case_id")}, id="Patho-Bench"),
        pytest.param({f"splits_{fold}.csv": lists(fold) for fold in (0, 1)}, id="CLAM"),
        pytest.param({f"splits_{fold}_bool.csv": marks(fold) for fold in (0, 1)}, id="CLAM, bool"),
    ],
)
@pytest.mark.parametrize("grouped", [False, True])
def test_every_layout_gives_the_same_folds(tmp_path: Path, files: dict[str, str], grouped: bool) -> None:
    cohort = read_cohort(write(tmp_path, files, grouped), images=False)
    assert cohort.folds is not None and cohort.folds.repeats == EXPECTED
    assert set(cohort.tables) == {tmp_path / "t.csv", *(tmp_path / name for name in files)}


def test_folds_are_sorted_by_number_and_not_by_row(tmp_path: Path) -> None:
    rows = [f"P{number},{10 if number < 2 else 9 if number < 6 else 2}" for number in range(8)]
    cohort = read_cohort(write(tmp_path, {"f.csv": long_table("patient,fold", rows)}), images=False)
    assert cohort.folds is not None
    (folds,) = cohort.folds.repeats
    assert [min(fold) for fold in folds] == ["P6", "P2", "P0"]


def test_each_repeat_has_its_own_folds(tmp_path: Path) -> None:
    rows: list[str] = []
    for number, patient in enumerate(PATIENTS):
        rows += [f"{patient},{number // 4},a", f"{patient},{number // 2 % 2},b"]
    cohort = read_cohort(write(tmp_path, {"f.csv": long_table("patient,fold,repeat", rows)}), images=False)
    assert cohort.folds is not None
    other = frozenset(("P0", "P1", "P4", "P5"))
    assert cohort.folds.repeats == (*EXPECTED, (other, frozenset(PATIENTS) - other))


def test_several_slides_of_a_patient_are_in_the_same_part(tmp_path: Path) -> None:
    header, *rows = columns(part).splitlines()
    slides = [f"{row},s{number}" for number, row in enumerate([*rows, rows[0]])]
    text = "\n".join([f"{header},slide_id", *slides]) + "\n"
    assert read_cohort(write(tmp_path / "one", {"f.csv": text}), images=False).folds is not None
    (problem,) = problems(tmp_path / "two", text + "P1,train,train,s9\n")
    assert problem.startswith("f.csv, row 11: patient P1 is in train of fold_0, but in test in row 3.")


def test_patients_without_a_label_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cohort = read_cohort(write(tmp_path, {"f.csv": LONG + "U1,0\nX1,1\n"}), images=False)
    assert cohort.folds is not None and cohort.folds.repeats == EXPECTED
    assert "f.csv: passing over patients whom no study scores: 1 excluded and 1 unlabelled." in caplog.text


def test_rows_of_patients_without_a_label_may_be_incomplete(tmp_path: Path) -> None:
    for number, text in enumerate([LONG + "U1,\nX1,0\nX1,1\n", columns(part) + "U1,,\nX1,none,train\n"]):
        cohort = read_cohort(write(tmp_path / str(number), {"f.csv": text}), images=False)
        assert cohort.folds is not None and cohort.folds.repeats == EXPECTED


NEVER_OR_TWICE = "each repeat must test every labelled patient once"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LONG + "P9,0\n", ["f.csv, row 10: patient P9 has no row in t.csv."]),
        (LONG.replace("P3,0\n", ""), ["f.csv: patient P3 is in no fold."]),
        (LONG + "P3,0\n", ["f.csv, row 10: patient P3 already has a fold, in row 5."]),
        (LONG.replace("P3,0", "P3,"), ["f.csv, row 5: no fold."]),
        (LONG.replace("P3,0", ",0"), ["f.csv, row 5: no patient.", "f.csv: patient P3 is in no fold."]),
        (LONG + "U1,5\n", ["f.csv: fold 5 tests no labelled patient."]),
        (
            LONG.replace(",1\n", ",0\n"),
            ["f.csv: there must be at least two folds, not 1."],
        ),
        (
            LONG.replace("P1,0", "P1,1").replace("P3,0", "P3,1"),
            [
                "f.csv: fold 0 tests patients of one class only, 0 (2 patients, such as P0, f.csv, row 2).",
            ],
        ),
        (LONG.replace("fold", "cv"), ["f.csv declares no folds: expected the columns patient and fold"]),
        (LONG.replace("patient", "who"), ["f.csv has no column of patients: one of patient, patient_id"]),
        (columns(part) + "P0,test,train\n", ["f.csv, row 10: patient P0 already appears in row 2."]),
        (
            columns(part).replace("P3,test,train", "P3,test,learn"),
            ["f.csv, row 5: fold_1 must be train, val or test; it is 'learn'."],
        ),
        (
            columns(part).replace("P3,test,train", "P3,,train"),
            ["f.csv, row 5: fold_0 must be train, val or test; it is empty."],
        ),
        (
            columns(part).replace("P3,test,train", "P3,train,train"),
            ["f.csv: patient P3 is tested by no fold.", NEVER_OR_TWICE],
        ),
        (
            columns(part).replace("P3,test,train", "P3,test,test"),
            [
                "patient P3 is tested 2 times: by fold_0 (f.csv, row 5), fold_1 (f.csv, row 5).",
                NEVER_OR_TWICE,
            ],
        ),
    ],
)
def test_mistakes_are_named_with_their_row(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = problems(tmp_path, text)
    assert all(any(line in problem for problem in found) for line in expected), found
    assert len(found) == len(expected) or "there must be" in expected[0] or "one class" in expected[0], found


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            (lists(0).replace(",P5,P0", ",P0,P5"), lists(1)),
            ["patient P5 is tested 2 times", "patient P0 is tested by no fold"],
        ),
        ((lists(0).replace("P6", ""), lists(1)), ["patient P6 is in none of train, val and test of f0.csv."]),
        ((lists(0), lists(1).replace("P6", "Q")), ["patient Q has no row", "P6 is in none of"]),
        (
            (marks(0).replace("P0,False,False,True", "P0,False,True,True"), marks(1)),
            ["f0.csv, row 2: patient P0 must be in one of train, val, test, not in val and test."],
        ),
        (
            (marks(0).replace("P0,False,False,True", "P0,False,False,False"), marks(1)),
            ["f0.csv, row 2: patient P0 must be in one of train, val, test, not in none of them."],
        ),
        (
            (marks(0).replace("P0,False,False,True", "P0,False,no,True"), marks(1)),
            ["f0.csv, row 2: val 'no': expected True or False."],
        ),
        (
            (lists(0).replace(",P5,P0", ",P0,P0"), lists(1)),
            ["f0.csv, row 2: patient P0 is in test, and in val in row 2."],
        ),
        ((LONG, LONG), ["f0.csv is one of several files of folds", "f1.csv is one of several files"]),
    ],
)
def test_mistakes_in_several_files_are_named_with_their_file(
    tmp_path: Path, texts: tuple[str, ...], expected: list[str]
) -> None:
    found = problems(tmp_path, *texts)
    for line in expected:
        assert any(line in problem for problem in found), (line, found)


@pytest.mark.parametrize("header", ["patient,fold,split", "patient,split,fold"])
def test_a_column_of_folds_beside_one_of_parts_is_refused(tmp_path: Path, header: str) -> None:
    """All rows say train: none of the patients is tested in the fold of its number."""
    cells = {"fold": lambda patient: str(int(patient in LAST)), "split": lambda _: "Train"}
    names = header.split(",")[1:]
    rows = [",".join([patient, *(cells[name](patient) for name in names)]) for patient in PATIENTS]
    (problem,) = problems(tmp_path, long_table(header, rows))
    assert "has both the columns fold and split, which says train or test. Keep one of them." in problem


def test_random_splits_and_a_single_split_are_refused(tmp_path: Path) -> None:
    again = problems(tmp_path / "again", lists(0), lists(0))
    assert any("patient P0 is tested 2 times: by f0.csv (f0.csv, row 2)" in line for line in again)
    assert any("patient P4 is tested by no fold." in line for line in again) and NEVER_OR_TWICE in again[-1]
    single = problems(tmp_path / "single", "patient,split\n" + "".join(
        f"{patient},{part(patient, 0)}\n" for patient in PATIENTS
    ))  # fmt: skip
    assert single[0] == "f.csv: there must be at least two folds, not 1." and NEVER_OR_TWICE in single[-1]


def test_all_mistakes_are_reported_in_one_run_each_once(tmp_path: Path) -> None:
    text = LONG.replace("P3,0", "P3,1").replace("P6,1\n", "") + "Q1,0\nP0,1\n"
    found = problems(tmp_path, text, grouped=True)
    assert len(found) == len(set(found)) == 4, found
    assert found[0] == "f.csv, row 10: patient P0 already has a fold, in row 2."
    assert found[1] == "f.csv, row 9: patient Q1 has no row in t.csv."
    assert found[2] == "f.csv: patient P6 is in no fold."
    assert found[3].startswith("f.csv, row 4: fold 0 tests patient P2 of group g1, but patient P3 of this")


def test_a_group_is_divided_neither_between_test_and_train_nor_between_test_and_val(tmp_path: Path) -> None:
    for other in ("train", "val"):
        text = columns(part).replace("P3,test,train", f"P3,{other},test")
        found = problems(tmp_path / other, text, grouped=True)
        where = "fold_0 tests patient P2 of group g1, but patient P3 of this group is in"
        assert found == [f"f.csv, row 4: {where} {other}, f.csv, row 5. No fold may divide a group."]


def test_repeats_have_the_same_number_of_folds(tmp_path: Path) -> None:
    rows = [f"{p},{n // 4},1\n{p},{n // 4 if n < 6 else 7},2" for n, p in enumerate(PATIENTS)]
    (problem,) = problems(tmp_path, long_table("patient,fold,repeat", rows))
    assert problem == (
        "f.csv: all repeats must have the same number of folds, but repeat 1 has 2, repeat 2 has 3."
    )


def test_mistakes_of_the_table_do_not_hide_those_of_the_folds(tmp_path: Path) -> None:
    path = write(tmp_path, {"f.csv": LONG + "P9,0\n"})
    (tmp_path / "t.csv").write_text(TABLE.replace("P3,1", "P3,7"))
    with pytest.raises(DataError) as caught:
        read_cohort(path, images=False)
    assert len(caught.value.problems) == 2 and "P9 has no row" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('["f.csv", "f.csv"]', "[splits]: folds lists 'f.csv' more than once."),
        ("5", "[splits]: folds must be"),
        ('"gone.csv"', "gone.csv cannot be read"),
        ("[]", "[splits]: folds must be"),
    ],
)
def test_declarations_that_cannot_be_read_are_reported(tmp_path: Path, value: str, expected: str) -> None:
    path = write(tmp_path, {"f.csv": LONG})
    path.write_text(path.read_text().replace('folds = "f.csv"', f"folds = {value}"))
    with pytest.raises(DataError) as caught:
        read_cohort(path, images=False)
    assert expected in str(caught.value)
