"""The window that mil-init proposes where images show one centred nucleus."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawn_smears import Ellipse, draw_smear

from mil_toolkit.cli.init import main
from mil_toolkit.features.crop_proposal import CropProposal, crop_remarks, propose_crop, sample_images

PATIENTS = 10


def write_images(folder: Path, nuclei: list[list[Ellipse]]) -> Path:
    """Write one image with these nuclei for each patient, and a table."""
    for number, several in enumerate(nuclei):
        path = folder / "images" / f"P{number}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(draw_smear(np.random.default_rng(number), several)).save(path)
    rows = [f"P{number},{number % 2}" for number in range(len(nuclei))]
    (folder / "table.csv").write_text("\n".join(["ID,LABEL", *rows]))
    return folder / "images"


def centred(count: int, radius: float = 18) -> list[list[Ellipse]]:
    """Return one nucleus near the centre for each image."""
    return [[Ellipse(80 + number % 3, 80 - number % 4, radius, radius)] for number in range(count)]


def test_a_window_a_quarter_wider_than_the_nuclei_is_proposed(tmp_path: Path) -> None:
    proposal = propose_crop(sample_images([write_images(tmp_path, centred(PATIENTS))]))
    assert proposal is not None
    assert proposal[:2] == (PATIENTS, PATIENTS) and proposal.side == 160
    assert abs(proposal.width - 36) <= 2 and proposal.crop == 48


@pytest.mark.parametrize(
    "nuclei",
    [
        centred(5),
        centred(6) + [[]] * 4,
        centred(6) + [[Ellipse(30, 120, 18, 18)]] * 4,
        [[]] * PATIENTS,
        centred(PATIENTS, radius=55),
    ],
    ids=["too few images", "no nucleus in many", "not centred in many", "none", "nuclei as large as images"],
)
def test_nothing_is_proposed_without_a_small_centred_nucleus_in_most_images(
    tmp_path: Path, nuclei: list[list[Ellipse]]
) -> None:
    assert propose_crop(sample_images([write_images(tmp_path, nuclei)])) is None


def test_the_sample_passes_over_what_is_not_a_readable_image(tmp_path: Path) -> None:
    images = write_images(tmp_path, centred(9))
    (images / "P0" / "a.png").write_bytes(b"not an image")
    (images / "P1" / "notes.txt").touch()
    (images / "stray.png").touch()
    (images / "P9").mkdir()
    sample = sample_images([images, tmp_path / "absent"])
    assert sample == [images / f"P{number}" / "a.png" for number in range(9)]
    proposal = propose_crop(sample)
    assert proposal is not None and proposal.images == 8


def test_the_sample_is_spread_over_the_patients(tmp_path: Path) -> None:
    for number in range(200):
        for name in "abc":
            path = tmp_path / f"P{number:03}" / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            path.touch()
    sample = sample_images([tmp_path])
    assert len(sample) == 48 and {path.name for path in sample} == {"b.png"}
    assert sample[0].parent.name == "P000" and sample[-1].parent.name == "P199"


def test_mil_init_proposes_the_window_in_comments(tmp_path: Path) -> None:
    images = write_images(tmp_path, centred(PATIENTS))
    assert main([str(tmp_path / "table.csv"), str(images), "--output", str(tmp_path / "cohort.toml")]) == 0
    lines = (tmp_path / "cohort.toml").read_text().splitlines()[-4:]
    assert all(line.startswith("# ") for line in lines)
    assert "10 of 10 sampled images show a nucleus at their centre." in lines[0]
    assert lines[3].endswith("--preprocess cell-crop --crop 48 --dry-run --contact-sheet windows.png")


def test_nothing_proposed_adds_no_line() -> None:
    assert crop_remarks(None, Path("cohort.toml")) == []
    lines = crop_remarks(CropProposal(48, 47, 62, 224, 80), Path("my data/cohort.toml"))
    assert lines[-1].startswith("# mil-extract 'my data/cohort.toml' --preprocess cell-crop --crop 80 ")
