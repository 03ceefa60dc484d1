"""Feature files that declare more than they hold, or hold something else than features."""

import io
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.foreign_files import write_features

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.foreign import read_foreign
from mil_toolkit.features.foreign_hdf5 import has_attribute
from mil_toolkit.features.layouts import SOURCES

LAYOUT = SOURCES["bags"]
VALUES = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
Write = Callable[[Path], object]


def hdf5(change: Callable[[h5py.File], object]) -> Write:
    """Write a good file and change it."""

    def write(path: Path) -> None:
        write_features(path, VALUES)
        with h5py.File(path, "r+") as file:
            change(file)

    return write


def dataset(name: str, shape: tuple[int, ...], dtype: object = np.float32, **options: object) -> Write:
    """Write a good file, and replace a dataset by one that declares a shape and holds nothing."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, **options)

    return hdf5(change)


def values(name: str, content: object) -> Write:
    """Write a good file, and replace the values of a dataset."""

    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = content

    return hdf5(change)


def _bomb(path: Path) -> None:
    write_features(path, VALUES)
    with h5py.File(path, "r+") as file:
        del file["features"]
        shape = (10**6, 1000)
        bomb = file.create_dataset("features", shape, np.float32, chunks=(1000, 1000), compression="gzip")
        bomb[:1000] = np.ones((1000, 1000))


def _twice_compressed(file: h5py.File) -> None:
    del file["features"]
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_chunk((4, 3))
    for _ in range(2):
        options.set_deflate(9)
    space, dtype = h5py.h5s.create_simple((4, 3)), h5py.h5t.py_create(np.dtype(np.float32))
    h5py.h5d.create(file.id, b"features", dtype, space, options)


def _references(file: h5py.File) -> None:
    del file["coords"]
    file.create_dataset("coords", (4, 2), dtype=h5py.ref_dtype)


def _huge_attribute(file: h5py.File) -> None:
    file["features"].attrs["encoder"] = np.bytes_(b"x" * 60_000)


def _many(file: h5py.File) -> None:
    for index in range(1001):
        file[f"d{index}"] = 0


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> Write:
    """Write an .npy file with this header."""

    def write(path: Path) -> None:
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)

    return write


def saved(content: object, **options: object) -> Write:
    """Write with torch.save."""
    return lambda path: torch.save(content, path, **options)


def rewritten(change: Callable[[str, bytes], bytes], **options: int) -> Write:
    """Write a good .pt file whose entries are changed."""

    def write(path: Path) -> None:
        buffer = io.BytesIO()
        torch.save(torch.from_numpy(VALUES), buffer)
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", **options) as target:
            for name in source.namelist():
                target.writestr(name, change(name, source.read(name)))

    return write


def _short_record(name: str, content: bytes) -> bytes:
    """Shorten the storage, behind which torch would read."""
    return content[:8] if name.endswith("/data/0") else content


class _Harmful:
    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return bytearray, (10**11,)


def _harmful(name: str, content: bytes) -> bytes:
    return pickle.dumps(_Harmful(), protocol=2) if name.endswith("/data.pkl") else content


def _quantised(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their removal
        torch.save(torch.quantize_per_tensor(torch.ones(4, 3), 1, 0, torch.qint8), path)


ENDLESS = torch.ones(1).expand(10**6, 10**6)
MORE = "MiB of data"
NOT_ONE = "it is not one tensor"
CASES: dict[str, tuple[str, Write, str]] = {
    "a declared size": ("h5", dataset("features", (10**9, 1000)), MORE),
    "a declared size of 1.9 GB": ("h5", dataset("features", (15_000_000, 32)), MORE),
    "declared coords": ("h5", dataset("coords", (10**9, 2), np.int64), MORE),
    "compressed ones": ("h5", _bomb, MORE),
    "a huge chunk": (
        "h5",
        dataset("features", (4, 3), maxshape=(None, None), chunks=(30_000, 30_000)),
        MORE,
    ),
    "compressed twice": ("h5", hdf5(_twice_compressed), "is compressed several times"),
    "long texts": ("h5", dataset("coords", (4, 2), "S1000000000"), MORE),
    "text coords": ("h5", values("coords", np.full((4, 2), b"x")), "coords that are numbers, got .S1"),
    "texts of any length": ("h5", values("coords", [["x", "y"]] * 4), "coords that are numbers, got object"),
    "complex coords": ("h5", values("coords", np.zeros((4, 2), complex)), "coords that are numbers"),
    "references": ("h5", hdf5(_references), "coords that are numbers, got object"),
    "records": ("h5", values("features", np.zeros((4, 3), "f4,f4")), "floating-point numbers"),
    "complex features": ("h5", values("features", np.zeros((4, 3), complex)), "got complex128"),
    "a scalar": ("h5", values("features", 1.5), r"got float64 \(\)"),
    "nothing at all": ("h5", values("features", h5py.Empty("f4")), "features is empty"),
    "a long attribute": ("h5", hdf5(_huge_attribute), "not a printable text of up to 255"),
    "an attribute for terminals": (
        "h5",
        hdf5(lambda file: file["features"].attrs.create("encoder", "\x1b[31m")),
        "not a printable text",
    ),
    "many entries": ("h5", hdf5(_many), "it has 1,003 entries"),
    "npy: a declared size": ("npy", npy("(10000000000, 1000)"), MORE),
    "npy: one row too many": ("npy", npy("(5, 3)", data=VALUES.tobytes()), "declares 60 bytes.*holds 48"),
    "npy: a negative shape": ("npy", npy("(-1, 3)"), r"got float32 \(-1, 3\)"),
    "npy: objects": ("npy", npy("(4, 3)", "'|O'"), "got object"),
    "npy: a nested header": ("npy", npy("(" * 5000), "not a file that numpy.save wrote"),
    "npy: another header": ("npy", npy("'x'"), "not a file that numpy.save wrote"),
    "pt: a view of one number": ("pt", saved(ENDLESS), "declares more than the file holds"),
    "pt: a short record": ("pt", rewritten(_short_record), f"declares more than the file holds|{NOT_ONE}"),
    "pt: compressed": ("pt", rewritten(lambda _, x: x, compression=zipfile.ZIP_DEFLATED), NOT_ONE),
    "pt: 100 GB by a pickle": ("pt", rewritten(_harmful), NOT_ONE),
    "pt: sparse": ("pt", saved(torch.eye(3).to_sparse()), NOT_ONE),
    "pt: meta": ("pt", saved(torch.ones(4, 3, device="meta")), NOT_ONE),
    "pt: quantised": ("pt", _quantised, NOT_ONE),
    "pt: complex": ("pt", saved(torch.ones(4, 3, dtype=torch.complex64)), "got complex64"),
    "pt: integers": ("pt", saved(torch.ones(4, 3, dtype=torch.int64)), "got int64"),
    "pt: eight bits": ("pt", saved(torch.ones(4, 3).to(torch.float8_e5m2)), "float8_e5m2|not one tensor"),
    "pt: integer keys": ("pt", saved({1: torch.ones(4, 3)}), "it holds dict instead of one tensor"),
    "pt: a list": ("pt", saved([torch.ones(4, 3)]), "it holds list instead of one tensor"),
    "pt: before 1.6, a dictionary": (
        "pt",
        saved({1: torch.ones(4, 3)}, _use_new_zipfile_serialization=False),
        "it holds dict instead of one tensor",
    ),
    "pt: only a start": ("pt", lambda path: path.write_bytes(b"PK\3\4" + bytes(100)), NOT_ONE),
}


@pytest.mark.parametrize("name", CASES)
def test_other_content_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    """With one sentence that names the file and never advises to switch a check off."""
    extension, write, reason = CASES[name]
    path = tmp_path / f"P1.{extension}"
    write(path)
    with pytest.raises(DataError, match=reason) as caught:
        read_foreign(path, LAYOUT)
    text = str(caught.value)
    assert text.startswith(str(path)) and "weights_only" not in text and "\n" not in text


def test_memory_is_bounded(tmp_path: Path) -> None:
    """The largest resident size, of this process or one of its children, hardly grows."""
    names = [name for name in CASES if "declared" in name or "size" in name or name.startswith("pt: ")]
    for number, name in enumerate(names):
        extension, write, _ = CASES[name]
        write(tmp_path / f"P{number}.{extension}")
    program = """
