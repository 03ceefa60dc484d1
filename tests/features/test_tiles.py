"""Sizes and magnifications of the tiles behind imported features."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.commands import Command
from support.foreign_files import Attribute, write_features
from support.stored_bags import three_patients

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.export import export_cache
from mil_toolkit.features.imports import import_features
from mil_toolkit.features.layouts import LAYOUTS
from mil_toolkit.features.spec import Tile, spec_differences
from mil_toolkit.features.tiles import read_tile

TRIDENT_20X = {"patch_size": 256, "target_magnification": 20, "patch_size_level0": 512, "overlap": 0}
TRIDENT_10X = {"patch_size": 512, "target_magnification": 10, "patch_size_level0": 2048, "overlap": 0}
CLAM = {"patch_size": 256, "patch_level": 1, "downsample": (4.0003, 3.9998)}
STAMP = {"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224}

STATED: dict[str, tuple[dict[str, str], Tile | None]] = {
    "TRIDENT": (
        {"patch_size": "256", "target_magnification": "20", "patch_size_level0": "512"},
        {"size_px": 256, "magnification": 20},
    ),
    "TRIDENT, magnification as on its command line": (
        {"patch_size": "256", "target_magnification": "20x"},
        {"size_px": 256, "magnification": 20},
    ),
    "TRIDENT, only the scan's magnification": (
        {"patch_size": "256", "patch_size_level0": "512", "level0_magnification": "40"},
        {"size_px": 256, "magnification": 20},
    ),
    "TRIDENT, no magnification": (
        {"patch_size": "256", "patch_size_level0": "512"},
        {"size_px": 256, "downsample": 2},
    ),
    "CLAM": (
        {"patch_size": "256", "patch_level": "1", "downsample": "4.0003"},
        {"size_px": 256, "downsample": 4, "level": 1},
    ),
    "TRIDENT, sizes in whole pixels": (
        {"patch_size": "256", "patch_size_level0": "819", "level0_magnification": "40"},
        {"size_px": 256, "magnification": 12.5},
    ),
    "STAMP": (
        {"tile_size_um": "256.0", "tile_size_px": "224", "unit": "um"},
        {"size_um": 256, "size_px": 224},
    ),
    "STAMP before 2.1": ({"tile_size": "256.0", "unit": "um"}, {"size_um": 256}),
    "pixels of an unknown size": ({"tile_size": "256.0", "unit": "px"}, None),
    "an impossible size": ({"patch_size": "0", "patch_size_level0": "0"}, None),
    "nothing": ({}, None),
    "the grid of an export": ({"synthetic": "a grid", "patch_size": "64", "target_magnification": "1"}, None),
}


@pytest.mark.parametrize("name", STATED)
def test_the_attributes_of_every_tool_are_read(name: str) -> None:
    attributes, tile = STATED[name]
    assert read_tile(attributes) == tile


@pytest.mark.parametrize("text", ["wide", "nan", "-5", "20 x 20", "1.2.3"])
def test_an_attribute_that_is_not_a_number_is_an_error(tmp_path: Path, text: str) -> None:
    write_features(tmp_path / "f/a.h5", coords={**TRIDENT_20X, "patch_size": text})
    with pytest.raises(
        DataError, match=rf"a\.h5 cannot be read: its attribute patch_size is '{text}' instead"
    ):
        import_features(tmp_path / "f", "trident", tmp_path, "c")


MIXTURES: dict[str, tuple[str, str, Mapping[str, Attribute], Mapping[str, Attribute]]] = {
    "TRIDENT, 20x and 10x": ("trident", "coords", TRIDENT_20X, TRIDENT_10X),
    "TRIDENT, same pixels": ("trident", "coords", TRIDENT_20X, {**TRIDENT_20X, "target_magnification": 40}),
    "TRIDENT, same magnification": ("trident", "coords", TRIDENT_20X, {**TRIDENT_20X, "patch_size": 224}),
    "CLAM, another size": ("clam", "coords", CLAM, {**CLAM, "patch_size": 512}),
    "CLAM, another level": ("clam", "coords", CLAM, {**CLAM, "patch_level": 0, "downsample": (1.0, 1.0)}),
    "CLAM, another downsampling": ("clam", "coords", CLAM, {**CLAM, "downsample": (2.0, 2.0)}),
    "STAMP, micrometres": ("stamp", "file", STAMP, {**STAMP, "tile_size_um": 512.0}),
    "STAMP, pixels": ("stamp", "file", STAMP, {**STAMP, "tile_size_px": 448}),
    "TRIDENT's files as bags": ("bags", "coords", TRIDENT_20X, TRIDENT_10X),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_refused_and_two_imports_make_two_caches(
    name: str, tmp_path: Path, command: Command
) -> None:
    """One slide of each kind is named, and no cache is written."""
    format, place, one, other = MIXTURES[name]
    dataset = "feats" if format == "stamp" else "features"
    for slide, attributes in (("one1", one), ("one2", one), ("other", other)):
        for folder in ("mixed", slide[:3]):
            write_features(tmp_path / folder / f"{slide}.h5", name=dataset, **{place: attributes})
    options = ("--format", format, "--cohort", "c", "--cache", tmp_path / "cache")
    done = command("cache", "import", tmp_path / "mixed", *options)
    assert done.code == 3 and "mix tiles of different sizes or magnifications" in done.err
    assert "mixed/one1.h5: " in done.err and "(2 files)" in done.err and "mixed/other.h5: " in done.err
    assert "one2.h5" not in done.err and not (tmp_path / "cache").exists()
    folders = {command("cache", "import", tmp_path / part, *options).out for part in ("one", "oth")}
    assert len(folders) == 2 and all(Path(folder.strip()).is_dir() for folder in folders)


def test_another_size_at_level_0_is_no_difference(tmp_path: Path) -> None:
    """Slides scanned at 20x and 40x, cut at the same target."""
    write_features(tmp_path / "f/a.h5", coords={**TRIDENT_20X, "level0_magnification": 40})
    coords = {**TRIDENT_20X, "patch_size_level0": 256, "level0_magnification": 20}
    write_features(tmp_path / "f/b.h5", coords=coords)
    write_features(tmp_path / "f/c.h5", coords={**coords, "target_magnification": np.array([20.0])})
    cache = import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert cache.patient_ids == ("a", "b", "c")
    assert cache.spec["tile"] == {"size_px": 256, "magnification": 20}


def test_files_that_do_not_state_their_tiles_are_imported_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_features(tmp_path / "f/a.h5", coords=TRIDENT_20X)
    write_features(tmp_path / "f/b.h5")
    cache = import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert cache.spec["tile"] == {"size_px": 256, "magnification": 20}
    assert "not stated in 1 of 2 files" in caplog.text and "f/b.h5" in caplog.text


def test_caches_of_other_tiles_are_not_interchangeable(tmp_path: Path) -> None:
    """As the comparison of a bundle's spec with that of --features finds."""
    write_features(tmp_path / "one/a.h5", coords=TRIDENT_20X)
    write_features(tmp_path / "two/a.h5", coords=TRIDENT_10X)
    one, two = (import_features(tmp_path / name, "trident", tmp_path, "c") for name in ("one", "two"))
    assert [line.partition(":")[0] for line in spec_differences(one.spec, two.spec)] == ["tile"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_artificial_grid_of_an_export_states_no_tile(name: str, tmp_path: Path) -> None:
    export_cache(three_patients(tmp_path / "cache"), name, tmp_path / "out")
    cache = import_features(tmp_path / "out", name, tmp_path, "c", "net" if name == "clam" else None)
    assert "tile" not in cache.spec
