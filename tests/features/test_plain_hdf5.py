"""Reading the plain part of HDF5: as h5py does, or not at all."""

import io
import random
import struct
from collections.abc import Callable

import h5py
import numpy as np
import pytest
from support.stored_bags import RECORDED, bag

from mil_toolkit.features.plain_hdf5 import read_plain
from mil_toolkit.features.shards import encode_shard

SHARD = encode_shard([bag("a", 5), bag("ü", 1, names=["ä/b.png"])], "0" * 64, 2**40, RECORDED)


def written(write: Callable[[h5py.File], object], **options: object) -> bytes:
    """The bytes of a file that h5py wrote."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        write(file)
    return buffer.getvalue()


def test_datasets_and_attributes_are_those_that_h5py_reads() -> None:
    datasets, places, attributes = read_plain(SHARD)
    with h5py.File(io.BytesIO(SHARD)) as file:
        assert attributes == dict(file.attrs)
        assert datasets.keys() == places.keys() == file.keys()
        for name, values in datasets.items():
            assert values.dtype == file[name].dtype and np.array_equal(values, file[name][()])


def test_some_rows_are_read_from_their_place_in_the_file() -> None:
    datasets, places, _ = read_plain(SHARD)
    for name, values in datasets.items():
        place = places[name].rows(1, len(values))
        part = SHARD[place.address : place.address + place.size]
        assert np.array_equal(place.view(part, place.address), values[1:])
        assert np.array_equal(place.view(SHARD), values[1:])


@pytest.mark.parametrize("number", [1, 8, 9, 16, 17, 40])
def test_groups_of_any_number_of_datasets_are_read(number: int) -> None:
    """Beyond 8 datasets, HDF5 splits the table of names."""
    names = [f"d{index}" for index in range(number)]
    content = written(lambda file: [file.create_dataset(name, data=[0]) for name in names])
    datasets = read_plain(content).datasets
    assert {name: values.tolist() for name, values in datasets.items()} == {name: [0] for name in names}


def _compressed(file: h5py.File) -> None:
    file.create_dataset("a", data=np.zeros(10**6, np.int64), compression="gzip")


def _declared(file: h5py.File) -> None:
    file.create_dataset("a", (10**9,), np.int64)


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "of the kind that h5py writes"),
    "text": (b"text" * 100, "of the kind that h5py writes"),
    "the latest format": (written(lambda file: None, libver="latest"), "of the kind that h5py writes"),
    "a group": (written(lambda file: file.create_group("a")), "contains groups"),
    "compressed": (written(_compressed), "other files or in chunks"),
    "declared and never written": (written(_declared), "declares more than it holds"),
    "floats": (written(lambda file: file.create_dataset("a", data=[1.5])), "another type of values"),
    "texts": (written(lambda file: file.create_dataset("a", data=["b"])), "another type of values"),
    "an array as attribute": (
        written(lambda file: file.attrs.update(a=np.zeros(5000, np.int64))),
        "is not a single value",
    ),
    "a float as attribute": (written(lambda file: file.attrs.update(a=1.5)), "neither an integer nor a text"),
    "an unsigned attribute": (
        written(lambda file: file.attrs.update(a=np.uint64(2**64 - 1))),
        "neither an integer nor a text",
    ),
    "many attributes": (
        written(lambda file: [file.attrs.create(f"a{index}", index) for index in range(300)]),
        "too long",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused(name: str) -> None:
    content, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        read_plain(content)


def test_an_object_header_that_continues_in_itself_is_refused() -> None:
    """libhdf5 loops forever."""
    root = struct.unpack_from("<Q", SHARD, 64)[0]
    content = bytearray(SHARD)
    struct.pack_into("<QQ", content, root + 24, root + 16, 24)
    with pytest.raises(ValueError, match="refers to itself"):
        read_plain(bytes(content))


def test_any_damage_is_reported_and_allocates_nothing() -> None:
    """Random changes of a shard's bytes give a ValueError, or datasets within the file."""
    source = random.Random(0)
    refused = 0
    for _ in range(3000):
        content = bytearray(SHARD)
        for _ in range(source.choice([1, 1, 2, 8])):
            content[source.randrange(len(content))] = source.choice([0, 1, 127, 255, source.randrange(256)])
        del content[source.choice([len(content), source.randrange(len(content))]) :]
        try:
            datasets = read_plain(bytes(content)).datasets
        except ValueError:
            refused += 1
        else:
            assert all(values.nbytes <= len(content) for values in datasets.values())
    assert 300 < refused < 3000
