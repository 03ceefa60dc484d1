"""Feature files as other tools write them."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

Attribute = str | bytes | float | tuple[float, ...] | np.ndarray


def write_features(
    path: Path,
    features: np.ndarray | None = None,
    coords: Mapping[str, Attribute] | None = None,
    file: Mapping[str, Attribute] | None = None,
    name: str = "features",
    encoder: Attribute | None = "uni_v1",
) -> None:
    """Write an HDF5 file of features (N, D) and coords with these attributes.

    coords, file: attributes of the dataset `coords` and of the file
    name: of the dataset of features; encoder: its attribute
    """
    features = np.ones((2, 3), np.float32) if features is None else features
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as opened:
        opened[name] = features
        opened["coords"] = np.zeros((len(features), 2), np.int64)
        opened["coords"].attrs.update(coords or {})
        opened.attrs.update(file or {})
        if encoder is not None:
            opened[name].attrs["encoder"] = encoder
