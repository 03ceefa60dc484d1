"""Shards: damaged or foreign ones are refused, and unchanged ones are hashed once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.stored_bags import RECORDED, SPEC, bag

from mil_toolkit.core import files
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import encode_shard


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """An empty one."""
    return FeatureCache.create(tmp_path / "cache", "cohort", SPEC)


def damaged(content: bytes) -> Iterator[bytes]:
    """A shard with one flipped bit, many times over, and cut short, many times over."""
    random = np.random.default_rng(0)
    for place in random.integers(0, len(content), 150).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        yield bytes(changed)
    for end in random.integers(0, len(content), 20).tolist():
        yield content[:end]


def test_no_damaged_shard_is_ever_used(cache: FeatureCache) -> None:
    """Neither a flipped bit anywhere nor a cut is read as embeddings."""
    path = cache.publish([bag("a", 5), bag("b", 3)], RECORDED)
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError):
            FeatureCache.open(cache.folder).bags(["a", "b"])


def test_swapped_shards_are_found(cache: FeatureCache) -> None:
    """Each is whole, and under the other's name."""
    one, two = cache.publish([bag("a")], RECORDED), cache.publish([bag("b")], RECORDED)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    with pytest.raises(DataError, match="bytes do not match its name"):
        FeatureCache.open(cache.folder).bags(["a"])


def plant(cache: FeatureCache, change: Callable[[h5py.File], None]) -> Path:
    """A shard that was changed and given the name of its new bytes."""
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
        (_double, "do not fit together"),
        (_short, "do not fit together"),
        (_schema, "is of schema 2, of a newer mil_toolkit.*reads schema 1"),
        (_spec, "belongs to another spec"),
        (_no_sequence, "cannot be read"),
    ],
)
def test_foreign_shards_are_refused(
    cache: FeatureCache, change: Callable[[h5py.File], None], message: str
) -> None:
    """Though their name is the digest of their bytes."""
    path = plant(cache, change)
    with pytest.raises(DataError, match=message) as caught:
        FeatureCache.open(cache.folder)
    assert str(path) in str(caught.value)
