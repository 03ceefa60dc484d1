"""Pictures: only pixels, only unchanged files, and only as many as fit."""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from support.reports import rewrite, text_of, thumbnails, written
from support.studies import Tiny

from mil_toolkit.bundle.saliency import GRADIENT, SalientImage
from mil_toolkit.report.gallery import Attention, Case, WeightedImage
from mil_toolkit.report.page import write_report
from mil_toolkit.report.pictures import Pictures, thumbnails_of


def test_thumbnails_hold_only_pixels_of_the_files(tiny: Tiny, tmp_path: Path, copied: Path) -> None:
    cohort = Path(shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort"))
    exif = Image.Exif()
    exif[0x010E] = "TAKEN OF JANE DOE"  # ImageDescription
    for path in cohort.glob("images/*/*.jpg"):
        with Image.open(path) as image:
            image.save(path, exif=exif, comment=b"JANE DOE AGAIN")
    toml = str(cohort / "cohort.toml")
    rewrite(copied / "sources.json", lambda sources: sources.update(cohort=toml))
    changed = write_report(copied, tmp_path / "changed.html")
    assert "changed since they were embedded" in changed.notes[0]  # their digests differ from the cache
    assert not thumbnails((tmp_path / "changed.html").read_text())
    rewrite(copied / "sources.json", lambda sources: sources.update(features="gone"))
    found = thumbnails(written(copied, tmp_path / "r.html"))
    assert len(found) > 24
    for content in found:
        assert b"JANE" not in content and b"Exif" not in content
        with Image.open(io.BytesIO(content)) as image:
            assert not image.getexif() and image.size[0] in (104, 160)


def test_without_the_images_the_report_shows_ranks_and_the_reason(
    copied: Path, tmp_path: Path, html: str
) -> None:
    rewrite(copied / "sources.json", lambda sources: sources.update(cohort="gone/cohort.toml"))
    report = write_report(copied, tmp_path / "r.html")
    shown = (tmp_path / "r.html").read_text()
    assert not thumbnails(shown) and "the images cannot be reached" in text_of(shown)
    assert len(report.notes) == 1 and "gone/cohort.toml" in report.notes[0]
    kept = re.compile(r"<b>#\d+</b> [\d.]+ %")
    assert kept.findall(shown) == kept.findall(html)


def test_pictures_that_do_not_fit_are_left_out_starting_with_the_least_interesting(
    study: Path, tmp_path: Path, html: str
) -> None:
    bare = len(html) - sum(
        len(each) for each in re.findall(r"data:image/jpeg[^\"]+", html.partition('id="cases"')[2])
    )
    most = (bare + len(html)) // 2
    report = write_report(study, tmp_path / "r.html", most_bytes=most)
    assert report.size <= most and "to keep the file small" in report.notes[0]
    each = (tmp_path / "r.html").read_text().partition('id="cases"')[2].split('<li class="case')[1:]
    have = ["data:image" in case for case in each]
    assert have == sorted(have, reverse=True) and 0 < sum(have) < 24
    left = int(re.findall(r"\d+", report.notes[0])[0])
    assert left == 24 - sum(have)


def test_marked_places_are_those_of_the_image_that_the_network_sees(tmp_path: Path) -> None:
    """Another view may show another part of the image, to which the map does not belong."""
    Image.new("RGB", (40, 40), (200, 0, 0)).save(tmp_path / "i.png")
    image = WeightedImage("i.png", "i.png", 1.0, 1)
    attention = Attention(1, (image,), (), None)
    case = Case("P", "P", 1, 0.9, 0.0, 1, {}, attention)
    seen = np.full((32, 32, 3), (0, 0, 200), dtype=np.uint8)
    salient = SalientImage(seen, np.ones((2, 2), dtype=np.float32), GRADIENT)
    key = ("P", "i.png")
    shown = thumbnails_of(Pictures({key: tmp_path / "i.png"}, {}, 0, 32), [case], 10**6, {key: salient})
    for uri, colour in ((shown.uris[key], (200, 0, 0)), (shown.marked[key], (0, 0, 200))):
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
            assert picture.size == (104, 104)
            centre = np.asarray(picture)[40:60, 40:60].astype(int)
            assert np.abs(centre - colour).max() < 20
