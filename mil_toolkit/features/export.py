"""`export_cache`: write a cache's embeddings as the feature files of another tool."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import publish, remove_dead_temporaries
from mil_toolkit.core.own_folders import check_outside_own_folders
from mil_toolkit.core.text import printable, some
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.foreign_hdf5 import has_attribute
from mil_toolkit.features.isolation import Isolated, IsolatedProcess
from mil_toolkit.features.layouts import LAYOUTS, Layout, Slide

SYNTHETIC = "a grid in the order of the rows: single images have no place on a slide"
_TILE = 224  # pixels, if a cache does not record the size of its images


def export_cache(cache: FeatureCache, format: str, output: Path) -> int:
    """Write every patient's embeddings in the layout of a tool; return the number of patients.

    Row i is the i-th image of the bag. `coords` are an artificial grid, which their attribute `synthetic`
    says. For CLAM, h5_files/ and pt_files/ are written, for the other tools one file per patient in `output`.

    Raises DataError for patients whose id cannot be the name of a file, UsageError if files in `output` would
    be replaced that are not exports, or if `output` is in the folder of a cache, a study or a bundle.
    """
    layout, patients = LAYOUTS[format], cache.patient_ids
    unfit = [patient for patient in patients if "/" in patient or patient in (".", "..", "")]
    if unfit:
        raise DataError(
            [f"patient {printable(patient)}: this id cannot be the name of a file." for patient in unfit]
        )
    check_outside_own_folders(output / layout.folder / "x")
    _check_exports(output, layout, patients)
    for folder in {layout.folder, "pt_files" if ".pt" in layout.extensions else layout.folder}:
        remove_dead_temporaries(output / folder)
    bags = cache.bags(patients)
    for place, patient in enumerate(patients):
        embeddings = bags.embeddings(bags.rows(torch.tensor([place])))
        columns = math.ceil(math.sqrt(len(embeddings)))
        slide = Slide(patient, cache.folder.name, cache.spec["image_size"] or _TILE, columns)
        publish(output / layout.folder / f"{patient}.h5", _encode(layout, slide, embeddings.numpy()))
        if format == "clam":
            publish(output / "pt_files" / f"{patient}.pt", _tensor_bytes(embeddings.float()))
    return len(patients)


def _check_exports(output: Path, layout: Layout, patients: Sequence[str]) -> None:
    """Raise UsageError if a patient's files exist and its HDF5 file is not marked as an export."""
    files = {patient: output / layout.folder / f"{patient}.h5" for patient in patients}
    tensors = (output / "pt_files" / f"{patient}.pt" for patient in patients if ".pt" in layout.extensions)
    existing = {path.stem: path for path in (*tensors, *files.values()) if os.path.lexists(path)}
    with IsolatedProcess() as process:
        foreign = [
            printable(path)
            for patient, path in existing.items()
            if not _is_export(files[patient], process.call)
        ]
    if foreign:
        raise UsageError(f"{some(foreign)}: exists already and is not an export. Name another --output.")


def _is_export(path: Path, isolated: Isolated) -> bool:
    try:
        return has_attribute(path, "coords", "synthetic", isolated)
    except (FileNotFoundError, DataError):
        return False


def _encode(layout: Layout, slide: Slide, embeddings: NDArray[np.float16]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file[layout.features] = embeddings.astype(layout.dtype)
        file["coords"] = _grid(len(embeddings), slide).astype(layout.coords_dtype)
        file["coords"].attrs["synthetic"] = SYNTHETIC
        for name, attributes in layout.attributes(slide).items():
            (file[name] if name else file).attrs.update(attributes)
    return buffer.getvalue()


def _grid(count: int, slide: Slide) -> NDArray[np.int64]:
    rows, columns = np.divmod(np.arange(count), slide.columns)
    return np.stack([columns, rows], axis=1) * slide.tile


def _tensor_bytes(embeddings: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(embeddings.clone(), buffer)  # a slice would be saved with the storage of all bags
    return buffer.getvalue()
