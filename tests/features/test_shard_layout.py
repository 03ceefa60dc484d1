"""Shards that are sealed, since their name is the digest of their bytes, and yet hold nonsense."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.commands import Command
from support.stored_bags import RECORDED, SPEC, bag, three_patients

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest_file
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shard_layout import MAX_SEQUENCE
from mil_toolkit.features.shards import encode_shard

ON_CARD = RECORDED._replace(architecture="sm_90")
Change = Callable[[h5py.File], object]


def sealed(cache: FeatureCache, change: Change) -> Path:
    """Add a changed shard of the patients `d` and `e` to a cache, under the name of its bytes."""
    path = cache.folder / "new"
    path.write_bytes(encode_shard([bag("d"), bag("e", 3)], cache.spec_digest, 5, RECORDED))
    with h5py.File(path, "r+") as file:
        change(file)
    return path.rename(cache.folder / f"{digest_file(path)}.h5")


def put(name: str, values: object) -> Change:
    """Replace a dataset."""

    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return change


def add_to(name: str, value: float) -> Change:
    """Add to the first value of a dataset."""

    def change(file: h5py.File) -> None:
        values = file[name][()]
        values.ravel()[0] += np.array(value).astype(values.dtype)
        file[name][...] = values

    return change


def attribute(name: str, value: object) -> Change:
    """Replace an attribute."""
    return lambda file: file.attrs.create(name, value)


def declare(name: str, shape: tuple[int, ...], dtype: str, **options: str) -> Change:
    """Replace a dataset by one that declares a shape and holds nothing."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, **options)

    return change


def _nan(file: h5py.File) -> None:
    file["embeddings"][3, 1] = np.nan


def _infinity(file: h5py.File) -> None:
    file["embeddings"][0, 2] = -np.inf


FIT = "do not fit together"
CASES: dict[str, tuple[Change, str]] = {
    "other embeddings": (add_to("embeddings", 1), "the bag of patient d does not match its digest"),
    "another id": (put("patient_ids", np.array([b"d", b"f"])), "patient f does not match its digest"),
    "other names": (put("image_names", np.array([b"x"] * 5)), "patient d does not match its digest"),
    "other image digests": (add_to("image_digests", 1), "patient d does not match its digest"),
    "other bag digests": (add_to("bag_digests", 1), "patient d does not match its digest"),
    "NaN": (_nan, "patient e holds embeddings that are not finite"),
    "infinity": (_infinity, "patient d holds embeddings that are not finite"),
    "offsets that fall": (put("offsets", np.array([0, 6, 5])), FIT),
    "negative offsets": (put("offsets", np.array([-1, 2, 5])), FIT),
    "offsets from 1": (put("offsets", np.array([1, 2, 5])), FIT),
    "an empty bag": (put("offsets", np.array([0, 0, 5])), FIT),
    "offsets beyond the images": (put("offsets", np.array([0, 2, 2**62])), FIT),
    "float offsets": (put("offsets", np.array([0.0, 2, 5])), "offsets has another type"),
    "a scalar offset": (put("offsets", 5), FIT),
    "too few offsets": (put("offsets", np.array([0, 5])), FIT),
    "unsigned offsets": (put("offsets", np.array([0, 2, 5], np.uint64)), "offsets has another type"),
    "one embedding too few": (put("embeddings", np.zeros((4, 3), np.float16)), FIT),
    "three dimensions": (put("embeddings", np.zeros((5, 3, 1), np.float16)), FIT),
    "big-endian embeddings": (put("embeddings", np.zeros((5, 3), ">f2")), "another type of values"),
    "integer embeddings": (put("embeddings", np.zeros((5, 3), np.int64)), FIT),
    "no patients": (put("patient_ids", np.zeros(0, "S1")), "patient_ids declares more than it holds"),
    "short digests": (put("bag_digests", np.zeros((2, 31), np.uint8)), FIT),
    "short image digests": (put("image_digests", np.zeros((4, 32), np.uint8)), FIT),
    "float image stats": (put("image_stats", np.zeros((5, 2))), "image_stats has another type"),
    "scalar image stats": (put("image_stats", 0), FIT),
    "an empty id": (put("patient_ids", np.array([b"", b"e"])), "patient ids are empty or contain null"),
    "a null character": (put("patient_ids", np.array([b"d\0x", b"e"])), "contain null characters: d.x00x"),
    "an empty name": (put("image_names", np.array([b"a", b"", b"c", b"d", b"e"])), "image names are empty"),
    "one patient twice": (put("patient_ids", np.array([b"d", b"d"])), "patients occur more than once: d"),
    "numbers as ids": (put("patient_ids", np.arange(2)), FIT),
    "texts as ids": (put("patient_ids", ["d", "e"]), "patient_ids has another type"),
    "objects as names": (put("image_names", ["a"] * 5), "image_names has another type"),
    "15 million names": (declare("image_names", (15_000_000,), "S128"), "names declares more than it holds"),
    "10^9 names": (declare("image_names", (10**9,), "S93"), "image_names declares more than it holds"),
    "long names": (
        declare("image_names", (5,), "S1000000000"),
        "image_names holds texts of 1000000000 bytes",
    ),
    "compressed zeros": (
        declare("embeddings", (10**9, 3), "f2", compression="gzip"),
        "embeddings keeps data in other files or in chunks",
    ),
    "a long text": (attribute("decoder", "x" * 2**22), "more than 255 characters"),
    "sequence 2^64 - 1": (attribute("sequence", np.uint64(2**64 - 1)), "sequence is neither an integer"),
    "a huge sequence": (attribute("sequence", 2**63 - 1), "its sequence number is 9223372036854775807, not"),
    "a negative sequence": (attribute("sequence", -1), "its sequence number is -1, not between"),
    "a text as sequence": (attribute("sequence", "5"), "attribute sequence is missing or not of type int"),
    "a float as sequence": (attribute("sequence", 5.0), "sequence is neither an integer nor a text"),
    "a list as sequence": (attribute("sequence", [5, 6]), "sequence is not a single value"),
    "a number as precision": (
        attribute("precision", 32),
        "precision is missing or not of type str",
    ),
    "a long decoder": (attribute("decoder", "x" * 300), "more than 255 characters"),
    "a number as spec": (attribute("spec", 1), "attribute spec is missing or not of type str"),
    "a text as schema": (attribute("schema", "1"), "attribute schema is missing or not of type int"),
}


