"""Shards: damaged or foreign ones are refused, and unchanged ones are hashed once."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.stored_bags import RECORDED, SPEC, bag, three_patients

from mil_toolkit.core import file_state, files
from mil_toolkit.core.errors import DataError
from mil_toolkit.features import shards
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import encode_shard
from mil_toolkit.features.upkeep import prune, verify


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """An empty cache."""
    return FeatureCache.create(tmp_path / "cache", "cohort", SPEC)


def damaged(content: bytes) -> Iterator[bytes]:
    """Many copies of a shard with one flipped bit each, then many truncated ones."""
    random = np.random.default_rng(0)
    for place in random.integers(0, len(content), 150).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        yield bytes(changed)
    for end in random.integers(0, len(content), 20).tolist():
        yield content[:end]


def test_no_damaged_shard_is_ever_used(cache: FeatureCache) -> None:
    """A shard with a flipped bit or a missing end is never read."""
    path = cache.publish([bag("a", 5), bag("b", 3)], RECORDED)
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError):
            FeatureCache.open(cache.folder).bags(["a", "b"])


def test_swapped_shards_are_refused(cache: FeatureCache) -> None:
    """Each is intact, but has the other's name."""
    one, two = cache.publish([bag("a")], RECORDED), cache.publish([bag("b")], RECORDED)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    with pytest.raises(DataError, match="bytes do not match its name"):
        FeatureCache.open(cache.folder).bags(["a"])


def plant(cache: FeatureCache, change: Callable[[h5py.File], None]) -> Path:
    """Write a shard that was changed and is named after its new bytes."""
    path = cache.folder / "planted.h5"
    path.write_bytes(encode_shard([bag("a")], cache.spec_digest, 1, RECORDED))
    with h5py.File(path, "r+") as file:
        change(file)
    return path.rename(cache.folder / f"{files.digest_file(path)}.h5")


def _soft(file: h5py.File) -> None:
    file.move("embeddings", "other")
    file["embeddings"] = h5py.SoftLink("/offsets")
    del file["other"]


def _external_link(file: h5py.File) -> None:
    del file["embeddings"]
    file["embeddings"] = h5py.ExternalLink("elsewhere.h5", "/embeddings")


def _virtual(file: h5py.File) -> None:
    del file["embeddings"]
    layout = h5py.VirtualLayout((2, 3), np.float16)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "embeddings", (2, 3))
    file.create_virtual_dataset("embeddings", layout)


def _external_storage(file: h5py.File) -> None:
    del file["embeddings"]
    file.create_dataset("embeddings", (2, 3), np.float16, external=[("/etc/passwd", 0, 12)])


def _more(file: h5py.File) -> None:
    file["more"] = 1


def _wide(file: h5py.File) -> None:
    del file["embeddings"]
    file["embeddings"] = np.zeros((2, 4), np.float16)


def _double(file: h5py.File) -> None:
    del file["embeddings"]
    file["embeddings"] = np.zeros((2, 3))


def _short(file: h5py.File) -> None:
    file["offsets"][-1] = 1


def _schema(file: h5py.File) -> None:
    file.attrs["schema"] = 2


def _spec(file: h5py.File) -> None:
    file.attrs["spec"] = "0" * 64


def _no_sequence(file: h5py.File) -> None:
    del file.attrs["sequence"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_soft, "contains links"),
        (_external_link, "contains links"),
        (_virtual, "keeps data in other files"),
        (_external_storage, "keeps data in other files"),
        (_more, "not a shard of this toolkit"),
        (_wide, "do not fit together"),
        (_double, "embeddings has another type of values"),
        (_short, "do not fit together"),
        (_schema, "has schema 2, written by a newer .*reads schema 1"),
        (_spec, "belongs to another spec"),
        (_no_sequence, "attribute sequence is missing"),
    ],
)
def test_foreign_shards_are_refused(
    cache: FeatureCache, change: Callable[[h5py.File], None], message: str
) -> None:
    """Even if their name is the digest of their bytes."""
    path = plant(cache, change)
    with pytest.raises(DataError, match=message) as caught:
        FeatureCache.open(cache.folder)
    assert str(path) in str(caught.value)


# How often the bytes of a shard are hashed.


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry for each hashing of a whole shard."""
    calls: list[int] = []

    def digest(content: bytes) -> str:
        if content.startswith(b"\x89HDF"):
            calls.append(len(content))
        return files.digest(content)

    monkeypatch.setattr(shards, "digest", digest)
    return calls


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the times of files at once, as if every shard were old."""
    monkeypatch.setattr(file_state, "SETTLED_NS", 0)


@pytest.mark.usefixtures("settled")
def test_an_unchanged_shard_is_hashed_once(tmp_path: Path, hashed: list[int]) -> None:
    """When it is opened; not when embeddings are read or the shards are listed again."""
    folder = three_patients(tmp_path).folder
    hashed.clear()
    cache = FeatureCache.open(folder)
    assert len(cache.shards) == len(hashed) == 2
    for _ in range(2):
        assert cache.bags(["a", "c"]).sizes.tolist() == [5, 3]
        cache.refresh()
    assert len(hashed) == 2
    cache.publish([bag("d")], RECORDED)
    cache.refresh()
    assert len(cache.shards) == len(hashed) == 3


@pytest.mark.usefixtures("settled")
def test_verify_and_prune_hash_each_shard_once(tmp_path: Path, hashed: list[int]) -> None:
    folder = three_patients(tmp_path).folder
    for check in (verify, prune):
        hashed.clear()
        check(folder)
        assert len(hashed) == 2


def test_a_recent_shard_is_hashed_at_each_reading(tmp_path: Path, hashed: list[int]) -> None:
    """Within the resolution of the file system's clock, a change might keep the file's times."""
    folder = three_patients(tmp_path).folder
    hashed.clear()
    cache = FeatureCache.open(folder)
    for _ in range(2):
        cache.bags(["a"])
    assert len(hashed) == 2 + 2


def flip_in_place(path: Path) -> None:
    """Change one bit, and keep inode, size and mtime."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_another(path: Path) -> None:
    """Put other bytes of the same size and mtime under the name."""
    status, other = path.stat(), path.with_suffix(".other")
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [flip_in_place, replace_by_another])
def test_a_shard_that_changes_after_it_was_opened_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """The returned bytes always match the name's digest."""
    cache = three_patients(tmp_path)
    assert cache.bags(["a"]).sizes.tolist() == [5]
    for shard in cache.shards:
        change(shard.path)
    with pytest.raises(DataError, match="bytes do not match its name"):
        cache.bags(["a"])
    with pytest.raises(DataError, match="bytes do not match its name"):
        cache.refresh()


@pytest.mark.usefixtures("settled")
def test_a_copy_in_the_place_of_a_shard_is_hashed_again(tmp_path: Path, hashed: list[int]) -> None:
    """And used, because its bytes match the name."""
    cache = three_patients(tmp_path)
    expected = cache.bags(["a", "c"]).instances
    hashed.clear()
    for shard in cache.shards:
        copy = shard.path.with_suffix(".copy")
        shutil.copy2(shard.path, copy)
        copy.replace(shard.path)
    assert np.array_equal(cache.bags(["a", "c"]).instances, expected)
    assert len(hashed) == 2
