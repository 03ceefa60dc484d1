"""The cache: what is written comes back, what is damaged or foreign is refused."""

import fcntl
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_toolkit.core import files
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import publish, remove_dead_temporaries
from mil_toolkit.features.cache import FeatureCache, find_cache, folder_name
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage, encode_shard

SPEC = {
    "schema": 1,
    "backbone": "timm:hf/net",
    "weights": "imagenet",
    "image_size": 224,
    "crop": 0,
    "preprocess": "none",
    "width": 3,
}
RECORDED = Recorded("float32", "pillow 13")


def bag(patient: str, size: int = 2, seed: int = 0, names: Sequence[str] = ()) -> EmbeddedBag:
    """A patient with random embeddings."""
    random = np.random.default_rng(seed)
    names = names or [f"{row}.png" for row in range(size)]
    images = tuple(StoredImage(name, random.bytes(32), row, row) for row, name in enumerate(names))
    return EmbeddedBag(patient, images, random.standard_normal((len(names), 3)).astype(np.float16))


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """An empty one."""
    return FeatureCache.create(tmp_path / "cache", "cohort", SPEC)


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name).map(os.fsdecode)


@settings(max_examples=40, deadline=None)
@given(
    bags=st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=5, unique=True), min_size=1),
    data=st.data(),
)
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, bags: dict[str, list[str]], data: st.DataObject
) -> None:
    """Embeddings bit by bit and names byte by byte, whatever bytes they hold, in the order asked for."""
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
        assert stored.images == written[patient].images and stored.digest == written[patient].digest


def test_absent_patients_are_all_listed(cache: FeatureCache) -> None:
    """In one error."""
    cache.publish([bag("a")], RECORDED)
    cache.refresh()
    with pytest.raises(DataError) as caught:
        cache.bags(["b", "a", "c"])
    assert [line.split(" has")[0] for line in caught.value.problems] == ["patient b", "patient c"]


def test_digest_knows_patients_images_and_embeddings_alone(tmp_path: Path) -> None:
    """However they were divided into shards, and in whatever order."""

    def digest(*shards: list[EmbeddedBag], spec: dict[str, object] = SPEC) -> str:
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
    """So that a study outlives new patients in the cache."""
    cache.publish([bag("a"), bag("b")], RECORDED)
    cache.refresh()
    before = cache.digest(["b", "a"])
    assert before == cache.digest() == cache.digest(["a", "b"])
    cache.publish([bag("c")], RECORDED)
    cache.refresh()
    assert cache.digest(["a", "b"]) == before != cache.digest()