@pytest.mark.parametrize("name", CASES)
def test_nonsense_under_the_right_name_is_refused(tmp_path: Path, name: str) -> None:
    """The error names the file; the other shards are not to blame."""
    cache = three_patients(tmp_path)
    change, reason = CASES[name]
    path = sealed(cache, change)
    with pytest.raises(DataError, match=reason) as caught:
        FeatureCache.open(cache.folder)
    assert all(str(path) in problem for problem in caught.value.problems)


def test_all_wrong_shards_are_reported_together(tmp_path: Path) -> None:
    cache = three_patients(tmp_path)
    paths = {str(sealed(cache, change)) for change, _ in list(CASES.values())[:6]}
    with pytest.raises(DataError) as caught:
        FeatureCache.open(cache.folder)
    named = {path for path in paths for problem in caught.value.problems if path in problem}
    assert named == paths and len(paths) == 6


def test_every_reader_refuses_replaced_embeddings(tmp_path: Path, command: Command) -> None:
    """Also where the shard would win or lose by its sequence number."""
    cache = three_patients(tmp_path)
    path = sealed(cache, add_to("embeddings", 1))
    for words in (
        ("info",),
        ("verify",),
        ("prune",),
        ("export", "--format", "clam", "--output", tmp_path / "o"),
    ):
        done = command("cache", words[0], cache.folder, *words[1:])
        assert done.code == 3 and f"{path}: the bag of patient d does not match its digest" in done.err
        assert "Traceback" not in done.err and not (tmp_path / "o").exists()


def test_names_of_terminals_are_escaped(tmp_path: Path) -> None:
    cache = three_patients(tmp_path)
    sealed(cache, put("patient_ids", np.array([b"\x1b[31md", b"e"])))
    with pytest.raises(DataError, match=r"patient \\x1b\[31md does not match") as caught:
        FeatureCache.open(cache.folder)
    assert "\x1b" not in str(caught.value)


def test_no_shard_is_published_after_the_highest_sequence_number(tmp_path: Path) -> None:
    """It could not be read."""
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    content = encode_shard([bag("a")], cache.spec_digest, MAX_SEQUENCE, RECORDED)
    (cache.folder / "new").write_bytes(content)
    (cache.folder / "new").rename(cache.folder / f"{digest_file(cache.folder / 'new')}.h5")
    cache.refresh()
    assert cache.patient_ids == ("a",)
    with pytest.raises(DataError, match="highest sequence number"):
        cache.publish([bag("b")], RECORDED)
    assert len([*cache.folder.glob("*.h5")]) == 1


def test_the_architecture_is_an_attribute_of_shards_of_a_card_only(tmp_path: Path) -> None:
    """Shards of a CPU keep their bytes, and those of earlier versions stay readable."""
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    cache.publish([bag("a")], RECORDED)
    cache.publish([bag("b")], ON_CARD)
    names = {"schema", "spec", "sequence", "precision", "decoder"}
    attributes = []
    for path in sorted(cache.folder.glob("*.h5")):
        with h5py.File(path) as file:
            attributes.append({*file.attrs} - names)
    assert sorted(attributes, key=len) == [set(), {"architecture"}]
    reopened = FeatureCache.open(cache.folder)
    assert {shard.patient_ids: shard.recorded for shard in reopened.shards} == {
        ("a",): RECORDED,
        ("b",): ON_CARD,
    }
    assert reopened.recorded(["a", "b"]) == ["float32 with pillow 13", "float32 with pillow 13 on sm_90"]


@pytest.mark.parametrize(("value", "message"), [(7, "not of type str"), ("s" * 256, "more than 255")])
def test_an_architecture_that_cannot_be_one_is_refused(tmp_path: Path, value: object, message: str) -> None:
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    sealed(cache, attribute("architecture", value))
    with pytest.raises(DataError, match=message):
        cache.refresh()
