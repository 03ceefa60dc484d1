"""The cache returns what was written to it."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stored_bags import RECORDED, SPEC, bag

from mil_toolkit.core import files
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features.cache import FeatureCache, find_cache
from mil_toolkit.features.shards import EmbeddedBag
from mil_toolkit.features.spec import Spec


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """An empty cache."""
    return FeatureCache.create(tmp_path / "cache", "cohort", SPEC)


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name).map(os.fsdecode)


@settings(max_examples=40)
@given(
    bags=st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=5, unique=True), min_size=1),
    data=st.data(),
)
def test_a_cache_returns_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, bags: dict[str, list[str]], data: st.DataObject
) -> None:
    """Embeddings bit by bit and names byte by byte, for any bytes, in the given order."""
    cache = FeatureCache.create(tmp_path_factory.mktemp("cache"), "cohort", SPEC)
    written = {patient: bag(patient, names=names, seed=len(names)) for patient, names in bags.items()}
    cut = data.draw(st.integers(0, len(written)))
    for part in (list(written.values())[:cut], list(written.values())[cut:]):
        if part:
            cache.publish(part, RECORDED)
    opened = FeatureCache.open(cache.folder)
    assert opened.patient_ids == tuple(sorted(written)) and opened.spec == SPEC
    order = data.draw(st.permutations(list(written)))
    packed = opened.bags(order)
    assert packed.patient_ids == tuple(order) and packed.instances.dtype == torch.float16
    assert np.array_equal(packed.instances, np.concatenate([written[each].embeddings for each in order]))
    assert packed.image_names == tuple(name for each in order for name in bags[each])
    for patient in order:
        (stored,) = opened.versions(patient)
        assert stored.read_images() == written[patient].images and stored.digest == written[patient].digest


def test_absent_patients_are_all_listed(cache: FeatureCache) -> None:
    """All in one error."""
    cache.publish([bag("a")], RECORDED)
    cache.refresh()
    with pytest.raises(DataError) as caught:
        cache.bags(["b", "a", "c"])
    assert [line.split(" has")[0] for line in caught.value.problems] == ["patient b", "patient c"]


def test_patients_of_another_cohort_are_summarised_in_one_line(cache: FeatureCache) -> None:
    """With the cause, some of them, and the patients of the cache; few absent patients get a line each."""
    cache.publish([bag(f"H{number}") for number in range(7)], RECORDED)
    cache.refresh()
    with pytest.raises(DataError) as caught:
        cache.bags([f"P{number}" for number in range(90)])
    cause, advice = caught.value.problems
    named = "P0, P1, P2, P3, P4 and 85 more."
    assert cause == f"90 of 90 patients have no embeddings in {cache.folder}: {named}"
    assert advice.startswith("It holds 7 others: H0, H1, H2, H3, H4 and 2 more. Name this cohort's own cache")
    few = cache.absent(["H0", "P1", "P2"])
    assert few == [f"patient {patient} has no embeddings in {cache.folder}." for patient in ("P1", "P2")]


def test_the_digest_depends_only_on_patients_images_and_embeddings(tmp_path: Path) -> None:
    """Not on their order, nor on their division into shards."""

    def digest(*shards: list[EmbeddedBag], spec: Spec = SPEC) -> str:
        cache = FeatureCache.create(tmp_path / os.urandom(4).hex(), "cohort", spec)
        for shard in shards:
            cache.publish(shard, RECORDED)
        return FeatureCache.open(cache.folder).digest()

    a, b = bag("a"), bag("b", seed=1)
    expected = digest([a, b])
    assert digest([b], [a]) == digest([b, a]) == expected
    renamed = EmbeddedBag("a", (a.images[0]._replace(name="x"), a.images[1]), a.embeddings)
    others = [[a], [a, bag("b", seed=2)], [renamed, b], [EmbeddedBag("a", a.images, -a.embeddings), b]]
    found = [digest(other) for other in others] + [digest([a, b], spec=SPEC | {"crop": 5})]
    assert len({*found, expected}) == 6


def test_digest_of_some_patients_does_not_depend_on_others(cache: FeatureCache) -> None:
    """So a study remains valid when patients are added to the cache."""
    cache.publish([bag("a"), bag("b")], RECORDED)
    cache.refresh()
    before = cache.digest(["b", "a"])
    assert before == cache.digest() == cache.digest(["a", "b"])
    cache.publish([bag("c")], RECORDED)
    cache.refresh()
    assert cache.digest(["a", "b"]) == before != cache.digest()


def test_the_highest_sequence_number_wins(cache: FeatureCache) -> None:
    """A writer uses one more than the highest it has seen; of equal numbers the higher name wins."""
    for seed in range(3):
        cache.publish([bag("a", seed=seed)], RECORDED)
        cache.refresh()
        assert cache.winners(["a"])[0].digest == bag("a", seed=seed).digest
    assert [version.shard.sequence for version in cache.versions("a")] == [3, 2, 1]
    stale = FeatureCache.open(cache.folder)
    paths = {cache.publish([bag("b", seed=1)], RECORDED): 1, stale.publish([bag("b", seed=2)], RECORDED): 2}
    cache.refresh()
    assert cache.winners(["b"])[0].digest == bag("b", seed=paths[max(paths)]).digest


def test_publishing_twice_is_harmless(cache: FeatureCache) -> None:
    """The same bags give the same bytes under the same name."""
    assert cache.publish([bag("a")], RECORDED) == cache.publish([bag("a")], RECORDED)
    cache.refresh()
    assert len(cache.versions("a")) == 1


def test_readers_and_writers_notice_an_edited_spec(cache: FeatureCache) -> None:
    """The error names the difference."""
    cache.publish([bag("a")], RECORDED)
    files.publish_json(cache.folder / "spec.json", SPEC | {"crop": 7})
    with pytest.raises(DataError, match="belongs to another spec"):
        FeatureCache.open(cache.folder)
    for path in cache.folder.glob("*.h5"):
        path.unlink()
    with pytest.raises(DataError, match="crop: 7 instead of 0"):
        FeatureCache.create(cache.folder.parents[1], "cohort", SPEC)


def test_a_copied_folder_is_enough(cache: FeatureCache, tmp_path: Path) -> None:
    """Under any other name."""
    cache.publish([bag("a")], RECORDED)
    cache.refresh()
    copied = FeatureCache.open(Path(shutil.copytree(cache.folder, tmp_path / "copy")))
    assert copied.digest() == cache.digest()


def test_a_reader_lists_the_shards_again_if_one_has_vanished(cache: FeatureCache) -> None:
    """As after a prune."""
    old = cache.publish([bag("a"), bag("b")], RECORDED)
    cache.refresh()
    reader = FeatureCache.open(cache.folder)
    cache.publish([bag("a", seed=1), bag("b", seed=1)], RECORDED)
    old.unlink()
    assert np.array_equal(reader.bags(["b"]).instances, bag("b", seed=1).embeddings)


def test_a_shard_may_vanish_during_the_listing(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between listing and opening."""
    old = cache.publish([bag("a")], RECORDED)
    cache.refresh()
    new = cache.publish([bag("a", seed=1)], RECORDED)
    listing = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        paths = list(listing(folder))
        old.unlink(missing_ok=True)
        return iter(paths)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert [shard.path for shard in FeatureCache.open(cache.folder).shards] == [new]


