"""Caches as the feature files of other tools."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.stored_bags import RECORDED, bag, three_patients

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.export import SYNTHETIC, export_cache
from mil_toolkit.features.layouts import LAYOUTS


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return three_patients(tmp_path / "cache")


def test_layouts(cache: FeatureCache, tmp_path: Path) -> None:
    """Datasets, types and attributes are those that the tools' own code reads."""
    for name in LAYOUTS:
        export_cache(cache, name, tmp_path / name)
    with h5py.File(tmp_path / "clam/h5_files/a.h5") as clam:
        assert clam["features"].dtype == np.float32 and clam["features"].shape == (5, 3)
        assert clam["coords"].dtype == np.int32
        assert clam["coords"][()].tolist() == [[0, 0], [64, 0], [128, 0], [0, 64], [64, 64]]
        twin = torch.load(tmp_path / "clam/pt_files/a.pt", weights_only=True)
        assert twin.dtype == torch.float32 and np.array_equal(twin, clam["features"][()])
        assert twin.untyped_storage().nbytes() == twin.nbytes
    with h5py.File(tmp_path / "trident/a.h5") as trident:
        assert trident["features"].dtype == np.float32 and trident["coords"].dtype == np.int64
        assert {*trident["features"].attrs} == {"name", "savetodir", "encoder"}
        assert trident["coords"].attrs["patch_size_level0"] == trident["coords"].attrs["patch_size"] == 64
        assert {"level0_magnification", "target_magnification", "overlap"} < {*trident["coords"].attrs}
    with h5py.File(tmp_path / "stamp/a.h5") as stamp:
        assert stamp["feats"].dtype == np.float16 and stamp["coords"].dtype == np.float32
        attributes = dict(stamp.attrs)
        assert attributes["unit"] == "um" and attributes["feat_type"] == "tile"
        assert attributes["tile_size_um"] == 64.0 and attributes["tile_size_px"] == 64
        assert attributes["stamp_version"] == "2.1.0" and attributes["extractor"] == cache.folder.name
    for path in tmp_path.glob("*/**/a.h5"):
        with h5py.File(path) as file:
            assert file["coords"].attrs["synthetic"] == SYNTHETIC


def test_ids_that_cannot_be_file_names_are_listed(cache: FeatureCache, tmp_path: Path) -> None:
    cache.publish([bag("x/y"), bag("..")], RECORDED)
    cache.refresh()
    with pytest.raises(DataError) as caught:
        export_cache(cache, "stamp", tmp_path / "out")
    assert len(caught.value.problems) == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_export_replaces_only_exports(name: str, cache: FeatureCache, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    for _ in range(2):
        export_cache(cache, name, tmp_path / "own")
    other = tmp_path / "other"
    files = [other / layout.folder / "b.h5"]
    if name == "clam":
        files.append(other / "pt_files" / "c.pt")
        files[1].parent.mkdir(parents=True)
        files[1].write_bytes(b"another encoder's")
    files[0].parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(files[0], "w") as file:
        file[layout.features] = np.ones((2, 3))
        file["coords"] = np.ones((2, 2))
    before = [path.read_bytes() for path in files]
    with pytest.raises(UsageError, match="exists already and is not an export") as caught:
        export_cache(cache, name, other)
    assert all(path.name in str(caught.value) for path in files)
    assert [path.read_bytes() for path in files] == before
    assert sorted(path for path in other.rglob("*") if path.is_file()) == files


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_an_export_neither_reads_nor_replaces_special_files(
    make: Callable[[Path], None], cache: FeatureCache, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / "b.h5")
    with pytest.raises(UsageError, match="exists already and is not an export"):
        export_cache(cache, "stamp", tmp_path / "out")


def test_no_export_is_written_into_the_cache(cache: FeatureCache) -> None:
    with pytest.raises(UsageError, match="is inside a cache"):
        export_cache(cache, "stamp", cache.folder)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_export_removes_what_a_killed_export_left(name: str, cache: FeatureCache, tmp_path: Path) -> None:
    folders = {LAYOUTS[name].folder, "pt_files" if name == "clam" else LAYOUTS[name].folder}
    for folder in folders:
        (tmp_path / "out" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / folder / ".tmp-0123456789abcdef").write_bytes(b"half a file")
    export_cache(cache, name, tmp_path / "out")
    assert not [*(tmp_path / "out").rglob(".tmp-*")]
