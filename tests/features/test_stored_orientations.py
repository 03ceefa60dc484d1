"""Shards of images in several orientations, and how they are read."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.stored_bags import RECORDED, SPEC, augmented_bag, augmented_spec

from mil_toolkit.core.errors import DataError
from mil_toolkit.features import bags as bags_module
from mil_toolkit.features.bags import Bags, StreamedBags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, encode_shard
from mil_toolkit.features.stored_orientations import StoredOrientations, runs
from mil_toolkit.features.upkeep import prune, verify

SIZES = {"a": 5, "b": 1, "c": 3}
ORDER = ["c", "a", "b"]
WRITTEN = {patient: augmented_bag(patient, size, seed) for seed, (patient, size) in enumerate(SIZES.items())}


def everything(patient: str) -> np.ndarray:
    """Return a patient's embeddings in all orientations, (n, 3, 3)."""
    written = WRITTEN[patient]
    assert written.augmented is not None
    return np.concatenate([written.embeddings[:, None], written.augmented], 1)


@pytest.fixture(scope="module", name="cache")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """A cache of three patients in two shards, with two other orientations of each image."""
    cache = FeatureCache.create(tmp_path_factory.mktemp("oriented"), "cohort", augmented_spec(2))
    cache.publish([WRITTEN["a"], WRITTEN["b"]], RECORDED)
    cache.publish([WRITTEN["c"]], RECORDED)
    cache.refresh()
    return cache


@pytest.fixture(scope="module", name="bags", params=["memory", "streamed"])
def _bags(cache: FeatureCache, request: pytest.FixtureRequest) -> Bags:
    return cache.bags(ORDER) if request.param == "memory" else StreamedBags(cache.winners(ORDER), 3)


def read(bags: Bags, rows: list[int]) -> np.ndarray:
    assert bags.orientations is not None
    embeddings: np.ndarray = bags.orientations.read(torch.tensor(rows, dtype=torch.int64)).numpy()
    return embeddings


@given(rows=st.lists(st.integers(0, 8), max_size=12))
def test_any_rows_are_read_in_all_orientations(bags: Bags, rows: list[int]) -> None:
    expected = np.concatenate([everything(patient) for patient in ORDER])
    assert np.array_equal(read(bags, rows), expected[rows])
    assert np.array_equal(bags.instances.numpy(), expected[:, 0])


def test_chosen_bags_and_instances_keep_their_orientations(bags: Bags) -> None:
    selected = bags.select(["b", "c"])
    expected = np.concatenate([everything("b"), everything("c")])
    assert np.array_equal(read(selected, [*range(4)]), expected)
    taken = selected.take_rows([torch.tensor([0]), torch.tensor([2, 0])])
    assert np.array_equal(read(taken, [*range(3)]), expected[[0, 3, 1]])
    copy = pickle.loads(pickle.dumps(taken))
    assert np.array_equal(read(copy, [2, 0]), expected[[1, 0]])
    assert bags.with_embeddings(torch.zeros(9, 2)).orientations is None


def test_orientations_count_for_the_decision_to_stream(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bags_module, "STREAMED_FROM", 2 * 9 * 3 * 3)
    assert not isinstance(cache.bags(ORDER), StreamedBags)
    monkeypatch.setattr(bags_module, "STREAMED_FROM", 2 * 9 * 3 * 3 - 1)
    assert isinstance(cache.bags(ORDER), StreamedBags)


def test_only_what_is_used_is_read(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    shard = type(cache.shards[0])
    read_datasets = shard.read

    def spy(self: object, rows: slice, *datasets: str) -> list[np.ndarray]:
        names.extend(datasets)
        return read_datasets(self, rows, *datasets)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(shard, "read", spy)
    bags = cache.bags(ORDER)
    assert {*names} == {"embeddings", "image_names"}
    read(bags, [0])
    assert "augmented" in names


def test_a_cache_without_augmentation_has_no_other_orientations(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    cache.publish([EmbeddedBag("a", WRITTEN["a"].images, WRITTEN["a"].embeddings)], RECORDED)
    cache.refresh()
    assert cache.bags(["a"]).orientations is None and StoredOrientations.of(cache.winners(["a"])) is None
    assert cache.shards[0].orientations(slice(1, 3)).shape == (2, 1, 3)


def test_the_digest_of_a_cache_covers_all_orientations(cache: FeatureCache, tmp_path: Path) -> None:
    written = WRITTEN["c"]
    assert written.augmented is not None
    other = EmbeddedBag("c", written.images, written.embeddings, -written.augmented)
    digests = set()
    for number, bag in enumerate((written, other)):
        copy = FeatureCache.create(tmp_path / str(number), "cohort", cache.spec)
        copy.publish([bag], RECORDED)
        copy.refresh()
        digests.add(copy.digest())
    assert len(digests) == 2 and cache.digest(["c"]) in digests


@pytest.mark.parametrize(
    ("bag", "problem"),
    [
        (EmbeddedBag("d", WRITTEN["a"].images, WRITTEN["a"].embeddings), "datasets differ in augmented"),
        (augmented_bag("d", 2, count=1), r"augmented is float16 \(2, 1, 3\) instead of float16 \(2, 2, 3\)"),
        (augmented_bag("d", 2, factor=np.inf), "patient d holds embeddings that are not finite"),
    ],
)
def test_a_shard_with_other_orientations_than_those_of_the_spec_is_refused(
    tmp_path: Path, bag: EmbeddedBag, problem: str
) -> None:
    cache = FeatureCache.create(tmp_path, "cohort", augmented_spec(2))
    cache.publish([bag], RECORDED)
    for use in (cache.refresh, lambda: verify(cache.folder), lambda: prune(cache.folder)):
        with pytest.raises(DataError, match=problem):
            use()


def test_a_shard_with_orientations_does_not_belong_in_a_cache_without(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    cache.publish([WRITTEN["a"]], RECORDED)
    with pytest.raises(DataError, match="datasets differ in augmented"):
        cache.refresh()


def test_an_orientation_that_does_not_match_the_digest_of_its_bag_is_found(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path, "cohort", augmented_spec(2))
    content = encode_shard([WRITTEN["a"]], cache.spec_digest, 1, RECORDED)
    assert WRITTEN["a"].augmented is not None
    row = WRITTEN["a"].augmented[4, 1].tobytes()
    assert content.count(row) == 1
    from mil_toolkit.core.files import digest

    changed = content.replace(row, bytes(len(row)))
    (cache.folder / f"{digest(changed)}.h5").write_bytes(changed)
    with pytest.raises(DataError, match="the bag of patient a does not match its digest"):
        cache.refresh()


def test_superseded_orientations_are_pruned(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path, "cohort", augmented_spec(2))
    for bag in (augmented_bag("a", 2, 8), WRITTEN["a"]):
        cache.publish([bag], RECORDED)
        cache.refresh()
    removed, _ = prune(cache.folder)
    cache.refresh()
    assert removed == 1 and verify(cache.folder) == 1
    assert np.array_equal(read(cache.bags(["a"]), [*range(5)]), everything("a"))


def test_runs_are_consecutive_rows_of_one_bag() -> None:
    assert [*runs(np.array([], dtype=int), np.array([], dtype=int))] == []
    divided = [(run.bag, run.start, run.stop) for run in runs(np.array([2, 2, 2, 0]), np.array([1, 2, 2, 3]))]
    assert divided == [(2, 1, 3), (2, 2, 3), (0, 3, 4)]