def test_files_that_are_not_shards_are_ignored(cache: FeatureCache) -> None:
    """Temporary files, and files that a user puts there."""
    for name in (".tmp-0123456789abcdef", "notes.h5", f"{'A' * 64}.h5", f"{'a' * 64}.h5.part"):
        (cache.folder / name).write_bytes(b"half a shard")
    cache.refresh()
    assert cache.patient_ids == ()


def test_find_cache_needs_exactly_one(tmp_path: Path) -> None:
    """Otherwise the error lists the candidates as options to paste."""
    with pytest.raises(UsageError, match="holds no features"):
        find_cache("cohort", tmp_path)
    one = FeatureCache.create(tmp_path, "cohort", SPEC).folder
    FeatureCache.create(tmp_path, "other", SPEC)
    assert find_cache("cohort", tmp_path) == one
    two = FeatureCache.create(tmp_path, "cohort", SPEC | {"crop": 9}).folder
    with pytest.raises(UsageError) as caught:
        find_cache("cohort", tmp_path)
    assert {f"  --features {one}", f"  --features {two}"} < set(str(caught.value).split("\n"))


def test_a_full_disk_is_an_error_with_the_path(cache: FeatureCache) -> None:
    """Simulated by a limit on file sizes; what was published stays readable."""
    cache.publish([bag("a")], RECORDED)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UsageError, match="cannot be written: File too large"):
            cache.publish([bag("b", 2000)], RECORDED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert FeatureCache.open(cache.folder).patient_ids == ("a",)
    assert not list(cache.folder.glob(".tmp-*"))
