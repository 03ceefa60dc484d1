"""Which images are opened to find their colour profiles."""

import hashlib
import json
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from support.tiny_images import BAGS, LONG_AGO, draw, run, write_cohort
from support.users import as_nobody, needs_root
from support.zoo import ADOBE_COLUMNS, iccp, rgb_profile, write_png

from mil_toolkit.core.errors import UsageError
from mil_toolkit.features import profiles
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.colour import needs_conversion
from mil_toolkit.features.extract import Extraction
from mil_toolkit.features.shards import RemovedShard

pytestmark = pytest.mark.usefixtures("built_once")
IMAGES = sum(BAGS.values())
PROFILED = write_png(np.zeros((40, 48, 3), dtype=np.uint8), [iccp(rgb_profile(563 / 256, ADOBE_COLUMNS))])


@pytest.fixture(name="looked")
def _looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were opened since the list was cleared."""
    looked: list[str] = []

    def note(path: Path) -> bool | None:
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


def test_rehash_looks_at_images_whose_size_and_time_are_unchanged(toml: Path, looked: list[str]) -> None:
    """An answer about the former content must not decide, and is replaced."""
    path = toml.parent / "images/P3/1.png"
    profiled = PROFILED + b"\0" * (path.stat().st_size - len(PROFILED))
    status = path.stat()
    before = run(toml)
    path.write_bytes(profiled)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and run(toml).folder == before.folder
    after = run(toml, rehash=True)
    assert colour(after) == "srgb" and colour(run(toml)) == "srgb"
    bag = FeatureCache.open(after.folder).versions("P3")[0]
    assert bag.read_images()[1].digest == hashlib.sha256(profiled).digest()
    assert profiles.Profiles(after.folder).answers(bag) == {bag.read_images()[1].digest: True}


def test_rehash_replaces_a_wrong_answer(toml: Path) -> None:
    folder = run(toml).folder
    bag = FeatureCache.open(folder).versions("P3")[0]
    wrong = profiles.Profiles(folder)
    wrong.remember(bag, 1)
    wrong.save()
    assert colour(run(toml)) == "srgb"
    assert run(toml, rehash=True).folder == folder
    assert not any(profiles.Profiles(folder).answers(bag).values())


@needs_root
def test_a_complete_cache_may_be_read_only(toml: Path) -> None:
    """Neither what was seen of the images nor their new times are then remembered."""
    for parent in toml.parents[1:4]:
        parent.chmod(0o755)
    folder = run(toml).folder
    (folder / profiles.FILE_NAME).unlink()
    os.utime(toml.parent / "images/P1/0.png", (LONG_AGO + 7, LONG_AGO + 7))
    assert as_nobody(lambda: run(toml).extracted) == "0"
    assert not (folder / profiles.FILE_NAME).exists()


def test_a_shard_that_a_prune_removes_meanwhile_is_no_error(
    toml: Path, looked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are looked at again."""
    folder = run(toml).folder

    def removed(*_: object) -> None:
        raise RemovedShard("A prune removed it.")

    looked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(profiles.ColourChoice, "_recall_patient", removed)
        assert run(toml).folder == folder
    assert len(looked) == IMAGES and looked_at(looked, toml) == []


@pytest.mark.parametrize("error", [OSError("no answer"), MemoryError()])
def test_an_image_that_could_not_be_looked_at_is_looked_at_again(
    toml: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Such as one on a network drive that did not answer, although it could be embedded later."""
    path = toml.parent / "images/P3/1.png"
    path.write_bytes(PROFILED)
    os.utime(path, (LONG_AGO, LONG_AGO))

    def fail(path: Path) -> NoReturn:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("mil_toolkit.features.colour.open_input", fail)
        assert needs_conversion(path) is None
        assert colour(run(toml)) is None
    assert colour(run(toml)) == "srgb"


def test_a_device_that_does_not_exist_leaves_no_cache(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is chosen by `auto`, such as with a LOCAL_RANK beyond the CUDA devices."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"LOCAL_RANK is 2, .* CUDA device 2, but 2 are usable"):
        run(toml, device="auto")
    assert not (toml.parents[1] / "cache").exists()


def test_bags_that_are_no_longer_in_the_cache_are_forgotten(toml: Path, looked: list[str]) -> None:
    """Those that another process has added since are kept."""
    folder = run(toml).folder
    early = FeatureCache.open(folder)
    former = early.versions("P3")[0]
    draw(toml.parent / "images/P3/2.png", 999)
    run(toml)
    assert former in profiles.Profiles(folder)
    newer = FeatureCache.open(folder).versions("P3")[0]
    kept = profiles.Profiles(folder)
    kept.keep_only(early)
    assert former in kept and newer in kept
    former.shard.path.unlink()
    assert run(toml).folder == folder
    remembered = profiles.Profiles(folder)
    assert former not in remembered and newer in remembered
    assert looked_at(looked, toml) == []
