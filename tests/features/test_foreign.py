"""Feature files that cannot be imported."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.stored_bags import write_trident

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.imports import import_features


def _soft(file: h5py.File) -> None:
    file.move("features", "other")
    file["features"] = h5py.SoftLink("/other")


def _external(file: h5py.File) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink("elsewhere.h5", "/features")


def _virtual(file: h5py.File) -> None:
    del file["features"]
    layout = h5py.VirtualLayout((2, 3), np.float32)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "features", (2, 3))
    file.create_virtual_dataset("features", layout)


def _stored_elsewhere(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (2, 3), np.float32, external=[("/etc/passwd", 0, 24)])


def _set(values: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["features"]
        file["features"] = values

    return change


def _without_coords(file: h5py.File) -> None:
    del file["coords"]


def _more_coords(file: h5py.File) -> None:
    del file["coords"]
    file["coords"] = np.zeros((3, 2))


REFUSED: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "soft link": (_soft, "features is a link"),
    "external link": (_external, "features is a link"),
    "virtual dataset": (_virtual, "features keeps its data in other files"),
    "external data": (_stored_elsewhere, "features keeps its data in other files"),
    "NaN": (_set(np.full((2, 3), np.nan)), "6 values are not finite"),
    "infinity": (_set(np.full((2, 3), -np.inf)), "6 values are not finite"),
    "too large": (_set(np.full((2, 3), 7e4)), "values of up to 7e+04 exceed float16"),
    "integers": (
        _set(np.ones((2, 3), np.int32)),
        "expected features (N, D) of floating-point numbers, got int32",
    ),
    "a vector": (_set(np.ones(3)), "got float64 (3,)"),
    "two bags": (_set(np.ones((2, 2, 3))), "got float64 (2, 2, 3)"),
    "nothing": (_set(np.ones((0, 3))), "got float64 (0, 3)"),
    "another width": (_set(np.ones((2, 4))), "width 4 instead of 3, as in most files"),
    "no coords": (_without_coords, "has no dataset coords"),
    "other coords": (_more_coords, "coords (3, 2) do not fit 2 features"),
}


def test_all_files_that_cannot_be_imported_are_reported_together(tmp_path: Path) -> None:
    """Each with its reason, and nothing is written."""
    for number in range(30):
        write_trident(tmp_path / f"f/good{number}.h5", np.ones((2, 3), np.float32))
    for name, (change, _) in REFUSED.items():
        write_trident(tmp_path / f"f/{name}.h5", np.ones((2, 3), np.float32))
        with h5py.File(tmp_path / f"f/{name}.h5", "r+") as file:
            change(file)
            if isinstance(file.get("features", getlink=True), h5py.HardLink):
                file["features"].attrs["encoder"] = "uni_v1"
    (tmp_path / "f/text.h5").write_text("no HDF5")
    write_trident(tmp_path / "f/foreign.h5", np.ones((2, 3), np.float32), "conch_v1")
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "f", "trident", tmp_path / "cache", "c")
    told = dict(line.removeprefix(f"{tmp_path}/f/").split(".h5", 1) for line in caught.value.problems)
    assert told.keys() == {*REFUSED, "text", "foreign"}
    for name, (_, message) in REFUSED.items():
        assert message in told[name]
    assert "cannot be read" in told["text"] and "encoder conch_v1 instead of uni_v1" in told["foreign"]
    assert not (tmp_path / "cache").exists()
