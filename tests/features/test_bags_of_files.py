"""Features as plain files, one per patient: mil-cache import --format bags."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.commands import Command

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.imports import import_features

VALUES = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def write_bag(path: Path, values: np.ndarray = VALUES) -> None:
    """Write features in the format of the path's extension, an HDF5 file with labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(values), path)
    else:
        with h5py.File(path, "w") as file:
            file["features"], file["labels"] = values, np.zeros(len(values))


@pytest.mark.parametrize("ending", ["h5", "hdf5", "npy", "pt"])
def test_every_format_is_imported(tmp_path: Path, ending: str, command: Command) -> None:
    """Images are named by their rows; labels are not imported, which is said."""
    for patient in ("P1", "P2"):
        write_bag(tmp_path / f"f/{patient}.{ending}")
    options = ("--format", "bags", "--cohort", "c", "--cache", tmp_path / "cache", "--encoder", "net")
    done = command("cache", "import", tmp_path / "f", *options)
    assert done.code == 0 and ("labels is not imported (2 files)." in done.err) == (ending in ("h5", "hdf5"))
    bags = FeatureCache.open(Path(done.out.strip())).bags(["P1", "P2"])
    assert np.array_equal(bags.instances, np.concatenate([VALUES] * 2).astype(np.float16))
    assert bags.image_names[:5] == ("P1:0", "P1:1", "P1:2", "P1:3", "P1:4")


def test_formats_may_be_mixed_and_several_files_may_belong_to_a_patient(tmp_path: Path) -> None:
    for name in ("P1/a.npy", "P1/b.pt", "P2.h5"):
        write_bag(tmp_path / "f" / name)
    bags = import_features(tmp_path / "f", "bags", tmp_path, "c", "net").bags(["P1", "P2"])
    assert bags.sizes.tolist() == [10, 5] and bags.image_names[5:7] == ("P1/b:0", "P1/b:1")


def test_coords_are_used_where_a_file_has_them(tmp_path: Path) -> None:
    write_bag(tmp_path / "f/P1.h5")
    with h5py.File(tmp_path / "f/P1.h5", "r+") as file:
        file["coords"] = np.arange(10).reshape(5, 2)
    names = import_features(tmp_path / "f", "bags", tmp_path, "c", "net").bags(["P1"]).image_names
    assert names[:2] == ("P1:0@0,1", "P1:1@2,3")


def test_a_tensor_that_requires_grad_is_imported(tmp_path: Path) -> None:
    """Also a parameter, a view and one with a lazy negation."""
    (tmp_path / "f").mkdir()
    values = torch.from_numpy(VALUES)
    tensors = {
        "a": values.clone().requires_grad_(),
        "b": torch.nn.Parameter(values),
        "c": values.T.contiguous().T,
        "d": torch.complex(values, -values).conj().imag,
    }
    for name, tensor in tensors.items():
        torch.save(tensor, tmp_path / f"f/{name}.pt")
    cache = import_features(tmp_path / "f", "bags", tmp_path, "c", "net")
    for name in tensors:
        assert np.array_equal(cache.bags([name]).instances, VALUES.astype(np.float16)), name


REFUSED = {
    "objects.npy": lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
    "archive.npy": lambda path: path.write_bytes(b"PK\3\4"),
    "text.npy": lambda path: path.write_text("1,2,3\n"),
    "none.npy": lambda path: path.write_bytes(b""),
    "integers.npy": lambda path: np.save(path, np.ones((2, 4), np.int64)),
    "complex.npy": lambda path: np.save(path, np.ones((2, 4), np.complex64)),
    "vector.npy": lambda path: np.save(path, np.ones(4)),
    "empty.pt": lambda path: path.write_bytes(b""),
    "hello.pt": lambda path: path.write_text("hello"),
    "model.pt": lambda path: torch.save(torch.nn.Linear(2, 3), path),
    "array.pt": lambda path: torch.save(np.ones((2, 4)), path),
    "list.pt": lambda path: torch.save([torch.ones(2, 4)], path),
    "sparse.pt": lambda path: torch.save(torch.ones(2, 4).to_sparse(), path),
    "cut.pt": lambda path: path.write_bytes(path.with_name("good.pt").read_bytes()[:500]),
    "nothing.h5": lambda path: h5py.File(path, "w").close(),
    "null.h5": lambda path: h5py.File(path, "w").create_dataset("features", data=h5py.Empty("f4")),
    "words.h5": lambda path: h5py.File(path, "w").create_dataset("features", data=[b"a", b"b"]),
    "group.h5": lambda path: h5py.File(path, "w").create_group("features"),
}


def test_files_that_are_not_features_are_all_named(tmp_path: Path) -> None:
    """In one line each, without advice to run the code in them and without control characters."""
    write_bag(tmp_path / "f/good.pt")
    for name, write in REFUSED.items():
        write(tmp_path / "f" / name)
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "f", "bags", tmp_path / "cache", "c", "net")
    named = {line.removeprefix(f"{tmp_path}/f/").partition(".")[0] for line in caught.value.problems}
    assert named == {name.partition(".")[0] for name in REFUSED}
    assert len(caught.value.problems) == len(REFUSED)
    assert all(line.isprintable() and "weights_only" not in line for line in caught.value.problems)


def test_coords_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    write_bag(tmp_path / "f/P1.h5", VALUES[:1])
    with h5py.File(tmp_path / "f/P1.h5", "r+") as file:
        file["coords"] = [[b"a", b"b"]]
    with pytest.raises(DataError, match=r"P1\.h5: expected coords that are numbers, got object"):
        import_features(tmp_path / "f", "bags", tmp_path, "c", "net")
