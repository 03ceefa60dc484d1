"""Which images are embedded again, and which are not."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny_images import (
    BAGS,
    CONFIG,
    LONG_AGO,
    bags_of,
    draw,
    expected,
    run,
    same,
    write_cohort,
)

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.file_state import UNKNOWN_MTIME
from mil_toolkit.core.files import digest_file
from mil_toolkit.features import pipeline
from mil_toolkit.features import plan as plan_module
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract

pytestmark = pytest.mark.usefixtures("built_once")


def test_an_unchanged_cohort_is_not_read_again(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs one stat per image; no file is opened and no shard is written."""
    first = run(toml)
    shards = sorted(first.folder.iterdir())
    monkeypatch.setattr(plan_module, "digest_file", None)
    monkeypatch.setattr(pipeline, "read_prepared", None)
    assert run(toml).extracted == 0
    assert sorted(first.folder.iterdir()) == shards


def test_only_a_new_patient_is_embedded(toml: Path) -> None:
    """The shard of the others stays as it is."""
    run(toml)
    write_cohort(toml.parent, BAGS | {"P5": 2})
    second = run(toml)
    assert second.extracted == 2 and same(bags_of(second), expected(toml))


def test_a_changed_image_is_embedded_again(toml: Path) -> None:
    """The rest of its bag is taken from the cache."""
    run(toml)
    draw(toml.parent / "images/P3/2.png", 999)
    second = run(toml)
    assert second.extracted == 1 and same(bags_of(second), expected(toml))
    assert run(toml).extracted == 0


def test_an_image_that_changes_back_is_not_embedded_again(toml: Path) -> None:
    """Its first embedding is still in an older shard."""
    path = toml.parent / "images/P3/2.png"
    content, first = path.read_bytes(), run(toml)
    draw(path, 999)
    run(toml)
    path.write_bytes(content)
    third = run(toml)
    assert third.extracted == 0 and same(bags_of(third), expected(toml))
    assert FeatureCache.open(first.folder).versions("P3")[0].shard.sequence == 3


def test_touched_images_are_hashed_once(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rehashes.json remembers them; without it they are only hashed again."""
    hashed: list[Path] = []
    monkeypatch.setattr(plan_module, "digest_file", lambda path: (hashed.append(path), digest_file(path))[1])
    folder = run(toml).folder
    for path in (toml.parent / "images").rglob("*.png"):
        os.utime(path, (LONG_AGO + 7, LONG_AGO + 7))
    assert run(toml).extracted == 0 and len(hashed) == 11
    assert run(toml).extracted == 0 and len(hashed) == 11
    (folder / "rehashes.json").write_text('{"P1": {"0.png": [1, 2]}}')
    assert run(toml).extracted == 0 and len(hashed) == 22


def test_a_moved_image_folder_is_not_embedded_again(toml: Path, tmp_path: Path) -> None:
    """Images are identified by their names within the patient's folder."""
    run(toml)
    moved = tmp_path / "elsewhere" / "cohort"
    toml.parent.rename(moved.parent.mkdir() or moved)
    cohort = read_cohort(moved / "cohort.toml")
    again = extract(cohort, CONFIG, tmp_path / "cache", precision="float32", device="cpu")
    assert again.extracted == 0


def test_removing_and_renaming_images_embeds_nothing(toml: Path) -> None:
    """The bag follows the files."""
    run(toml)
    folder = toml.parent / "images/P3"
    (folder / "0.png").unlink()
    (folder / "1.png").rename(folder / "9.png")
    second = run(toml)
    assert second.extracted == 0
    assert [*bags_of(second)["P3"]] == ["2.png", "3.png", "4.png", "9.png"]
    assert same(bags_of(second), expected(toml))


def test_a_change_that_keeps_size_and_mtime_needs_rehash(toml: Path) -> None:
    """The documented limit of comparing size and mtime, and the way around it."""
    run(toml)
    path = toml.parent / "images/P1/0.png"
    before = path.stat()
    draw(path, 999)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert run(toml).extracted == 0
    again = run(toml, rehash=True)
    assert again.extracted == 1 and same(bags_of(again), expected(toml))
    assert run(toml, rehash=True).extracted == 0


def test_a_fresh_mtime_is_not_trusted(toml: Path) -> None:
    """A second change within the clock's resolution is noticed although size and mtime stay the same."""
    path = toml.parent / "images/P1/0.png"
    fresh = time.time() + 600  # still fresh after any delay of this test
    Image.new("RGB", (40, 40), (1, 2, 3)).save(path)
    os.utime(path, (fresh, fresh))
    first = run(toml)
    stored = FeatureCache.open(first.folder).winners(["P1"])[0].read_images()
    assert [image.mtime_ns == UNKNOWN_MTIME for image in stored] == [True, False, False]
    before = path.stat()
    Image.new("RGB", (40, 40), (3, 2, 1)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    second = run(toml)
    assert second.extracted == 1 and same(bags_of(second), expected(toml))


def test_embeddings_of_another_precision_are_kept_but_not_mixed_within_a_bag(
    toml: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A changed bag is embedded as a whole if the rest of it was computed in another precision."""
    run(toml, precision="bfloat16")
    draw(toml.parent / "images/P3/2.png", 999)
    with caplog.at_level("WARNING", "mil_toolkit"):
        second = run(toml, precision="float32")
    assert second.extracted == 5
    assert "were computed in bfloat16 with pillow" in caplog.text and "cosine" in caplog.text
    assert all(np.array_equal(row, expected(toml)["P3"][name]) for name, row in bags_of(second)["P3"].items())
