"""Which outcome mil-init proposes, and what it says about other readings."""

from pathlib import Path
from typing import Any

import pytest
from support.drafts import draft, flagged

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.draft import Draft
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.survival import Survival

COLUMNS = {
    "AGE": "41 52 63 74 45 56 67 78 49 50 61 72",
    "DAYS": "30 700 365 90 1200 15 400 800 60 610 20 900",
    "DEAD": "1 0 1 1 0 1 0 1 1 0 1 0",
    "WORDS": "AML ALL CML AML ALL CML AML ALL CML AML ALL AML",
    "DECIMAL": "1.5 22.25 3 40.5 5.5 60.1 7 80.9 9.2 10.4 11.3 12.8",
    "YES": "yes no yes no no yes yes no no yes no yes",
    "ONE_TWO": "2 1 2 2 1 2 1 2 2 1 2 1",
    "GRADE": "10 2 1 2 1 10 2 2 1 1 10 2",
    "DATE": "2020-01-03 2020-02-04 2020-01-03 2021-03-05 2020-01-03 2021-03-05 " * 2,
    "SEX": "M F M F M F M F M F M F",
    "SPELLED": "aml AML ALL aml CML aml ALL CML 01 1 All AML",
}


def drafted_of(folder: Path, headers: str) -> tuple[Draft, dict[str, Any]]:
    """The draft of a table, and what its TOML says; headers: `HEADER=COLUMN`, or only `COLUMN`."""
    named = [header.partition("=") for header in headers.split()]
    cells = [COLUMNS[column or header].split() for header, _, column in named]
    rows = [[f"P{number}", *row] for number, row in enumerate(zip(*cells, strict=True), 1)]
    table = [["ID", *(header for header, _, _ in named)], *rows]
    text = "\n".join(",".join(row) for row in table)
    return draft(folder, text, " ".join(row[0] for row in rows))


def inputs(document: dict[str, Any]) -> set[str]:
    return {section["column"] for section in document.get("metadata", {}).values()}


@pytest.mark.parametrize("header", ["DIAGNOSIS", "Label", "class", "SUBTYPE", "Entität"])
def test_three_words_are_classes(tmp_path: Path, header: str) -> None:
    drafted, document = drafted_of(tmp_path, f"AGE {header}=WORDS")
    assert drafted.problems == () and inputs(document) == {"AGE"}
    assert read_cohort(drafted.output).outcome == Classes(header, classes=("ALL", "AML", "CML"))
    assert flagged(
        drafted, rf"{header} is taken as the label of 3 classes \(rows: 'ALL' 4, 'AML' 5, 'CML' 3\)"
    )
    assert not flagged(drafted, "although its name does not suggest it")
    assert flagged(drafted, "fewer than 10 rows have 'ALL', 'AML', 'CML'. Every fold needs each class")


def test_whole_numbers_are_classes_in_their_order_and_perhaps_a_target(tmp_path: Path) -> None:
    drafted, document = drafted_of(tmp_path, "TARGET=GRADE")
    assert document["cohort"]["classes"] == [1, 2, 10] and drafted.problems == ()
    assert flagged(drafted, "If they measure something, declare target")
    assert "# ordered = true" in drafted.output.read_text()


@pytest.mark.parametrize(
    ("cells", "classes", "unlabelled"),
    [
        ("a b c a ? b c unknown a b c a", ("a", "b", "c"), ("?", "unknown")),
        ("1 2 3 -1 1 2 3 -1 1.0 2.0 3.0 1", (1, 2, 3), (-1,)),
        ("I II III I II III IV IV I II III I", ("I", "II", "III", "IV"), None),
    ],
)
def test_unknown_classes_are_unlabelled(
    tmp_path: Path, cells: str, classes: tuple[str, ...], unlabelled: tuple[str, ...] | None
) -> None:
    drafted, _ = draft(
        tmp_path,
        "\n".join(["ID,CLASS", *(f"P{i},{cell}" for i, cell in enumerate(cells.split(), 1))]),
        " ".join(f"P{i}" for i in range(1, 13)),
    )
    assert drafted.problems == ()
    outcome = read_cohort(drafted.output).outcome
    assert outcome == Classes("CLASS", classes=classes, unlabelled=unlabelled)


