"""A study with random attention, its report, and a copy to change."""

import shutil
from pathlib import Path

import pytest
from support.reports import written
from support.studies import Tiny, weighed


@pytest.fixture(scope="package", name="study")
def _study(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with attention drawn at random, since its few epochs do not train any."""
    return weighed(Path(shutil.copytree(tiny.study, tmp_path_factory.mktemp("report") / "study")))


@pytest.fixture(scope="package", name="html")
def _html(study: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its report."""
    return written(study, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(name="copied")
def _copied(study: Path, tmp_path: Path) -> Path:
    """A copy of it, for tests to change."""
    return Path(shutil.copytree(study, tmp_path / "study"))