import resource, sys
from pathlib import Path
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.foreign import read_foreign
from mil_toolkit.features.layouts import SOURCES
def peak():
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds)
before = peak()
refused = 0
for path in Path(sys.argv[1]).iterdir():
    try:
        read_foreign(path, SOURCES["bags"])
    except DataError:
        refused += 1
print(refused, (peak() - before) // 1024)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, mebibytes = map(int, done.stdout.split())
    assert refused == len(names) > 15 and mebibytes < 200


@pytest.mark.parametrize("extension", ["h5", "pt", "npy"])
def test_random_damage_gives_features_or_a_sentence(tmp_path: Path, extension: str) -> None:
    """Bytes of files of all kinds, changed at random."""
    path = tmp_path / f"P1.{extension}"
    if extension == "h5":
        write_features(path, VALUES)
    elif extension == "pt":
        torch.save(torch.from_numpy(VALUES), path)
    else:
        np.save(path, VALUES)
    content, source = path.read_bytes(), random.Random(0)
    for _ in range(25):
        changed = bytearray(content)
        for _ in range(8):
            changed[source.randrange(len(changed))] = source.choice([0, 1, 255, source.randrange(256)])
        path.write_bytes(changed)
        try:
            features = read_foreign(path, LAYOUT).features
        except DataError as error:
            assert str(error).startswith(str(path))
        else:
            assert features.ndim == 2


def test_good_files_are_read(tmp_path: Path) -> None:
    """In all formats and precisions, with a leading dimension, and in Fortran's order."""
    for dtype in (np.float16, np.float32, np.float64):
        expected = VALUES.astype(dtype)
        np.save(tmp_path / "a.npy", np.asfortranarray(expected))
        torch.save(torch.from_numpy(expected)[None], tmp_path / "b.pt")
        torch.save(
            torch.nn.Parameter(torch.from_numpy(expected).T),
            tmp_path / "c.pt",
            _use_new_zipfile_serialization=False,
        )
        with h5py.File(tmp_path / "d.h5", "w", libver="latest") as file:
            file.create_dataset("features", data=expected[None], compression="gzip", shuffle=True)
        for name in ("a.npy", "b.pt", "d.h5"):
            features = read_foreign(tmp_path / name, LAYOUT).features
            assert np.array_equal(features, expected) and features.dtype == dtype
        assert np.array_equal(read_foreign(tmp_path / "c.pt", LAYOUT).features, expected.T)
    torch.save(torch.from_numpy(VALUES).bfloat16(), tmp_path / "b.pt")
    assert np.allclose(read_foreign(tmp_path / "b.pt", LAYOUT).features, VALUES, rtol=2**-7)


def test_attributes_are_found_without_opening_the_file_here(tmp_path: Path) -> None:
    write_features(tmp_path / "a.h5", VALUES, coords={"synthetic": "yes"})
    (tmp_path / "b.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert has_attribute(tmp_path / "a.h5", "coords", "synthetic")
    assert not has_attribute(tmp_path / "a.h5", "features", "synthetic")
    assert not has_attribute(tmp_path / "a.h5", "other", "synthetic")
    assert not has_attribute(tmp_path / "b.h5", "coords", "synthetic")
