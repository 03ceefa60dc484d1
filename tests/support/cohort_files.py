"""A small cohort as files, and the problems of reading it."""

from pathlib import Path

import pytest

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.errors import DataError

TABLE = """\
,ID,LABEL,GENDER,DOB,LYMPH_COUNT,HOSPITAL
0,P1,1,M,5/15/1942,12.8,Lyon
1,P2,0, f ,15-05-1952,4,Lyon
2,P3,-1,?,1/2/1960,n/a,Nice
"""


TOML = """\
[cohort]
name = "tiny"
table = "table.csv"
images = ["images"]
id = "ID"
label = "LABEL"
positive = 1
negative = 0
unlabelled = -1
group = "HOSPITAL"

[metadata.age]
column = "DOB"
kind = "birth-date"
formats = ["%m/%d/%Y", "%d-%m-%Y"]
reference = 2020-12-31

[metadata.sex]
column = "GENDER"
kind = "category"

[metadata.count]
column = "LYMPH_COUNT"
kind = "number"
transform = "log"
unit = "10^9/L"

[splits]
stratify = ["label", "age"]
"""


def write(folder: Path, table: str = TABLE, toml: str = TOML, patients: str = "P1 P2 P3") -> Path:
    """A cohort with two (empty) images per patient; reading never opens an image."""
    (folder / "table.csv").write_text(table, encoding="utf-8")
    (folder / "cohort.toml").write_text(toml, encoding="utf-8")
    for patient in patients.split():
        for name in ("b.JPG", "a.png"):
            touch(folder / "images" / patient / name)
    return folder / "cohort.toml"


def touch(path: Path) -> Path:
    """An empty file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def problems(path: Path, images: bool = True) -> list[str]:
    """The problems that reading a cohort ends with."""
    with pytest.raises(DataError) as caught:
        read_cohort(path, images)
    return caught.value.problems


def only_problem(path: Path, images: bool = True) -> str:
    """The one problem that reading a cohort ends with."""
    found = problems(path, images)
    assert len(found) == 1, found
    return found[0]