def test_spellings_of_one_class_become_its_words(tmp_path: Path) -> None:
    drafted, document = drafted_of(tmp_path, "DIAGNOSIS=SPELLED")
    assert drafted.problems == ()
    assert document["cohort"]["classes"] == {
        "01": [1],
        "ALL": ["ALL", "All"],
        "aml": ["aml", "AML"],
        "CML": ["CML"],
    }
    assert flagged(drafted, "'aml', 'AML' are taken as the same class")
    assert read_cohort(drafted.output).labels.tolist() == [2, 2, 1, 2, 3, 2, 1, 3, 0, 0, 1, 2]


@pytest.mark.parametrize("headers", ["AGE TARGET=DECIMAL", "BLASTS=DECIMAL AGE", "Ziel=DECIMAL SEX"])
def test_a_column_of_decimals_is_a_target(tmp_path: Path, headers: str) -> None:
    drafted, document = drafted_of(tmp_path, headers)
    (target,) = (header.split("=")[0] for header in headers.split() if "DECIMAL" in header)
    assert drafted.problems == () and read_cohort(drafted.output).outcome == Number(target)
    assert target not in inputs(document) and flagged(drafted, f"{target} is taken as the number to predict")


def test_whole_numbers_too_many_for_classes_are_a_target(tmp_path: Path) -> None:
    rows = [f"P{row},{37 * row % 101},{40 + row},{'yes' if row % 2 else 'no'}" for row in range(1, 31)]
    patients = " ".join(f"P{row}" for row in range(1, 31))
    table = "\n".join(["ID,TARGET,AGE_AT_DIAGNOSIS,HILL", *rows])
    drafted, document = draft(tmp_path, table, patients)
    assert drafted.problems == () and document["cohort"]["target"] == "TARGET"
    assert inputs(document) == {"HILL"}
    assert flagged(drafted, "AGE_AT_DIAGNOSIS is left out: .* TARGET is taken as the number to predict")
    assert flagged(drafted, r'declared by label = "HILL" \(two classes\)')


def test_decimal_commas_of_a_target_are_declared(tmp_path: Path) -> None:
    cells = COLUMNS["DECIMAL"].replace(".", ",")
    rows = "\n".join(f"P{i};{cell}" for i, cell in enumerate(cells.split(), 1))
    drafted, document = draft(tmp_path, f"ID;TARGET\n{rows}", " ".join(f"P{i}" for i in range(1, 13)))
    assert drafted.problems == () and document["cohort"]["decimal"] == ","
    assert flagged(drafted, "commas are taken as decimal commas, .*'1,5'")
    assert read_cohort(drafted.output).labels[:3].tolist() == [1.5, 22.25, 3.0]


@pytest.mark.parametrize(
    "headers",
    [
        "AGE TIME=DAYS EVENT=DEAD",
        "OS_DAYS=DAYS DEAD AGE",
        "Überlebenszeit=DAYS verstorben=DEAD AGE",
        "AGE lenfol=DAYS fstat=DEAD",
        "months=DECIMAL status=DEAD AGE",
        "DEAD AGE FOLLOW-UP=DAYS",
        "T=DAYS E=DEAD AGE",
    ],
)
def test_a_time_and_an_event_are_survival(tmp_path: Path, headers: str) -> None:
    drafted, document = drafted_of(tmp_path, headers)
    outcome = read_cohort(drafted.output).outcome
    assert drafted.problems == () and isinstance(outcome, Survival)
    assert inputs(document) == {"AGE"} and outcome.horizon in (60, 11.3)
    assert flagged(drafted, "are taken as time and event of survival")
    assert flagged(drafted, "Proposed: the median time of the events")


