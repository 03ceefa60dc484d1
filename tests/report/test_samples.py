"""Sample images: the report shows them as the network sees them."""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.reports import text_of
from support.studies import Viewed, weighed

from mil_toolkit.core.reading import read_input
from mil_toolkit.features import nucleus
from mil_toolkit.features.nucleus import Search, find_nucleus
from mil_toolkit.features.pixels import prepare, resize
from mil_toolkit.report import pictures as pictures_module
from mil_toolkit.report.contents import Contents, image_paths, read_contents
from mil_toolkit.report.doubtful import MOST, doubtful_of
from mil_toolkit.report.gallery import Naming, cases
from mil_toolkit.report.page import MOST_BYTES, render
from mil_toolkit.report.pictures import Pictures, samples_of, thumbnails_of


def shown_as(contents: Contents, preprocess: str, crop: int) -> str:
    """Return the HTML of the report, as if the features were made with this preprocessing."""
    features = contents.study.description.features
    assert features is not None
    features.spec["preprocess"], features.spec["crop"] = preprocess, crop
    return render(contents, False, MOST_BYTES)[0].decode()


def samples(html: str) -> list[np.ndarray]:
    """Return the pictures of the samples: before, after, before, after, ..."""
    pairs = html.partition('class="pairs"')[2].partition("</ul>")[0]
    contents = map(base64.b64decode, re.findall(r"data:image/jpeg;base64,([^\"]+)", pairs))
    return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]


@pytest.mark.parametrize("preprocess", ["cell-crop", "cell-mask"])
def test_samples_of_cell_windows_show_the_image_and_the_window(study: Path, preprocess: str) -> None:
    html = shown_as(read_contents(study), preprocess, 24)
    text = text_of(html)
    assert "What the network sees" in text and "Left: original images" in text
    assert "24 pixels of the original around the nucleus nearest the centre" in text
    assert ("its rim is black" in text) == (preprocess == "cell-mask")
    assert "The saturation mask" not in text
    found = samples(html)
    assert len(found) == 12
    for before, after in zip(found[::2], found[1::2], strict=True):
        assert not np.array_equal(before, after)
        black = (after.max(2) < 16).mean()
        assert black > 0.05 if preprocess == "cell-mask" else black < 0.05


def test_a_sample_is_what_the_backbone_gets(study: Path) -> None:
    """Up to the compression of the page's pictures."""
    contents = read_contents(study)
    paths, _ = image_paths(contents.sources, contents.table.patient_ids)
    pictures = Pictures(paths, {}, 24, 32, None, "cell-mask")
    shown = cases(contents, Naming(False))
    sample = samples_of(pictures, shown, ("negative", "positive"))[0]
    case = next(case for case in reversed(shown) if case.label == 0 and case.shown_images)
    original = np.asarray(Image.open(paths[case.stored, case.shown_images[0].stored]).convert("RGB"))
    expected = resize(prepare(original, 32, 24, "cell-mask"), 160)
    content = base64.b64decode(sample.after.partition(",")[2])
    assert np.abs(np.asarray(Image.open(io.BytesIO(content))).astype(int) - expected).mean() < 8


def test_images_in_doubt_are_counted_among_those_that_are_shown(study: Path) -> None:
    """All of them have one nucleus, because they are drawn so, except for those that a platelet joins."""
    text = text_of(shown_as(read_contents(study), "cell-crop", 24))
    found = re.search(
        r"Of the images in this report: (\d+) images: one nucleus in (\d+), several in (\d+),", text
    )
    assert found is not None
    count, one, several = map(int, found.groups())
    assert count > 24 and one + several == count and one > 0.8 * count
    assert "Of the images in this report" not in text_of(shown_as(read_contents(study), "none", 0))


