"""Streamed bags: the same embeddings as in memory, read from the shards when they are needed."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.stored_bags import RECORDED, SPEC, bag

from mil_toolkit.core.errors import DataError
from mil_toolkit.features import bags as bags_module
from mil_toolkit.features.bags import STREAMED_FROM, Bags, StreamedBags, is_streamed
from mil_toolkit.features.cache import FeatureCache

SIZES = {"a": 5, "b": 1, "c": 3, "d": 7, "e": 2}
ORDER = ["d", "a", "e", "b", "c"]  # another order than that of the shards


@pytest.fixture(scope="module", name="cache")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """A cache of five patients in three shards."""
    cache = FeatureCache.create(tmp_path_factory.mktemp("streamed"), "cohort", SPEC)
    stored = {patient: bag(patient, size, seed) for seed, (patient, size) in enumerate(SIZES.items())}
    for patients in ("ab", "cd", "e"):
        cache.publish([stored[patient] for patient in patients], RECORDED)
    cache.refresh()
    return cache


@pytest.fixture(scope="module", name="packed")
def _packed(cache: FeatureCache) -> Bags:
    return cache.bags(ORDER)


@pytest.fixture(scope="module", name="streamed")
def _streamed(cache: FeatureCache) -> StreamedBags:
    return StreamedBags(cache.winners(ORDER), SPEC["width"])


def assert_equal(one: Bags, other: Bags) -> None:
    """Assert that two objects hold the same bags of the same images."""
    assert torch.equal(one.instances, other.instances) and torch.equal(one.offsets, other.offsets)
    assert one.patient_ids == other.patient_ids and one.image_names == other.image_names
    assert one.width == other.width and len(one) == len(other)


def test_the_number_and_width_of_the_embeddings_decide_whether_they_are_streamed() -> None:
    most = STREAMED_FROM // (2 * 384)
    assert not is_streamed(most, 384) and is_streamed(most + 1, 384)


def test_a_cache_streams_large_bags(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = cache.bags(ORDER)
    monkeypatch.setattr(bags_module, "STREAMED_FROM", 2 * 18 * 3 - 1)
    streamed = cache.bags(ORDER)
    assert isinstance(streamed, StreamedBags) and not isinstance(packed, StreamedBags)
    assert_equal(streamed, packed)
    with pytest.raises(DataError, match="patient z has no embeddings"):
        cache.bags(["a", "z"])


@given(st.lists(st.integers(0, 17), max_size=30))
def test_any_rows_are_those_of_bags_in_memory(packed: Bags, streamed: StreamedBags, rows: list[int]) -> None:
    chosen = torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(streamed.embeddings(chosen), packed.embeddings(chosen))


@given(st.lists(st.sampled_from(ORDER), unique=True, min_size=1))
def test_selected_bags_stay_in_the_shards(packed: Bags, streamed: StreamedBags, chosen: list[str]) -> None:
    selected = streamed.select(chosen)
    assert isinstance(selected, StreamedBags)
    assert_equal(selected, packed.select(chosen))
    with pytest.raises(DataError, match="patient z has no embeddings"):
        streamed.select(["z"])


def test_rows_that_are_taken_are_in_memory(packed: Bags, streamed: StreamedBags) -> None:
    rows = [torch.arange(0, size, 2) for size in packed.sizes.tolist()]
    taken = streamed.take_rows(rows)
    assert not isinstance(taken, StreamedBags)
    assert_equal(taken, packed.take_rows(rows))


def test_other_embeddings_of_the_same_images_are_in_memory(packed: Bags, streamed: StreamedBags) -> None:
    other = torch.rand(18, 2)
    assert_equal(streamed.with_embeddings(other), packed.with_embeddings(other))


@pytest.mark.parametrize("part", [1, 4, 8, 100])
def test_parts_are_whole_bags_in_order(
    packed: Bags, streamed: StreamedBags, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bags_module, "PART", part)
    parts = list(streamed.parts())
    assert torch.cat(parts).tolist() == list(range(5))
    assert all(len(bags) == 1 or int(streamed.sizes[bags].sum()) <= part for bags in parts)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(streamed.totals(dtype), packed.totals(dtype))


def test_totals_and_means_are_those_of_each_bag(packed: Bags) -> None:
    parts = packed.instances.float().split(packed.sizes.tolist())
    torch.testing.assert_close(packed.totals(torch.float32), torch.stack([part.sum(0) for part in parts]))
    torch.testing.assert_close(packed.means, torch.stack([part.mean(0) for part in parts]))


def test_a_pickled_copy_holds_no_embeddings_and_reads_the_same_files(
    packed: Bags, streamed: StreamedBags
) -> None:
    content = pickle.dumps(streamed)
    assert all(row.tobytes() not in content for row in packed.instances.numpy())
    assert_equal(pickle.loads(content), packed)


def test_a_shard_that_changes_or_vanishes_is_an_error(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    path = cache.publish([bag("a", 4)], RECORDED)
    cache.refresh()
    streamed = StreamedBags(cache.winners(["a"]), 3)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="bytes do not match its name"):
        streamed.embeddings(torch.tensor([0]))
    path.unlink()
    for read in (lambda: streamed.instances, lambda: streamed.image_names):
        with pytest.raises(DataError, match=rf"{path.name} was removed while it was in use\. Try again\."):
            read()


def test_the_images_of_a_bag_are_read_from_its_rows(cache: FeatureCache) -> None:
    for seed, (patient, size) in enumerate(SIZES.items()):
        (stored,) = cache.winners([patient])
        written = bag(patient, size, seed)
        assert stored.read_images() == written.images and stored.size == size
        assert stored.read_names() == [image.name for image in written.images]
        assert np.array_equal(stored.embeddings(size - 1, size), written.embeddings[-1:])