def test_the_highest_sequence_number_wins(cache: FeatureCache) -> None:
    """A writer takes one above all that it saw; of equal ones the later name wins."""
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
        (_soft, "links to elsewhere"),
        (_external_link, "links to elsewhere"),
        (_virtual, "keeps data in other files"),
        (_external_storage, "keeps data in other files"),
        (_more, "not a shard of this toolkit"),
        (_wide, "do not fit together"),
        (_double, "do not fit together"),
        (_short, "do not fit together"),
        (_schema, "has schema 2, written by a newer mil_toolkit.*reads schema 1"),
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


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    """No folder, no spec, a spec of something else."""
    for folder, why in ((tmp_path / "absent", "it does not exist"), (tmp_path, r"it has no spec\.json")):
        with pytest.raises(DataError, match=f"no feature cache: {why}"):
            FeatureCache.open(folder)
    for text, message in (
        ("[]", "not the spec of a cache"),
        ('{"schema": 99}', "schema 99, of a newer mil_tool"),
    ):
        (tmp_path / "spec.json").write_text(text)
        with pytest.raises(DataError, match=message):
            FeatureCache.open(tmp_path)
    (tmp_path / "spec.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        FeatureCache.open(tmp_path)


def test_an_edited_spec_is_found_by_readers_and_writers(cache: FeatureCache) -> None:
    """The difference is named."""
    cache.publish([bag("a")], RECORDED)
    files.publish_json(cache.folder / "spec.json", SPEC | {"crop": 7})
    with pytest.raises(DataError, match="belongs to another spec"):
        FeatureCache.open(cache.folder)
    for path in cache.folder.glob("*.h5"):
        path.unlink()
    with pytest.raises(DataError, match="crop: 7 instead of 0"):
        FeatureCache.create(cache.folder.parents[1], "cohort", SPEC)


def test_a_copied_folder_is_enough(cache: FeatureCache, tmp_path: Path) -> None:
    """Under any name."""
    cache.publish([bag("a")], RECORDED)
    cache.refresh()
    copied = FeatureCache.open(Path(shutil.copytree(cache.folder, tmp_path / "copy")))
    assert copied.digest() == cache.digest()


def test_a_reader_whose_shard_vanished_lists_once_more(cache: FeatureCache) -> None:
    """As after a prune of superseded shards."""
    old = cache.publish([bag("a"), bag("b")], RECORDED)
    cache.refresh()
    reader = FeatureCache.open(cache.folder)
    cache.publish([bag("a", seed=1), bag("b", seed=1)], RECORDED)
    old.unlink()
    assert np.array_equal(reader.bags(["b"]).instances, bag("b", seed=1).embeddings)


def test_a_shard_that_vanishes_while_listing(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the opening."""
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


def test_files_that_are_no_shards_are_left_alone(cache: FeatureCache) -> None:
    """Temporary files and whatever a user puts there."""
    for name in (".tmp-0123456789abcdef", "notes.h5", f"{'A' * 64}.h5", f"{'a' * 64}.h5.part"):
        (cache.folder / name).write_bytes(b"half a shard")
    cache.refresh()
    assert cache.patient_ids == ()


def test_folder_names_tell_specs_apart() -> None:
    """For people, and by the digest."""
    assert folder_name(SPEC).startswith("timm_hf_net-imagenet-224-")
    masked = folder_name(SPEC | {"crop": 100, "preprocess": "saturation-mask"})
    assert masked.startswith("timm_hf_net-imagenet-224-crop100-saturation-mask-")
    assert folder_name(SPEC)[-8:] != folder_name(SPEC | {"width": 4})[-8:]


def test_find_cache_needs_exactly_one(tmp_path: Path) -> None:
    """Otherwise the candidates are listed as options to paste."""
    with pytest.raises(UsageError, match="holds no features"):
        find_cache("cohort", tmp_path)
    one = FeatureCache.create(tmp_path, "cohort", SPEC).folder
    FeatureCache.create(tmp_path, "other", SPEC)
    assert find_cache("cohort", tmp_path) == one
    two = FeatureCache.create(tmp_path, "cohort", SPEC | {"crop": 9}).folder
    with pytest.raises(UsageError) as caught:
        find_cache("cohort", tmp_path)
    assert {f"  --features {one}", f"  --features {two}"} < set(str(caught.value).split("\n"))


# Atomic publishing.


def test_only_dead_writers_temporaries_are_removed(tmp_path: Path) -> None:
    """A living one's are locked."""
    dead, living = tmp_path / ".tmp-dead", tmp_path / ".tmp-living"
    dead.write_bytes(b"half"), living.write_bytes(b"half")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_dead_temporaries(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".tmp-living"]
    remove_dead_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_temporary_taken_for_dead_too_early_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cleaner may come between a writer's creating its file and locking it."""
    lock, robbed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not robbed:
            robbed.extend(tmp_path.glob(".tmp-*"))
            robbed[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    publish(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content" and len(robbed) == 1


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failed_publish_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """And no temporary one."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    publish(tmp_path / "file", b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(UsageError, match=r"file cannot be written: No space left on device\. Files that were"):
        publish(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_an_error_with_the_path(cache: FeatureCache) -> None:
    """By the limit on a file's size; what was published stays readable."""
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


def test_published_files_obey_the_umask(tmp_path: Path) -> None:
    """Unlike those of tempfile, which only their owner can read."""
    mask = os.umask(0o027)
    try:
        publish(tmp_path / "file", b"")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_patients_of_another_cohort_are_told_at_once(cache: FeatureCache) -> None:
    """The cause and some of them, and whom the cache holds; of few absent patients each."""
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