@pytest.mark.parametrize("preprocess", ["none", "cell-crop", "cell-mask"])
def test_an_image_that_vanishes_is_left_out(
    study: Path, preprocess: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is read once for a sample, so that it cannot vanish between two reads."""
    contents = read_contents(study)
    paths, _ = image_paths(contents.sources, contents.table.patient_ids)
    shown = cases(contents, Naming(False))
    expected = samples_of(Pictures(paths, {}, 24, 32, None, preprocess), shown, ("negative", "positive"))
    reads: list[Path] = []

    def read_once(path: Path, limit: int) -> bytes:
        if path in reads:
            raise FileNotFoundError(path)
        reads.append(path)
        return read_input(path, limit)

    monkeypatch.setattr(pictures_module, "read_input", read_once)
    pictures = Pictures(paths, {}, 24, 32, None, preprocess)
    assert samples_of(pictures, shown, ("negative", "positive")) == expected
    assert len(expected) == len(reads) and not pictures.unreadable
    assert samples_of(pictures, shown, ("negative", "positive")) == []


def test_every_view_of_a_study_shows_what_its_network_sees(viewed: Viewed, tmp_path: Path) -> None:
    study = weighed(Path(shutil.copytree(viewed.study, tmp_path / "study")))
    html = render(read_contents(study), False, MOST_BYTES)[0].decode()
    names = re.findall(r"<h4>(resnet18[^<]*)</h4>", html)
    assert tuple(names) == viewed.names
    text = text_of(html)
    assert "Left: original images. Right: what the network sees." in text
    assert "24 pixels of the original around the nucleus nearest the centre" in text
    for part in html.split("<h4>resnet18")[1:]:
        found = samples(part)
        assert len(found) == 12
    whole, crop = (samples(part)[:2] for part in html.split("<h4>resnet18")[1:])
    assert np.array_equal(whole[0], crop[0]) and not np.array_equal(whole[1], crop[1])
    assert (
        f"mil-tune {viewed.tiny.cohort_toml} --views {viewed.folders[0]} {viewed.folders[1]} --study" in text
    )


@pytest.mark.parametrize(
    ("preprocess", "black"), [("none", False), ("saturation-mask", True), ("reinhard", False)]
)
def test_samples_of_a_crop_show_the_image_and_its_centre(study: Path, preprocess: str, black: bool) -> None:
    html = shown_as(read_contents(study), preprocess, 24)
    text = text_of(html)
    assert "What the network sees" in text and "24 pixels of the original at the centre." in text
    assert ("Everything with little saturation is black." in text) == black
    assert ("The stain of each image was normalised." in text) == (preprocess == "reinhard")
    assert "Search for nuclei" not in text and "Images in doubt" not in text
    found = samples(html)
    assert len(found) == 12
    for before, after in zip(found[::2], found[1::2], strict=True):
        assert not np.array_equal(before, after) and ((after.max(2) < 16).mean() > 0.2) == black


def test_images_in_doubt_are_shown_of_each_kind(study: Path, tmp_path: Path) -> None:
    contents = read_contents(study)
    paths, _ = image_paths(contents.sources, contents.table.patient_ids)
    shown = cases(contents, Naming(True))
    keys = [(case.stored, image.stored) for case in shown for image in case.shown_images]
    for number, key in enumerate(keys):  # every image is white, or has three nuclei
        paths[key] = tmp_path / f"{number}.png"
        pixels = np.full((64, 64, 3), 235, dtype=np.uint8)
        for row, column in ((10, 12), (12, 50), (50, 30)) if number % 2 else ():
            pixels[row - 7 : row + 7, column - 7 : column + 7] = (90, 30, 120)
        Image.fromarray(pixels).save(paths[key])
    pictures = Pictures(paths, {}, 24, 32, None, "cell-crop")
    assert doubtful_of(pictures, shown) == []  # nothing has been searched yet
    thumbnails_of(pictures, shown, 10**7)
    doubtful = doubtful_of(pictures, shown)
    kinds = [sample.description.rpartition(": ")[2] for sample in doubtful]
    assert kinds == ["no nucleus"] * (MOST // 2) + ["several nuclei"] * (MOST // 2)
    assert all(sample.description.startswith("Patient ") for sample in doubtful)
    assert len({sample.description for sample in doubtful}) == MOST


def test_a_page_with_images_in_doubt_says_so_and_keeps_within_its_size(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = read_contents(study)
    assert "Images in doubt" not in text_of(shown_as(contents, "none", 0))

    def doubting(pixels: np.ndarray) -> Search:
        return find_nucleus(pixels)._replace(sight="cut")

    monkeypatch.setattr(nucleus, "find_nucleus", doubting)
    html = shown_as(contents, "cell-crop", 24)
    doubtful = html.partition("Images in doubt")[2].partition("</ul>")[0]
    assert doubtful.count("<figure") == MOST and doubtful.count(": nucleus cut by the border") >= MOST
    small = len(html) - 30_000
    assert len(render(contents, False, small)[0]) <= small
