"""The contact sheet: what it shows, what it counts, and which files it replaces."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawn_smears import Ellipse, draw_smear
from support.tiny_images import backbone

from mil_toolkit.backbones import backbones
from mil_toolkit.cli.extract import _parse_crop, main
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig, Sampling
from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features import contact_sheet
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import check_options
from mil_toolkit.features.loading import load_batches
from mil_toolkit.features.plan import Wanted, wanted_images
from mil_toolkit.features.sights import Sight, choose_doubtful

ARGUMENTS = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--device", "cpu"]
SMEARS = {
    "P1": [[Ellipse(50, 48, 12, 11)], [Ellipse(46, 51, 11, 11)], [Ellipse(47, 45, 12, 12)]],
    "P2": [[Ellipse(48, 48, 10, 10), Ellipse(20, 20, 10, 10)], []],
    "P3": [[Ellipse(1, 48, 14, 13)]],
}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of six smears: one nucleus in three, several in one, none in one, a cut one in one."""
    folder = tmp_path_factory.mktemp("smears")
    for patient, smears in SMEARS.items():
        (folder / "images" / patient).mkdir(parents=True)
        for number, nuclei in enumerate(smears):
            pixels = draw_smear(np.random.default_rng(number), nuclei, (96, 96))
            Image.fromarray(pixels).save(folder / "images" / patient / f"{number}.png")
    (folder / "table.csv").write_text("ID,LABEL\nP1,1\nP2,0\nP3,1\n")
    text = '[cohort]\nname = "c"\ntable = "table.csv"\nimages = ["images"]\nid = "ID"\nlabel = "LABEL"\n'
    (folder / "cohort.toml").write_text(text + "positive = 1\nnegative = 0\n")
    return folder


@pytest.fixture(autouse=True)
def _built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "build_backbone", backbone)


@pytest.fixture
def toml(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "cohort")) / "cohort.toml"


def command(toml: Path, *more: str) -> int:
    """Run mil-extract on the smears."""
    return main([str(toml), *ARGUMENTS, "--cache", str(toml.parents[1] / "cache"), *more])


CELLS = ["--preprocess", "cell-crop", "--crop", "40"]
COUNTS = {"one": 3, "several": 1, "cut": 1, "none": 1}