def test_patients_without_time_and_event_are_unlabelled(tmp_path: Path) -> None:
    table = "\n".join(
        ["ID;OS;DEAD"]
        + [f"P{row};{str(row / 2).replace('.', ',')};{row % 2}" for row in range(1, 11)]
        + ["P11;;", "P12;-1;-1"]
    )
    drafted, _ = draft(tmp_path, table, " ".join(f"P{row}" for row in range(1, 13)))
    assert drafted.problems == ()
    cohort = read_cohort(drafted.output)
    assert cohort.outcome.known(cohort.labels).tolist() == [True] * 10 + [False] * 2


@pytest.mark.parametrize(
    ("times", "events", "horizon"),
    [
        ("0 0 0 5 8 9", "1 1 1 1 0 1", 5),
        ("-5 -5 5 6 8 9", "1 1 0 0 1 0", 8),
        ("1e999 1e999 5 8 9 7", "1 1 0 1 0 0", 8),
        ("NA NA 5 8 9 7", "1 1 0 0 0 0", None),
        ("0 1e999 5 8 9 7", "1 1 0 0 0 0", None),
    ],
)
def test_the_horizon_is_a_time_of_an_event_that_can_be_used(
    tmp_path: Path, times: str, events: str, horizon: int | None
) -> None:
    rows = enumerate(zip(times.split(), events.split(), strict=True), 1)
    table = "\n".join(["ID,TIME,EVENT", *(f"P{row},{time},{event}" for row, (time, event) in rows)])
    drafted, document = draft(tmp_path, table, " ".join(f"P{row}" for row in range(1, 7)))
    assert document["cohort"]["time"] == "TIME" and document["cohort"].get("horizon") == horizon
    assert flagged(drafted, "no event has a time above 0. State the horizon") == (horizon is None)
    assert ("# horizon = ..." in drafted.output.read_text()) == (horizon is None)


def test_a_header_that_speaks_of_censoring_is_flagged(tmp_path: Path) -> None:
    drafted, _ = drafted_of(tmp_path, "TIME=DAYS CENSORED=DEAD")
    assert flagged(drafted, "does CENSORED 1 mean censored")


def test_of_two_times_and_events_those_that_share_a_word_belong_together(tmp_path: Path) -> None:
    drafted, document = drafted_of(tmp_path, "PFS_DAYS=DECIMAL OS_DAYS=DAYS OS_EVENT=DEAD PFS_EVENT=DEAD AGE")
    assert (document["cohort"]["time"], document["cohort"]["event"]) == ("OS_DAYS", "OS_EVENT")
    assert flagged(drafted, r'declared by time = "PFS_DAYS" and event = "PFS_EVENT" \(survival\)')
    assert flagged(drafted, "PFS_EVENT is left out") and inputs(document) == {"AGE"}


@pytest.mark.parametrize(
    ("headers", "taken", "others"),
    [
        ("LABEL=DEAD OS=DAYS DEATH=DEAD GRADE", "label", ["OS", "GRADE"]),
        ("DIAGNOSIS=WORDS TARGET=DECIMAL TIME=DAYS EVENT=DEAD", "classes", ["TARGET", "TIME"]),
        ("HILL=YES STAGE=WORDS", "label", ["STAGE"]),
        ("SMOKER=YES SUBTYPE=WORDS", "classes", ["SMOKER"]),
    ],
)
def test_other_candidates_are_listed(tmp_path: Path, headers: str, taken: str, others: list[str]) -> None:
    drafted, document = drafted_of(tmp_path, headers)
    assert taken in document["cohort"] and drafted.problems == ()
    for name in others:
        assert flagged(drafted, rf'another outcome is possible; .* = "{name}"')
    assert not {"OS", "DEATH", "TIME", "EVENT", "TARGET"} & inputs(document)


