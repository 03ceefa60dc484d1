"""Resampling to one scale: by averaging, before anything is cropped, and recorded with the embeddings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import Command
from support.tiny_images import bags_of, draw, same, write_cohort

from mil_toolkit.backbones.encoders import ENCODERS
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig, Sampling
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features import pipeline
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import Extraction, check_options, extract
from mil_toolkit.features.image_files import ImageFiles
from mil_toolkit.features.opening import MAX_PIXELS
from mil_toolkit.features.pixels import prepare
from mil_toolkit.features.resolution import in_pixels
from mil_toolkit.features.scale import pixels_to_scale, resampled_sides
from mil_toolkit.features.shard_layout import ShardProblem
from mil_toolkit.features.shard_scales import parse_scales, scale_texts
from mil_toolkit.features.spec import folder_name, preparation_problems, scale_of
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.report.pictures import Pictures
from mil_toolkit.study.methods import methods_paragraph
from mil_toolkit.study.records import FeaturesIdentity

pytestmark = pytest.mark.usefixtures("built_once")
BAGS = {"P1": 2, "P2": 1, "P3": 1, "P4": 1}
SMALL = ExtractionConfig("resnet18", "random", image_size=32)


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def with_scales(toml: Path, scales: dict[str, str]) -> Path:
    """Give the cohort a column of micrometres per pixel."""
    _, *rows = (toml.parent / "table.csv").read_text().splitlines()
    rows = [f"{','.join(row.split(',')[:2])},{scales[row.split(',')[0]]}" for row in rows]
    (toml.parent / "table.csv").write_text("\n".join(["ID,LABEL,MPP", *rows]) + "\n")
    text = toml.read_text()
    if "microns_per_pixel" not in text:
        toml.write_text(text + 'microns_per_pixel = "MPP"\n')
    return toml


@pytest.fixture(name="toml")
def _toml(tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "cohort", BAGS)


def run(toml: Path, config: ExtractionConfig) -> Extraction:
    cache = toml.parents[1] / "cache"
    return extract(read_cohort(toml), config, cache, device="cpu", precision="float32", batch_size=4)


@pytest.mark.parametrize("factor", [2, 4])
def test_shrinking_averages_all_pixels(factor: int) -> None:
    """A bilinear filter that only looks at the four nearest pixels would return the stripes' brightness."""
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[::factor] = 200
    small = pixels_to_scale(stripes, 0.25, 0.25 * factor).astype(int)
    assert small.shape == (32 // factor, 32 // factor, 3)
    assert abs(small[1:-1] - 200 / factor).max() <= 200 / factor / 3


def test_constant_images_stay_constant_and_the_same_scale_changes_nothing() -> None:
    assert (pixels_to_scale(np.full((30, 44, 3), 77, dtype=np.uint8), 0.25, 0.4) == 77).all()
    image = pixels(30, 44)
    assert pixels_to_scale(image, 0.25, 0.25) is image and pixels_to_scale(image, 0.25, None) is image


@pytest.mark.parametrize(
    ("sides", "scale", "message"),
    [
        ((3, 400), 2.0, "3 x 400 pixels of 0.25 micrometres are less than a pixel at 2 micrometres"),
        ((300, 400), 1e-3, f"more than {MAX_PIXELS:,} pixels at 0.001 micrometres per pixel"),
        ((300, 400), 1e-300, "more than"),
        ((300, 400), 1e300, "less than a pixel"),
    ],
)
def test_images_that_would_vanish_or_explode_are_refused(
    sides: tuple[int, int], scale: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        resampled_sides(sides, 0.25, scale)


def test_half_a_pixel_is_less_than_one() -> None:
    with pytest.raises(DataError, match=r"are less than a pixel at 0\.5"):
        pixels_to_scale(pixels(40, 1), 0.25, 0.5)
    assert resampled_sides((40, 3), 0.25, 0.5) == (20, 2)


def test_embeddings_are_those_of_images_resampled_before_the_crop(toml: Path, tmp_path: Path) -> None:
    """A second cohort holds the resampled images as files: without --scale it has the same embeddings."""
    scales = {"P1": "0.25", "P2": "0.5", "P3": "0.125", "P4": "0.25"}
    resampled = write_cohort(tmp_path / "resampled", BAGS)
    for path in (toml.parent / "images").rglob("*.png"):
        image = pixels_to_scale(np.array(Image.open(path)), float(scales[path.parent.name]), 0.25)
        Image.fromarray(image).save(resampled.parent / "images" / path.parent.name / path.name)
    one = run(with_scales(toml, scales), ExtractionConfig("resnet18", "random", 32, crop=16, scale=0.25))
    other = run(resampled, ExtractionConfig("resnet18", "random", 32, crop=16))
    assert one.folder != other.folder and same(bags_of(one), bags_of(other))
    spec = FeatureCache.open(one.folder).spec
    assert spec["scale"] == {"microns_per_pixel": 0.25, "filter": "antialiased-bilinear"}
    assert "0.25um" in folder_name(spec)
    files = ImageFiles(read_cohort(toml), FeatureCache.open(one.folder))
    again = ImageFiles(read_cohort(resampled), FeatureCache.open(other.folder))
    for first, second in zip(files.of(["P2", "P3"]), again.of(["P2", "P3"]), strict=True):
        assert (files._read(first) == again._read(second)).all()


def test_decoder_processes_resample_and_sample_as_threads_do(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExtractionConfig(
        "resnet18", "random", 32, scale=0.25, sampling=Sampling("bicubic", "centre", 0.9)
    )
    with_scales(toml, {"P1": "0.25", "P2": "0.5", "P3": "0.125", "P4": "0.3"})
    threads = bags_of(run(toml, config))
    (toml.parents[1] / "cache").rename(toml.parents[1] / "by threads")
    monkeypatch.setattr(pipeline, "wants_processes", lambda *_: True)
    processes = run(toml, config)
    assert processes.extracted == 5 and same(bags_of(processes), threads)


def test_a_corrected_resolution_is_embedded_again_and_nothing_else(toml: Path) -> None:
    config = ExtractionConfig("resnet18", "random", 32, scale=0.25)
    scales = {"P1": "0.25", "P2": "0.5", "P3": "0.125", "P4": "0.25"}
    before = bags_of(run(with_scales(toml, scales), config))
    assert run(toml, config).extracted == 0
    with_scales(toml, {**scales, "P2": "0.3"})
    corrected = run(toml, config)
    assert corrected.extracted == 1 and run(toml, config).extracted == 0
    after = bags_of(corrected)
    assert not np.array_equal(after["P2"]["0.png"], before["P2"]["0.png"])
    assert np.array_equal(after["P1"]["1.png"], before["P1"]["1.png"])
    with_scales(toml, scales)
    back = run(toml, config)  # the older bag is published again, without embedding anything
    assert back.extracted == 0 and same(bags_of(back), before) and run(toml, config).extracted == 0


def test_a_correction_too_small_to_change_any_pixel_ends(toml: Path) -> None:
    config = ExtractionConfig("resnet18", "random", 32, scale=0.25)
    scales = dict.fromkeys(BAGS, "0.5")
    before = bags_of(run(with_scales(toml, scales), config))
    with_scales(toml, {**scales, "P1": "0.5000000001"})
    assert same(bags_of(run(toml, config)), before) and run(toml, config).extracted == 0


def test_patients_of_unknown_resolution_are_listed(toml: Path) -> None:
    scales = {"P1": "0.25", "P2": "", "P3": "NA", "P4": "0.25"}
    with pytest.raises(DataError) as caught:
        run(with_scales(toml, scales), ExtractionConfig("resnet18", "random", 32, scale=0.25))
    assert caught.value.problems[:2] == [
        f"patient {patient}: the microns_per_pixel of the images are unknown." for patient in ("P2", "P3")
    ]
    run(toml, SMALL)  # without --scale they do not matter


def test_a_crop_in_micrometres_is_cut_from_the_resampled_images(toml: Path) -> None:
    scales = {"P1": "0.25", "P2": "0.5", "P3": "0.125", "P4": "0.25"}
    cohort = read_cohort(with_scales(toml, scales))
    config = ExtractionConfig("resnet18", "random", 32, crop_um=4.0, scale=0.5)
    assert in_pixels(config, cohort).crop == 8
    with pytest.raises(UsageError, match="differ between patients or are unknown for some"):
        in_pixels(ExtractionConfig(crop_um=4.0), cohort)
    alike = read_cohort(with_scales(toml, dict.fromkeys(BAGS, "0.25")))
    assert alike.microns_per_pixel == 0.25 and in_pixels(ExtractionConfig(crop_um=4.0), alike).crop == 16


def test_the_scale_needs_a_declared_resolution(toml: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"does not state microns_per_pixel, or names an empty column\. Add it to \[cohort\]: a number",
    ):
        run(toml, ExtractionConfig("resnet18", "random", 32, scale=0.25))


@pytest.mark.parametrize("scale", [0.0, -0.25, float("inf"), float("nan")])
def test_the_scale_must_be_a_positive_number(scale: float) -> None:
    with pytest.raises(UsageError, match="--scale must be a positive number of micrometres per pixel"):
        check_options(ExtractionConfig(scale=scale), None, None, None, "fail")


def test_crops_are_compared_with_the_resampled_size(toml: Path) -> None:
    """Images of 40 x 48 pixels at 0.25 are 20 x 24 pixels at 0.5."""
    with_scales(toml, dict.fromkeys(BAGS, "0.25"))
    run(toml, ExtractionConfig("resnet18", "random", 32, crop=20, scale=0.5))
    message = r"every image is smaller at 0\.5 micrometres per pixel\. .*: 24 x 20 \(5\)"
    with pytest.raises(UsageError, match=message):
        run(toml, ExtractionConfig("resnet18", "random", 32, crop=21, scale=0.5))


def test_the_command_resamples_and_warns_where_it_has_little_effect(toml: Path, command: Command) -> None:
    toml.write_text(toml.read_text() + "microns_per_pixel = 0.25\n")
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 32, "--device", "cpu")
    where = ("--cache", toml.parents[1] / "cache", "--scale", 0.5)
    done = command("extract", toml, *options, *where)
    assert (
        done.code == 0
        and "--scale without --crop: whole images, or their central squares, are resized to 32 x 32"
        in done.err
    )
    assert scale_of(FeatureCache.open(Path(done.out.strip())).spec) == 0.5
    sheet = toml.parents[1] / "sheet.png"
    cropped = command("extract", toml, *options, *where, "--crop", "8um", "--contact-sheet", sheet)
    assert cropped.code == 0 and "--scale without" not in cropped.err and sheet.exists()
    assert FeatureCache.open(Path(cropped.out.strip())).spec["crop"] == 16
    assert command("extract", toml, *options, "--scale", "x").code == 2
    assert command("extract", toml, *options, "--scale", "0").code == 2


@pytest.fixture
def small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make h-optimus-0 a network of 2 MB."""
    pytest.importorskip("timm")
    small = replace(ENCODERS["h-optimus-0"], model="test_vit", width=64, size=32)
    monkeypatch.setitem(ENCODERS, "h-optimus-0", small)


@pytest.mark.usefixtures("small_encoder")
def test_the_scale_of_the_encoder_is_that_number(toml: Path, command: Command) -> None:
    toml.write_text(toml.read_text() + "microns_per_pixel = 0.25\n")
    options = ("--backbone", "h-optimus-0", "--weights", "random", "--device", "cpu", "--crop", "8um")
    where, sheets = ("--cache", toml.parents[1] / "cache"), [toml.parents[1] / f"{n}.png" for n in (1, 2)]
    named = command("extract", toml, *options, *where, "--scale", "encoder", "--contact-sheet", sheets[0])
    assert named.code == 0, named.err
    spec = FeatureCache.open(Path(named.out.strip())).spec
    assert scale_of(spec) == 0.5 and spec["crop"] == 16
    number = command("extract", toml, *options, *where, "--scale", 0.5, "--contact-sheet", sheets[1])
    assert number.out == named.out and sheets[0].read_bytes() == sheets[1].read_bytes()


def test_backbones_without_a_published_scale_are_refused(toml: Path, command: Command) -> None:
    toml.write_text(toml.read_text() + "microns_per_pixel = 0.25\n")
    for options in ((), ("--probe", 4, "--backbone", "h-optimus-0", "--backbone", "dinobloom-b")):
        done = command("extract", toml, *options, "--weights", "random", "--scale", "encoder")
        assert done.code == 2 and "are known of h-optimus-0 (0.5)" in done.err


def test_a_shard_stores_scales_exactly_and_refuses_others(toml: Path) -> None:
    scales = (0.1, 1 / 3, None, 1e-7)
    assert parse_scales(scale_texts(scales), 4) == scales
    assert parse_scales(None, 2) == (None, None)
    for texts in (np.array([b"0.1"]), np.array([b"0.1", b"-1"]), np.array([b"x", b"1"]), np.zeros(2)):
        with pytest.raises(ShardProblem):
            parse_scales(texts, 2)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf")])
def test_specs_with_another_scale_are_refused(toml: Path, scale: float) -> None:
    spec = FeatureCache.open(run(toml, SMALL).folder).spec
    changed = {**spec, "scale": {"microns_per_pixel": scale, "filter": "antialiased-bilinear"}}
    assert [*preparation_problems(changed)] == [f"scale.microns_per_pixel is {scale}, not a positive number"]  # type: ignore[arg-type]


def test_images_of_another_resolution_that_vanish_are_reported_as_unreadable(toml: Path) -> None:
    draw(toml.parent / "images/P2/0.png", 5)
    with_scales(toml, {**dict.fromkeys(BAGS, "0.25"), "P2": "0.0001"})
    with pytest.raises(DataError, match=r"P2/0\.png: 48 x 40 pixels of 0\.0001 micrometres are less than"):
        run(toml, ExtractionConfig("resnet18", "random", 32, scale=0.25))


def test_the_report_shows_the_resampled_window(toml: Path) -> None:
    """The window is cut from the image at 0.5 micrometres per pixel, and not from the file at 0.25."""
    path = toml.parent / "images/P1/0.png"
    pictures = Pictures({("P1", "0.png"): path}, {}, 16, 32, None, "none", 0.5, {"P1": 0.25})
    shown = pictures.pixels(("P1", "0.png"), 32)
    assert shown is not None
    resampled = pixels_to_scale(np.array(Image.open(path)), 0.25, 0.5)
    assert (shown == prepare(resampled, 32, 16, "none")).all()
    assert not (shown == prepare(np.array(Image.open(path)), 32, 16, "none")).all()


def test_the_methods_name_the_scale(toml: Path) -> None:
    toml.write_text(toml.read_text() + "microns_per_pixel = 0.25\n")
    cache = FeatureCache.open(run(toml, ExtractionConfig("resnet18", "random", 32, scale=0.5)).folder)
    features = FeaturesIdentity(cache.folder.name, "", cache.spec)
    text = methods_paragraph(StudyConfig(), features, Binary())
    assert "at 32 x 32 pixels after resampling to 0.5 micrometres per pixel" in text
