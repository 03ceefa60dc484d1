"""Runs commands on image folders, image tables and classes that are not as declared.

What they say is compared with tests/bad_inputs.md.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from support.bad_inputs import check_section
from support.cohort_files import touch
from support.commands import Command

from mil_toolkit.backbones import backbones
from mil_toolkit.backbones.backbones import build_backbone

TABLE = "ID,diagnosis\nP1,CLL\nP2,reactive\nP3,CLL\n"
FOLDERS = 'images = ["images"]'
LABELS = 'positive = "CLL"\nnegative = "reactive"'
GOOD = [f"P{number},images/P{number}/a.png" for number in (1, 2, 3)]
EXTRACT = (
    "--backbone",
    "resnet18",
    "--weights",
    "random",
    "--image-size",
    32,
    "--device",
    "cpu",
    "--dry-run",
)


def cohort(labels: str = LABELS, images: str = FOLDERS) -> None:
    """A cohort of three patients in the working folder."""
    for number in (1, 2, 3):
        touch(Path(f"images/P{number}/a.png"))
    Path("table.csv").write_text(TABLE)
    declared = f'name = "c"\ntable = "table.csv"\n{images}\nid = "ID"\nlabel = "diagnosis"\n{labels}\n'
    Path("cohort.toml").write_text(f"[cohort]\n{declared}")


def with_file(path: str) -> Callable[[], None]:
    def make() -> None:
        cohort()
        touch(Path(path))

    return make


def with_table(*rows: str) -> Callable[[], None]:
    def make() -> None:
        cohort(images='image_table = "images.csv"')
        Path("images.csv").write_text("\n".join(["patient,path", *rows]) + "\n")

    return make


def with_labels(labels: str, more: str = "") -> Callable[[], None]:
    def make() -> None:
        cohort(labels)
        Path("table.csv").write_text(TABLE + more)

    return make


def sorted_by_class() -> None:
    cohort()
    for number, name in enumerate(("CLL", "reactive", "CLL"), 1):
        Path("images", name).mkdir(exist_ok=True)
        Path(f"images/P{number}").rename(f"images/{name}/P{number}")


CASES: list[tuple[str, Callable[[], None]]] = [
    ("folders of classes above the patients' folders", sorted_by_class),
    ("a system folder beside the patients' folders", with_file("images/__MACOSX/P1/a.png")),
    ("a system folder below a patient's folder", with_file("images/P1/@eaDir/a.png")),
    ("a folder below a patient's folder", with_file("images/P1/old/a.png")),
    ("a hidden file with an image extension", with_file("images/P1/._a.jpg")),
    ("a folder without a row", with_file("images/P4/a.png")),
    ("backslashes in an image table", with_table(*(row.replace("/", "\\") for row in GOOD))),
    ("backslashes in an image table, of another machine", with_table(*GOOD, r"P1,C:\images\b.png")),
    ("a file listed twice in an image table", with_table(*GOOD, "P1,./images/../images/P1/a.png")),
    ("a file of two patients in an image table", with_table(*GOOD, "P2,images/P1/a.png")),
    ("a hidden file in an image table", with_table(*GOOD, "P2,images/P1/._a.png")),
    ("a class without a declared word", with_labels(LABELS, "P4,HCL\n")),
    ("the same, with `exclude`", with_labels(f'{LABELS}\nexclude = ["HCL"]', "P4,HCL\n")),
    ("a word in two lists", with_labels('positive = ["CLL", "MCL"]\nnegative = ["reactive", "MCL"]')),
    ("`exclude` that leaves out one row of a patient", with_labels(f'{LABELS}\nexclude = "HCL"', "P1,HCL\n")),
    (
        "`exclude` that leaves out every row",
        with_labels('positive = 1\nnegative = 0\nexclude = ["CLL", "reactive"]'),
    ),
]


def test_the_table_of_folders_and_classes_is_up_to_date(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "build_backbone", functools.cache(build_backbone))
    rows = []
    for number, (description, make) in enumerate(CASES):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        make()
        done = command("extract", "cohort.toml", *EXTRACT)
        assert "Traceback" not in done.err
        rows.append((description, str(done.code), done.err.splitlines()[0].removeprefix("mil-extract: ")))
    monkeypatch.chdir(tmp_path / "0")
    drafted = command("init", "table.csv", "images", "--output", "draft.toml")
    rows.append(
        ("mil-init: folders of classes", str(drafted.code), drafted.err.removeprefix("mil-init: ").strip())
    )
    text = (
        "One run reports all of them with the other faults of the cohort; here is the first line of stderr."
    )
    check_section(
        "Image folders, image tables and classes", text, ("input", "exit code", "first message"), rows
    )
