"""What a cache holds, whether it is intact, and what can be removed from it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.stored_bags import RECORDED, SPEC, bag, three_patients

from mil_toolkit.core import files
from mil_toolkit.core.errors import BusyError, DataError
from mil_toolkit.core.locks import shared
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, encode_shard, read_shard
from mil_toolkit.features.upkeep import prune, verify


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return three_patients(tmp_path / "cache")


def test_an_intact_cache_passes_verification(cache: FeatureCache) -> None:
    assert verify(cache.folder) == 2


def problems_of(path: Path, spec_digest: str) -> list[str]:
    """What `verify` reports of one shard."""
    try:
        read_shard(path, spec_digest, 3)
    except DataError as error:
        return error.problems
    return []


def test_every_flipped_bit_of_every_byte_is_found(tmp_path: Path) -> None:
    """By the check that `verify` applies to each shard, one bit at a time."""
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    path = cache.publish([bag("a", 1)], RECORDED)
    content, said = path.read_bytes(), f"{path} is damaged: its bytes do not match its name."
    descriptor, missed = os.open(path, os.O_WRONLY), []
    for place, byte in enumerate(content):
        for bit in range(8):
            os.pwrite(descriptor, bytes([byte ^ 1 << bit]), place)
            problems = problems_of(path, cache.spec_digest)
            missed += [] if len(problems) == 1 and problems[0].startswith(said) else [(place, bit)]
        os.pwrite(descriptor, bytes([byte]), place)
    os.close(descriptor)
    assert not missed and len(content) > 5000 and verify(cache.folder) == 1


def test_every_truncation_is_found(cache: FeatureCache) -> None:
    path = cache.shards[0].path
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="do not match its name"):
            verify(cache.folder)


def test_no_flipped_bit_makes_an_old_embedding_count_again(tmp_path: Path) -> None:
    """Nor does it make HDF5 loop forever, because damaged bytes are refused before HDF5 sees them."""
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    cache.publish([bag("a", 1, seed=1)], RECORDED)
    cache.refresh()
    new = cache.publish([bag("a", 1, seed=2)], RECORDED)
    content = new.read_bytes()
    random = np.random.default_rng(0)
    for place in random.permutation(len(content))[:1000].tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        new.write_bytes(changed)
        with pytest.raises(DataError, match="do not match its name"):
            FeatureCache.open(cache.folder)


def test_all_problems_are_reported_together(cache: FeatureCache) -> None:
    """Swapped shards, a renamed one, and one of another spec."""
    one, two = (shard.path for shard in cache.shards)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    (cache.folder / "copy.h5").write_bytes(content)
    other = encode_shard([bag("d")], "0" * 64, 1, RECORDED)
    (cache.folder / f"{files.digest(other)}.h5").write_bytes(other)
    with pytest.raises(DataError) as caught:
        verify(cache.folder)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4 and told.count("do not match its name") == 2
    assert "copy.h5 is ignored by all readers" in told and "belongs to another spec" in told


def test_an_edited_spec_is_found(cache: FeatureCache) -> None:
    files.publish_json(cache.folder / "spec.json", SPEC | {"crop": 7})
    with pytest.raises(DataError) as caught:
        verify(cache.folder)
    assert [line.split(" belongs")[1][:16] for line in caught.value.problems] == [" to another spec"] * 2


def test_embeddings_that_do_not_match_their_bags_digest_are_found(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shard that another program wrote under the right name."""
    monkeypatch.setattr(EmbeddedBag, "digest", b"\1" * 32)
    wrong = bag("d")
    wrong.embeddings[0, 0] = np.nan
    cache.publish([wrong], RECORDED)
    monkeypatch.undo()
    with pytest.raises(DataError) as caught:
        verify(cache.folder)
    assert "patient d does not match its digest" in str(caught.value) and "not finite" in str(caught.value)


def test_prune_removes_what_no_longer_counts(cache: FeatureCache) -> None:
    """A shard with one bag that counts is kept; the embeddings are the same before and after."""
    cache.publish([bag("a", 2, 9)], RECORDED)
    cache.refresh()
    assert prune(cache.folder) == (0, 0)
    old = cache.shards[0].path, cache.shards[1].path
    cache.publish([bag("b", 2, 8)], RECORDED)
    (cache.folder / ".tmp-00000000deadbeef").write_bytes(b"half a shard")
    cache.refresh()
    before, held = cache.bags(["a", "b", "c"]), {*cache.folder.glob("*.h5")}
    removed, freed = prune(cache.folder)
    left = {*cache.folder.glob("*.h5")}
    assert removed == 1 and freed > 0 and len(held - left) == 1 and held - left < {*old, *held}
    assert torch.equal(FeatureCache.open(cache.folder).bags(["a", "b", "c"]).instances, before.instances)
    assert torch.equal(cache.bags(["a", "b", "c"]).instances, before.instances)
    assert not [*cache.folder.glob(".tmp-*")]


def test_prune_does_not_wait_for_a_writer(cache: FeatureCache) -> None:
    """It raises an error, so that a writer's shards stay while its plans reuse them."""
    with shared(cache.folder), pytest.raises(BusyError):
        prune(cache.folder)


def test_prune_removes_nothing_from_a_damaged_cache(cache: FeatureCache) -> None:
    """The older embeddings may be the only intact ones."""
    cache.publish([bag("a", 2, 9), bag("b", 2, 9)], RECORDED)
    cache.refresh()
    newest = max(cache.shards, key=lambda shard: shard.sequence).path
    newest.write_bytes(newest.read_bytes()[:-1])
    held = {*cache.folder.glob("*.h5")}
    with pytest.raises(DataError, match="do not match its name"):
        prune(cache.folder)
    assert {*cache.folder.glob("*.h5")} == held
