"""A study with random attention, a study with hostile names, their reports, and a copy to change."""

import shutil
from pathlib import Path

import pytest
from support.studies import HostileStudy, Tiny, hostile_study, weighed

from mil_toolkit.report.page import write_report


@pytest.fixture(scope="package", name="study")
def _study(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with attention drawn at random, since its few epochs do not train any."""
    return weighed(Path(shutil.copytree(tiny.study, tmp_path_factory.mktemp("report") / "study")))


@pytest.fixture(scope="package", name="report")
def _report(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    return write_report(study, tmp_path_factory.mktemp("report") / "report.html").path


@pytest.fixture(scope="package", name="html")
def _html(report: Path) -> str:
    """The content of its report."""
    return report.read_text()


@pytest.fixture(scope="package", name="hostile_study")
def _hostile_study(tmp_path_factory: pytest.TempPathFactory) -> HostileStudy:
    """A study with names that need escaping; tests only read it."""
    return hostile_study(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="package", name="hostile")
def _hostile(hostile_study: HostileStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    return write_report(hostile_study.study, tmp_path_factory.mktemp("hostile") / "report.html").path


@pytest.fixture(name="copied")
def _copied(study: Path, tmp_path: Path) -> Path:
    """A copy of it, for tests to change."""
    return Path(shutil.copytree(study, tmp_path / "study"))


@pytest.fixture(scope="package", name="patient_page")
def _patient_page(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one patient in a folder with a hostile name, with saliency."""
    from mil_toolkit.cli.predict import main

    folder = tmp_path_factory.mktemp("patient")
    images = folder / "<script>alert(1)<"
    shutil.copytree(tiny.cohort_toml.parent / "images" / "P003", images)
    values = [word for value in ("age=67", "sex=F", "lymphocyte_count=999") for word in ("--set", value)]
    page = folder / "page.html"
    words = [str(tiny.bundle), "--images", str(images), *values, "--page", str(page), "--saliency"]
    assert main(words) == 0
    return page
