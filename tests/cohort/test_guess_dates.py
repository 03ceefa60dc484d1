"""Which date formats and references mil-init guesses."""

import os
import tomllib
from datetime import date
from pathlib import Path

import pytest
from support.drafts import draft, flagged, with_column, write_data

from mil_toolkit.cohort.draft import draft_cohort


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
        ("5/15/1942 1/22/1950 3-4-1960 30-4-1970", ["%m/%d/%Y", "%d-%m-%Y"], "DOB is written in 2 formats"),
        (
            "5/15/1942 15/5/1950 16/5/1950 17/5/1950",
            ["%d/%m/%Y"],
            "1 cell does not fit %d/%m/%Y, for example '5/15/1942'",
        ),
    ],
)
def test_date_formats_are_guessed(tmp_path: Path, cells: str, formats: list[str], doubt: str | None) -> None:
    drafted, document = draft(tmp_path, with_column("DOB", *cells.split()))
    assert document["metadata"]["age"]["formats"] == formats
    assert document["splits"]["stratify"] == ["label"]
    about_formats = [
        doubt for doubt in drafted.doubts if doubt.startswith("DOB") and "reference" not in doubt
    ]
    assert len(about_formats) == (doubt is not None)
    assert doubt is None or doubt in about_formats[0]
    assert bool(drafted.problems) == (doubt is not None and "does not fit" in doubt)


def test_the_proposed_reference_is_the_day_of_the_table_or_the_last_birth(tmp_path: Path) -> None:
    rows = with_column("DOB", "1942-05-15", "1950-01-02", "1960-02-03", "2019-03-04")
    path, images = write_data(tmp_path, rows)
    for written, expected in ((date(2021, 6, 1), date(2021, 6, 1)), (date(1990, 1, 1), date(2019, 3, 4))):
        noon = (written - date(1970, 1, 1)).days * 86400 + 43200
        os.utime(path, (noon, noon))
        output = tmp_path / f"{written}.toml"
        drafted = draft_cohort(path, [images], output)
        assert tomllib.loads(output.read_text())["metadata"]["age"]["reference"] == expected
        assert flagged(drafted, "DOB becomes the age at the reference")
        assert drafted.problems == ()
