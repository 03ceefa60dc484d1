"""Which images are opened to find their colour profiles."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.tiny_images import BAGS, LONG_AGO, draw, run, write_cohort
from support.zoo import ADOBE_COLUMNS, iccp, rgb_profile, write_png

from mil_toolkit.features import profiles
from mil_toolkit.features.colour import needs_conversion
from mil_toolkit.features.extract import Extraction

pytestmark = pytest.mark.usefixtures("built_once")
IMAGES = sum(BAGS.values())
PROFILED = write_png(np.zeros((40, 48, 3), dtype=np.uint8), [iccp(rgb_profile(563 / 256, ADOBE_COLUMNS))])


@pytest.fixture(name="looked")
def _looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were opened since the list was cleared."""
    looked: list[str] = []

    def note(path: Path) -> bool:
        looked.append("/".join(path.parts[-2:]))
        return needs_conversion(path)

    monkeypatch.setattr(profiles, "needs_conversion", note)
    return looked


def colour(extraction: Extraction) -> str | None:
    found: str | None = json.loads((extraction.folder / "spec.json").read_text()).get("colour")
    return found


def looked_at(looked: list[str], toml: Path) -> list[str]:
    looked.clear()
    run(toml)
    return looked


def test_an_image_is_opened_once_until_it_changes(toml: Path, looked: list[str]) -> None:
    """Also where another image of its patient changes, and where its file is only touched."""
    assert len(looked_at(looked, toml)) == IMAGES
    assert looked_at(looked, toml) == []
    draw(toml.parent / "images/P3/2.png", 999)
    write_cohort(toml.parent, BAGS | {"P5": 1})
    assert looked_at(looked, toml) == ["P3/2.png", "P5/0.png"]
    os.utime(toml.parent / "images/P1/0.png", (LONG_AGO + 7, LONG_AGO + 7))
    assert looked_at(looked, toml) == ["P1/0.png"]
    assert looked_at(looked, toml) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"decoder": "pillow", "rows": {"x": "y"}}', '{"rows": {}}'])
def test_a_damaged_file_costs_only_time(toml: Path, looked: list[str], text: str) -> None:
    folder = run(toml).folder
    (folder / profiles.FILE_NAME).write_text(text)
    looked.clear()
    assert run(toml).folder == folder
    assert len(looked) == IMAGES
    assert looked_at(looked, toml) == []


def test_another_decoder_looks_again(toml: Path, looked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(toml)
    monkeypatch.setattr(profiles, "DECODER", "pillow 99")
    assert len(looked_at(looked, toml)) == IMAGES
    assert looked_at(looked, toml) == []


def test_one_image_with_a_profile_is_remembered(toml: Path, looked: list[str]) -> None:
    """As long as it is there, no other image matters."""
    path = toml.parent / "images/P3/1.png"
    path.write_bytes(PROFILED)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert colour(run(toml)) == "srgb"
    assert looked_at(looked, toml) == []
    draw(path, 998)
    assert colour(run(toml)) is None
    assert len(looked) == IMAGES
    assert looked_at(looked, toml) == []


def test_bags_that_nobody_looked_at_are_not_trusted(toml: Path) -> None:
    """A model that ignores profiles fills the same cache."""
    (toml.parent / "images/P3/1.png").write_bytes(PROFILED)
    os.utime(toml.parent / "images/P3/1.png", (LONG_AGO, LONG_AGO))
    assert colour(run(toml, colour=None)) is None
    assert colour(run(toml)) == "srgb"