def test_nuclei_are_counted_where_images_are_embedded(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the summary and in the JSON; images that are in the cache already are not searched again."""
    assert command(toml, *CELLS, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["nuclei"] == COUNTS
    line = "6 images: one nucleus in 3, several in 1, one that the border cuts in 1, none in 1."
    assert err.count(f"Search for nuclei: {line}") == 1
    assert command(toml, *CELLS, "--json") == 0
    out, err = capsys.readouterr()
    assert "nuclei" not in json.loads(out) and "Search for nuclei" not in err


@pytest.mark.parametrize(
    "options", [CELLS, ["--preprocess", "cell-mask", "--crop", "40"], ["--crop", "40"], []]
)
def test_a_sheet_counts_all_images_whatever_the_preprocessing(
    toml: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in a dry run, which embeds nothing."""
    sheet = toml.parents[1] / "sheet.png"
    assert command(toml, *options, "--dry-run", "--contact-sheet", str(sheet), "--json") == 0
    assert json.loads(capsys.readouterr().out)["nuclei"] == COUNTS
    assert not (toml.parents[1] / "cache").exists()
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width == 32 + 8 * 240
        assert image.height == 32 + 3 * 22 + 2 * (44 + 136)


def test_a_tile_shows_the_window_and_what_the_network_sees(toml: Path) -> None:
    """The first random image is that of the first patient: its window is outlined in green."""
    sheet = toml.parents[1] / "sheet.png"
    assert command(toml, *CELLS, "--dry-run", "--contact-sheet", str(sheet)) == 0
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    top = 16 + 3 * 22 + 44
    tile = pixels[top : top + 112, 16 : 16 + 112]
    rows, columns = np.nonzero((tile == (0, 150, 60)).all(2))
    scale = 112 / 96
    assert rows.min() == pytest.approx(scale * 30, abs=3) and rows.max() == pytest.approx(scale * 70, abs=3)
    assert columns.min() == pytest.approx(scale * 28, abs=3)
    seen = pixels[top : top + 112, 16 + 116 : 16 + 228]
    assert np.abs(seen[56, 56] - (88, 48, 130)).max() < 45, "the nucleus is in the middle"


def test_the_same_images_give_the_same_sheet(toml: Path) -> None:
    one, other = toml.parents[1] / "one.png", toml.parents[1] / "other.png"
    for path in (one, other):
        assert command(toml, *CELLS, "--dry-run", "--contact-sheet", str(path)) == 0
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg", "SHEET.JPEG"])
def test_a_sheet_replaces_only_a_former_sheet(
    toml: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = toml.parents[1] / name
    options = ["--dry-run", "--contact-sheet", str(sheet)]
    assert command(toml, *options) == command(toml, *CELLS, *options) == 0
    with Image.open(sheet) as image:
        assert image.format == ("PNG" if name.endswith("png") else "JPEG")
    Image.new("RGB", (9, 9)).save(sheet)
    before = sheet.read_bytes()
    assert command(toml, *options) == 2
    assert "is not a contact sheet" in capsys.readouterr().err and sheet.read_bytes() == before


def test_sheets_in_the_wrong_place_or_format_are_refused(
    toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Among the patients' images the sheet would be read as one."""
    assert command(toml, "--contact-sheet", "sheet.gif") == 2
    assert "must end with .png, .jpg, .jpeg" in capsys.readouterr().err
    assert command(toml, "--contact-sheet", str(toml.parent / "images" / "P1" / "sheet.png")) == 2
    assert "is inside an image folder" in capsys.readouterr().err
    assert not (toml.parents[1] / "cache").exists()


def test_images_that_cannot_be_shown_are_left_out(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The extraction names them, the sheet counts them."""
    (toml.parent / "images" / "P1" / "0.png").write_bytes(b"broken")
    Image.new("RGB", (30, 30)).save(toml.parent / "images" / "P1" / "1.png")
    sheet = toml.parents[1] / "sheet.png"
    assert command(toml, *CELLS, "--contact-sheet", str(sheet), "--on-error", "skip", "--json") == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["nuclei"] == COUNTS | {"one": 1}
    assert len(json.loads(out)["skipped"]) == 2 and "30 x 30 pixels are fewer than a crop of 40" in err
    assert "leaves out 2 images that could not be read or had fewer pixels than the crop" in err
    assert json.loads(out)["not_shown"] == 2
    assert command(toml, *CELLS, "--contact-sheet", str(sheet), "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["not_shown"] == 2


def test_images_too_long_for_the_square_of_a_backbone_are_left_out(toml: Path) -> None:
    Image.new("RGB", (40_000, 1)).save(toml.parent / "images" / "P1" / "0.png")
    cohort, sheet = read_cohort(toml), toml.parents[1] / "sheet.png"
    wanted = [wanted_images(cohort, patient, False) for patient in cohort.images]
    config = ExtractionConfig("resnet18", "random", 224, sampling=Sampling("bilinear", "centre", 0.875))
    assert contact_sheet.write_contact_sheet(sheet, wanted, config, None).left_out == 1
    assert contact_sheet._settings(config) == "--preprocess none, the central square"
    squashed = replace(config, sampling=Sampling())
    assert contact_sheet._settings(squashed) == "--preprocess none, the whole image"


def test_doubtful_images_of_each_kind_are_shown_in_turn() -> None:
    """So that a common kind does not hide a rare one."""
    kinds: list[Sight] = [*["several"] * 200, *["none"] * 100, *["cut"] * 3, *["one"] * 50]
    chosen = choose_doubtful(((kind, number) for number, kind in enumerate(kinds)), contact_sheet.EACH)
    assert [kinds[number] for number in chosen] == ["none"] * 31 + ["cut"] * 3 + ["several"] * 30
    assert len({*chosen}) == contact_sheet.EACH


def test_a_crop_in_micrometres_follows_the_resolution_of_the_cohort(
    toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sizes are in the spec, so that another cohort gets windows of the same micrometres."""
    options = ["--preprocess", "cell-crop", "--crop", "10um"]
    assert command(toml, *options) == 2
    assert "does not state microns_per_pixel" in capsys.readouterr().err
    text = toml.read_text()
    toml.write_text(f"{text}microns_per_pixel = 0.25\n")
    assert command(toml, *options) == 0
    spec = FeatureCache.open(Path(capsys.readouterr().out.strip())).spec
    assert (spec["crop"], spec["crop_um"], spec["preprocess"]) == (40, 10.0, "cell-crop")
    toml.write_text(f"{text}microns_per_pixel = 100\n")
    assert command(toml, *options) == 2
    assert "less than half of a pixel of 100 micrometres" in capsys.readouterr().err
    for resolution, crop in (("1e-300", "1e10um"), ("0.1", "1e300um")):
        toml.write_text(f"{text}microns_per_pixel = {resolution}\n")
        assert command(toml, "--preprocess", "cell-crop", "--crop", crop) == 2
        assert "is larger than any image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "8um0"], "neither a whole number of pixels, such as 80, nor micrometres"),
        (["--crop", "1.5"], "neither a whole number of pixels"),
        (["--crop", "0um"], "--crop must be a positive number of micrometres, not 0"),
        (["--crop", "nanum"], "--crop must be a positive number of micrometres, not nan"),
        (["--crop", "infum"], "--crop must be a positive number of micrometres, not inf"),
        (["--preprocess", "cell-crop"], "--preprocess cell-crop needs --crop"),
        (["--preprocess", "cell-mask", "--crop", "0"], "--preprocess cell-mask needs --crop"),
        (["--preprocess", "cell-crop", "--crop", "97"], "--crop 97: every image is smaller"),
    ],
)
def test_windows_that_cannot_be_cut_are_refused(
    toml: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = command(toml, *options)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 2 and message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("unit", ["um", "\u00b5m", "\u03bcm"])
def test_micrometres_may_be_written_with_either_letter_mu(unit: str) -> None:
    assert _parse_crop(f"20{unit}") == (0, 20.0)


def test_a_crop_in_both_units_is_refused() -> None:
    with pytest.raises(UsageError, match=r"both in pixels \(80\) and in micrometres \(20\)"):
        check_options(ExtractionConfig(crop=80, crop_um=20.0), None, None, None, "fail")


def test_sections_count_their_images_and_none_is_empty(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headings: list[str] = []
    draw = contact_sheet._drawn

    def note(header: list[str], sections: list[contact_sheet._Section], *more: object) -> Image.Image:
        headings.extend(section.heading for section in sections)
        return draw(header, sections, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(contact_sheet, "_drawn", note)
    wanted = [Wanted("P1", (("0.png", toml.parent / "images/P1/0.png"),))]
    contact_sheet.write_contact_sheet(toml.parents[1] / "a.png", wanted, ExtractionConfig(), None)
    wanted += [Wanted("P3", (("0.png", toml.parent / "images/P3/0.png"),))]
    contact_sheet.write_contact_sheet(toml.parents[1] / "b.png", wanted, ExtractionConfig(), None)
    assert headings == ["1 random image", "2 random images", "1 of 1 doubtful image"]


def test_a_sheet_is_drawn_with_the_threads_that_were_asked_for(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def load(*arguments: object) -> Iterator[list[object]]:
        used.append(arguments[3])  # type: ignore[arg-type]
        return load_batches(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(contact_sheet, "load_batches", load)
    sheet = str(toml.parents[1] / "sheet.png")
    assert command(toml, "--dry-run", "--contact-sheet", sheet, "--threads", "1") == 0
    assert command(toml, "--dry-run", "--contact-sheet", sheet) == 0
    assert used == [1, available_cores()]
