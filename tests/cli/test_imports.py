"""What commands import, and which files they open, where they have nothing to do."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from support.studies import Tiny
from support.tiny_images import BAGS, draw, write_cohort

from mil_toolkit.cli.extract import main as extract

COMMANDS = ("ablate", "cache", "demo", "extract", "fit", "init", "predict", "report", "tune", "validate")
HEAVY = ("torch", "pandas", "numpy", "sklearn", "scipy", "optuna", "h5py", "matplotlib", "PIL", "timm")
COMPILER, VISION, OPTIMIZER = "torch._dynamo", "torchvision", "scipy.optimize"
# Prints, as the last line, the exit code, the imported modules and the files opened below the working folder.
PROGRAM = """
import importlib, json, os, sys
opened = []
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and os.path.abspath(arguments[0]).startswith(here):
        opened.append(os.path.relpath(arguments[0], here))
here = os.getcwd() + "/"
sys.addaudithook(note)
try:
    code = importlib.import_module(f"mil_toolkit.cli.{sys.argv[1]}").main(sys.argv[2:])
except SystemExit as error:
    code = error.code
print()
print(json.dumps([code, [*sys.modules], opened]))
"""


class Seen(NamedTuple):
    """What a command did: the heavy modules that it imported, and the files that it opened."""

    modules: set[str]
    opened: list[str]


def watch(folder: Path, *arguments: str) -> Seen:
    """Run a command in a process of its own, in this folder."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    code, modules, opened = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, None), done.stderr
    return Seen({*modules} & {*HEAVY, COMPILER, VISION, OPTIMIZER}, opened)


def images_of(opened: Sequence[str]) -> list[str]:
    return sorted(path for path in opened if path.endswith(".png"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    assert not watch(tmp_path, command, "--help").modules


def test_the_version_imports_nothing_heavy() -> None:
    program = "import sys, mil_toolkit; mil_toolkit.__version__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {*done.stdout.split()} & {*HEAVY}


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort whose images are all embedded."""
    folder = tmp_path_factory.mktemp("place")
    write_cohort(folder, BAGS)
    with contextlib.chdir(folder):
        assert extract(EXTRACT[1:]) == 0
    return folder


EXTRACT = ("extract", "cohort.toml", "--backbone", "resnet18", "--weights", "random", "--image-size", "32")


def test_an_extraction_with_nothing_to_do_imports_no_torch_and_opens_no_image(place: Path) -> None:
    seen = watch(place, *EXTRACT)
    assert seen.modules <= {"pandas", "numpy", "PIL"}
    assert not images_of(seen.opened)


def test_only_new_and_changed_images_are_opened(place: Path) -> None:
    """Also those of a patient whose other images are known."""
    draw(place / "images/P3/1.png", 77)
    draw(place / "images/P9/0.png", 78)
    write_cohort(place, BAGS | {"P9": 1})
    seen = watch(place, *EXTRACT)
    assert {*images_of(seen.opened)} == {"images/P3/1.png", "images/P9/0.png"}
    assert "torch" in seen.modules
    assert not images_of(watch(place, *EXTRACT).opened)


def test_a_cache_is_described_and_verified_without_torch(place: Path) -> None:
    folder = next((place / "cache/c").iterdir()).relative_to(place)
    for action in ("info", "verify"):
        assert watch(place, "cache", action, str(folder)).modules <= {"numpy", "PIL"}


def test_a_report_that_is_up_to_date_imports_neither_pandas_nor_matplotlib(
    tiny: Tiny, tmp_path: Path
) -> None:
    arguments = ("report", str(tiny.study), "--output", "report.html")
    assert not watch(tmp_path, *arguments).modules & {"torch", VISION, "timm", "h5py"}
    assert watch(tmp_path, *arguments).modules <= {"numpy", "PIL"}


@pytest.mark.parametrize("given", [True, False])
def test_a_prediction_imports_neither_backbones_nor_optuna(tiny: Tiny, tmp_path: Path, given: bool) -> None:
    """With features that are named, and with those that mil-predict finds in the cache."""
    shutil.copytree(tiny.folder / "cache", tmp_path / "cache")
    features = ["--features", str(tiny.features)] if given else []
    seen = watch(tmp_path, "predict", str(tiny.bundle), str(tiny.cohort_toml), *features)
    assert "torch" in seen.modules
    unwanted = {VISION, COMPILER, OPTIMIZER, "timm", "sklearn", "optuna", "matplotlib", "h5py"}
    assert not seen.modules & unwanted
