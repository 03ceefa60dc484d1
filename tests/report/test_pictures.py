"""Pictures: only pixels, only unchanged files, and only as many as fit."""

import io
import re
import shutil
from pathlib import Path

from PIL import Image
from support.reports import rewrite, text_of, thumbnails, written
from support.studies import Tiny

from mil_toolkit.report.page import write_report


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
