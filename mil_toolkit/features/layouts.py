"""`LAYOUTS` and `SOURCES`: the feature files of CLAM, TRIDENT and STAMP, one per patient or slide.

As in the sources of CLAM (mahmoodlab/CLAM, extract_features_fp.py and dataset_modules/dataset_generic.py,
2025), TRIDENT 0.2.4 (trident/wsi_objects/WSI.py and trident/IO.py) and STAMP 2.1 (src/stamp/preprocessing and
src/stamp/modeling/data.py).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

STAMP_VERSION = "2.1.0"  # the first version that reads tile_size_um
Attributes = Mapping[str, str | int | float]


class Slide(NamedTuple):
    """What the attributes of an exported file are made of.

    tile: side of an image in pixels, which is also the step of the grid
    columns: of the grid
    """

    name: str
    encoder: str
    tile: int
    columns: int


class Layout(NamedTuple):
    """The files that are written for one tool.

    features: name of the dataset of features (N, D)
    dtype, coords_dtype: in which the tool writes the features and the dataset `coords` (N, 2)
    folder: subfolder of the tool's folder of features, empty for none
    extensions: of the files
    attributes: returns the attributes of a slide's datasets, by the dataset's name, those of the file under
        ""
    """

    features: str
    dtype: DTypeLike
    coords_dtype: DTypeLike
    folder: str
    extensions: tuple[str, ...]
    attributes: Callable[[Slide], Mapping[str, Attributes]]


class Source(NamedTuple):
    """The files that are read from one tool.

    features: name of the dataset of features (N, D)
    folders: subfolders with the same slides in different formats; without them, the folder itself is read
    extensions: of the files; of two files with the same name, the one whose extension comes first is read
    needs_coords: whether HDF5 files must have the dataset `coords` (N, 2)
    """

    features: str
    folders: tuple[str, ...]
    extensions: tuple[str, ...]
    needs_coords: bool


def _clam(_: Slide) -> Mapping[str, Attributes]:
    return {}


def _trident(slide: Slide) -> Mapping[str, Attributes]:
    side = slide.columns * slide.tile
    coords: Attributes = {
        "patch_size": slide.tile,
        "patch_size_level0": slide.tile,
        "level0_magnification": 1,  # unknown; only the ratio to target_magnification matters, and it is one
        "target_magnification": 1,
        "overlap": 0,
        "name": slide.name,
        "savetodir": "",
        "level0_width": side,
        "level0_height": side,
    }
    return {"features": {"name": slide.name, "savetodir": "", "encoder": slide.encoder}, "coords": coords}


def _stamp(slide: Slide) -> Mapping[str, Attributes]:
    attributes: Attributes = {
        "stamp_version": STAMP_VERSION,
        "extractor": slide.encoder,
        "unit": "um",
        "tile_size_um": float(slide.tile),  # one micrometre per pixel, as artificial as the grid
        "tile_size_px": slide.tile,
        "code_hash": "",
        "feat_type": "tile",
    }
    return {"": attributes}


LAYOUTS = {
    "clam": Layout("features", np.float32, np.int32, "h5_files", (".h5", ".pt"), _clam),
    "trident": Layout("features", np.float32, np.int64, "", (".h5",), _trident),
    "stamp": Layout("feats", np.float16, np.float32, "", (".h5",), _stamp),
}
SOURCES = {
    "clam": Source("features", ("h5_files", "pt_files"), (".h5", ".pt"), needs_coords=True),
    "trident": Source("features", (), (".h5",), needs_coords=True),
    "stamp": Source("feats", (), (".h5",), needs_coords=True),
    "bags": Source("features", (), (".h5", ".hdf5", ".pt", ".npy"), needs_coords=False),
}