def forty_rows(folder: Path, header: str, odd: str) -> tuple[Draft, dict[str, Any]]:
    """The draft of 40 rows, five of which have this odd number in the first column and 1 in the second."""
    numbers = [odd if row % 8 == 0 else f"{row}.5" for row in range(1, 41)]
    rows = [f"P{row},{number},{int(row % 4 == 0)}" for row, number in enumerate(numbers, 1)]
    return draft(folder, "\n".join([f"ID,{header}", *rows]), " ".join(f"P{row}" for row in range(1, 41)))


@pytest.mark.parametrize("header", ["TARGET,AGE", "TIME,DEAD"])
@pytest.mark.parametrize("odd", ["-999", "9999"])
def test_placeholders_in_an_outcome_are_flagged(tmp_path: Path, header: str, odd: str) -> None:
    drafted, document = forty_rows(tmp_path, header, odd)
    name = header.partition(",")[0]
    assert document["cohort"][name.lower()] == name
    assert flagged(drafted, f"^{name}: 5 cells perhaps standing for a missing value: '{odd}' .row 9")


@pytest.mark.parametrize("odd", ["-999", "9999"])
def test_placeholders_in_a_target_are_warned_of_when_it_is_read(
    tmp_path: Path, odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    drafted, _ = forty_rows(tmp_path, "TARGET,SMOKER", odd)
    read_cohort(drafted.output)
    (message,) = caplog.messages
    assert f"TARGET: 5 cells perhaps standing for a missing value: '{odd}' (row 9 (patient P8))" in message
    text = drafted.output.read_text().replace('target = "TARGET"', f'target = "TARGET"\nunlabelled = {odd}')
    drafted.output.write_text(text)
    caplog.clear()
    read_cohort(drafted.output)
    assert caplog.messages == []


def test_placeholders_in_a_time_are_warned_of_when_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drafted, _ = forty_rows(tmp_path, "TIME,DEAD", "9999")
    read_cohort(drafted.output)
    assert any(
        "TIME: 5 cells perhaps standing for a missing value: '9999'" in line for line in caplog.messages
    )


@pytest.mark.parametrize("header", ["TARGET,AGE", "TIME,DEAD"])
def test_a_point_that_may_separate_thousands_in_an_outcome_is_flagged(tmp_path: Path, header: str) -> None:
    rows = [f"P{row},{row}.{100 + row},{row % 2}" for row in range(1, 9)]
    patients = " ".join(f"P{row}" for row in range(1, 9))
    drafted, document = draft(tmp_path, "\n".join([f"ID,{header}", *rows]), patients)
    assert set(document["cohort"]) & {"target", "time"}
    expected = "every cell with a point has three digits behind it: '1.101' is read as 1.101, but is 1101"
    assert flagged(drafted, f"^{header.partition(',')[0]}: {expected}")


@pytest.mark.parametrize(
    ("headers", "taken", "kept"),
    [
        ("SMOKING_STATUS=DEAD PROTHROMBIN_TIME=DECIMAL AGE", "label", {"PROTHROMBIN_TIME", "AGE"}),
        ("SMOKING_STATUS=DEAD Gerinnungszeit=DECIMAL AGE", "label", {"Gerinnungszeit", "AGE"}),
        ("DIAGNOSIS=YES DEATH=DEAD PROTHROMBIN_TIME=DECIMAL", "label", {"PROTHROMBIN_TIME"}),
        (
            "SUBTYPE=WORDS SMOKING_STATUS=DEAD FOLLOW_UP_DAYS=DAYS AGE",
            "classes",
            {"SMOKING_STATUS", "FOLLOW_UP_DAYS", "AGE"},
        ),
        ("DIAGNOSIS=YES RENAL_FAILURE=DEAD DAYS AGE", "label", {"RENAL_FAILURE", "DAYS", "AGE"}),
        ("DIAGNOSIS=YES DEATH=DEAD DAYS AGE", "label", {"AGE"}),
        ("STATUS=DEAD FOLLOW_UP=DAYS AGE", "time", {"AGE"}),
        ("OS_STATUS=DEAD OS_TIME=DAYS AGE", "time", {"AGE"}),
        ("STATUS=DEAD TIME=DAYS AGE", "time", {"AGE"}),
        ("DEATH=DEAD TIME_TO_DEATH=DAYS PROTHROMBIN_TIME=DECIMAL", "time", {"PROTHROMBIN_TIME"}),
    ],
)
def test_a_status_and_a_measured_time_are_survival_only_if_their_names_say_so(
    tmp_path: Path, headers: str, taken: str, kept: set[str]
) -> None:
    drafted, document = drafted_of(tmp_path, headers)
    assert taken in document["cohort"] and drafted.problems == ()
    assert inputs(document) == kept


@pytest.mark.parametrize(
    ("headers", "left_out", "event"),
    [
        ("DIED=YES DAYS AGE", ["DAYS"], "DIED"),
        ("STATUS=ONE_TWO TIME=DAYS AGE", ["TIME"], "STATUS"),
        ("DIAGNOSIS=WORDS STATUS=ONE_TWO TIME=DAYS AGE", ["TIME", "STATUS"], "STATUS"),
        ("DIAGNOSIS=WORDS DEATH=YES OS=DAYS AGE", ["DEATH", "OS"], "DEATH"),
        ("DIAGNOSIS=WORDS DEATH=DEAD AGE", ["DEATH"], None),
        ("DIAGNOSIS=WORDS OS_EVENT=YES AGE", ["OS_EVENT"], None),
        ("DEATH=YES OS=DAYS PFS=DECIMAL AGE", ["OS", "PFS"], "DEATH"),
        ("DEATH=DEAD OS=DAYS PFS=DECIMAL AGE", ["PFS"], None),
    ],
)
def test_times_and_events_are_not_metadata_however_the_event_is_written(
    tmp_path: Path, headers: str, left_out: list[str], event: str | None
) -> None:
    drafted, document = drafted_of(tmp_path, headers)
    assert drafted.problems == () and inputs(document) == {"AGE"}
    assert all(flagged(drafted, f"^{name} is left out: .* the model must not see") for name in left_out)
    assert flagged(drafted, f"for survival, write 1 and 0 in {event}") == (event is not None)


@pytest.mark.parametrize("headers", ["A=WORDS B=WORDS", "BLOOD_GROUP=WORDS SEX WBC=DECIMAL"])
def test_three_words_without_a_name_are_metadata_and_perhaps_an_outcome(tmp_path: Path, headers: str) -> None:
    drafted, document = drafted_of(tmp_path, headers)
    names = [header.partition("=")[0] for header in headers.split()]
    assert not {"label", "classes", "target"} & set(document["cohort"]) and drafted.problems == ()
    assert inputs(document) == set(names) and "splits" not in document
    assert flagged(drafted, "no column looks like a label")
    assert flagged(drafted, rf'another outcome is possible; .*label = "{names[0]}" \(several classes\)')


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ("AGE_AT_DIAGNOSIS=DECIMAL AGE", {"AGE"}),
        ("DATE_OF_DIAGNOSIS=DATE AGE", {"AGE"}),
        ("AGE WBC=DECIMAL", {"AGE", "WBC"}),
        ("TIME=DAYS AGE", {"TIME", "AGE"}),
        ("YEAR_OF_DIAGNOSIS=DECIMAL AGE", {"AGE"}),
        ("BIRTH=DATE AGE", {"AGE", "BIRTH"}),
    ],
)
def test_ages_dates_and_measurements_are_no_outcomes(tmp_path: Path, headers: str, kept: set[str]) -> None:
    drafted, document = drafted_of(tmp_path, headers)
    assert flagged(drafted, "no column looks like a label") and drafted.problems == ()
    assert inputs(document) == kept
    assert ('# target = "WBC"' in drafted.output.read_text()) == ("WBC" in headers)
