"""A tiny cohort of images, and a backbone that is built once for all tests."""

from pathlib import Path

import pytest
from support.tiny_images import BAGS, backbone, write_cohort

from mil_toolkit.backbones import backbones


@pytest.fixture(name="built_once")
def _built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "build_backbone", backbone)


@pytest.fixture(name="toml")
def _toml(tmp_path: Path) -> Path:
    """The cohort.toml of the tiny cohort."""
    return write_cohort(tmp_path / "cohort", BAGS)
