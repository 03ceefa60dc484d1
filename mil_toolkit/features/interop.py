"""`export_cache` and `import_features`: the feature files of other tools, one a patient or slide.

Layouts as in the sources of CLAM (mahmoodlab/CLAM, extract_features_fp.py and dataset_modules/dataset_generic.py,
2025), TRIDENT 0.2.4 (trident/wsi_objects/WSI.py and trident/IO.py) and STAMP 2.1 (src/stamp/preprocessing and
src/stamp/modeling/data.py).
"""

import csv
import io
import logging
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest_file, publish, shown
from mil_toolkit.core.locks import shared
from mil_toolkit.core.text import some
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import SCHEMA, UNKNOWN_MTIME, EmbeddedBag, Recorded, StoredImage

SYNTHETIC = "a grid in the order of the rows: single images have no place on a slide"
STAMP_VERSION = "2.1.0"  # the first that reads tile_size_um
PATIENTS_PER_SHARD, INSTANCES_PER_SHARD = 64, 2**15
_TILE = 224  # pixels, where a cache does not know the size of its images
_TABLES = (("case_id", "slide_id"), ("PATIENT", "FILENAME"), ("patient", "path"))
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError)
Attributes = Mapping[str, Any]
logger = logging.getLogger(__name__)


class Slide(NamedTuple):
    """What an exported file says besides its numbers. tile: side of an image in pixels, the grid's step."""

    name: str
    encoder: str
    tile: int
    columns: int


class Layout(NamedTuple):
    """One tool's files.

    features: name of the dataset (N, D); dtype, coords_dtype: as the tool writes it and `coords` (N, 2)
    folder: where in its folder of features the tool keeps them; endings: of the files that are read
    attributes: for `""` (the file) and for each dataset, of a slide
    encoder: which attribute, of the file ("") or a dataset, names the network; None where none does
    """

    features: str
    dtype: DTypeLike
    coords_dtype: DTypeLike
    folder: str
    endings: tuple[str, ...]
    attributes: Callable[[Slide], Mapping[str, Attributes]]
    encoder: tuple[str, str] | None


def _clam(_: Slide) -> Mapping[str, Attributes]:
    return {}


def _trident(slide: Slide) -> Mapping[str, Attributes]:
    side = slide.columns * slide.tile
    coords = {
        "patch_size": slide.tile,
        "patch_size_level0": slide.tile,
        "level0_magnification": 1,  # unknown; a ratio of one to target_magnification is all that is meant
        "target_magnification": 1,
        "overlap": 0,
        "name": slide.name,
        "savetodir": "",
        "level0_width": side,
        "level0_height": side,
    }
    return {"features": {"name": slide.name, "savetodir": "", "encoder": slide.encoder}, "coords": coords}


def _stamp(slide: Slide) -> Mapping[str, Attributes]:
    attributes = {
        "stamp_version": STAMP_VERSION,
        "extractor": slide.encoder,
        "unit": "um",
        "tile_size_um": float(slide.tile),  # one micrometre a pixel, as synthetic as the grid
        "tile_size_px": slide.tile,
        "code_hash": "",
        "feat_type": "tile",
    }
    return {"": attributes}


LAYOUTS = {
    "clam": Layout("features", np.float32, np.int32, "h5_files", (".h5", ".pt"), _clam, None),
    "trident": Layout("features", np.float32, np.int64, "", (".h5",), _trident, ("features", "encoder")),
    "stamp": Layout("feats", np.float16, np.float32, "", (".h5",), _stamp, ("", "extractor")),
}


# Out of a cache.


def export_cache(cache: FeatureCache, format: str, output: Path) -> int:
    """Write every patient's embeddings in the layout of a tool; returns the number of patients.

    Row i is the i-th image of the bag. `coords` are a grid, and their attribute `synthetic` says so. CLAM gets
    h5_files/ and its twin pt_files/, the others one file a patient in `output`.

    Raises DataError for patients whose id cannot be a file's name, UsageError where files in `output` that are no
    exports would be replaced.
    """
    layout, patients = LAYOUTS[format], cache.patient_ids
    unfit = [patient for patient in patients if "/" in patient or patient in (".", "..", "")]
    if unfit:
        raise DataError([f"patient {shown(each)}: this id cannot be the name of a file." for each in unfit])
    _check_exports(output, layout, patients)
    bags = cache.bags(patients)
    for patient, embeddings in zip(patients, bags.instances.split(bags.sizes.tolist()), strict=True):
        columns = math.ceil(math.sqrt(len(embeddings)))
        slide = Slide(patient, cache.folder.name, cache.spec["image_size"] or _TILE, columns)
        publish(output / layout.folder / f"{patient}.h5", _encode(layout, slide, embeddings.numpy()))
        if format == "clam":
            publish(output / "pt_files" / f"{patient}.pt", _tensor_bytes(embeddings.float()))
    return len(patients)


def _check_exports(output: Path, layout: Layout, patients: Sequence[str]) -> None:
    """Raise UsageError where a patient's files are there and not known for exports by the first one's `synthetic`."""
    there = {patient: output / layout.folder / f"{patient}.h5" for patient in patients}
    twins = (output / "pt_files" / f"{patient}.pt" for patient in patients if ".pt" in layout.endings)
    taken = {path.stem: path for path in (*twins, *there.values()) if path.exists()}
    foreign = [shown(path) for patient, path in taken.items() if not _is_export(there[patient])]
    if foreign:
        raise UsageError(f"{some(foreign)}: there already, and no export. Name another --output.")


def _is_export(path: Path) -> bool:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "synthetic" in file["coords"].attrs
    except _UNREADABLE:
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
    torch.save(embeddings.clone(), buffer)  # a slice alone would take all its bag's neighbours along
    return buffer.getvalue()


# Into a cache.


class Foreign(NamedTuple):
    """What a file of another tool holds.

    features (N, D), of the file's own precision; coords (N, 2) or None; encoder: None where the file says none
    """

    features: NDArray[Any]
    coords: NDArray[Any] | None
    encoder: str | None


def import_features(
    source: Path,
    format: str,
    root: Path,
    cohort_name: str,
    encoder: str | None = None,
    table: Path | None = None,
) -> FeatureCache:
    """Make a cache from the feature files of another tool, or bring it up to date; returns it.

    A patient is one file, or all files in a folder, or what `table` says: a CSV file with the columns case_id and
    slide_id (CLAM), PATIENT and FILENAME (STAMP) or patient and path. Features are upcast, a leading dimension of
    one is dropped, and they are stored in float16, the precision of every cache. An instance is called by its
    file, row and coordinates. `encoder` names the network where the files do not.

    Raises DataError with every file that cannot be taken, before anything is written: links, virtual or external
    data, values that are not finite or exceed float16, another width or encoder than the other files.
    """
    layout = LAYOUTS[format]
    files = _files(source, layout)
    patients = _by_table(files, table) if table else _by_folder(files)
    width, name, precision = _check_all(
        [path for paths in patients.values() for path in paths], layout, encoder
    )
    cache = FeatureCache.create(root, cohort_name, _spec(format, name, width))
    with shared(cache.folder):
        bags = (_join(patient, paths, layout) for patient, paths in patients.items())
        for shard in _shards(bag for bag in bags if _is_new(bag, cache)):
            cache.publish(shard, Recorded(precision, f"imported from {format}"))
    cache.refresh()
    return cache


def _spec(format: str, encoder: str, width: int) -> dict[str, Any]:
    """Where the features come from is all that is known of how they were made."""
    unknown = dict.fromkeys(("seed", "weight_digest", "mean", "std"))
    known = {"schema": SCHEMA, "backbone": encoder, "weights": f"imported from {format}", "width": width}
    return known | unknown | {"image_size": 0, "crop": 0, "preprocess": "none"}


def _files(source: Path, layout: Layout) -> dict[str, Path]:
    """Every feature file by its name within the tool's folder, without its ending."""
    folders = [source / layout.folder, source / "pt_files", source]
    folder = next((each for each in folders if each.is_dir()), None)
    if folder is None:
        raise UsageError(f"{source} is no folder.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix in layout.endings)
    if not paths:
        raise DataError(f"{folder} holds no files that end in {' or '.join(layout.endings)}.")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in reversed(paths)}


Named = tuple[str, Path]


def _by_folder(files: Mapping[str, Path]) -> dict[str, list[Named]]:
    patients: dict[str, list[Named]] = {}
    for name in sorted(files):
        patients.setdefault(name.partition("/")[0], []).append((name, files[name]))
    return patients


def _by_table(files: Mapping[str, Path], table: Path) -> dict[str, list[Named]]:
    patients: dict[str, list[Named]] = {}
    absent = []
    for number, patient, name in _rows(table):
        name = name if name in files else name.removesuffix(Path(name).suffix)
        if name not in files:
            absent.append(f"{table}, row {number} (patient {patient}): there is no feature file {name!r}.")
        else:
            patients.setdefault(patient, []).append((name, files[name]))
    if absent:
        raise DataError(absent)
    unused = len(files.keys() - {name for named in patients.values() for name, _ in named})
    if unused:
        logger.info("%d feature files are in no row of %s and left out.", unused, table)
    return patients


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Row number, patient and file of each row."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            found = reader.fieldnames or ()
            columns = next((each for each in _TABLES if {*each} <= {*found}), None)
            if columns is None:
                wanted = " or ".join(",".join(each) for each in _TABLES)
                raise DataError(f"{table}: expected the columns {wanted}, got {','.join(found)}.")
            patient, name = columns
            yield from ((number, row[patient], row[name]) for number, row in enumerate(reader, 2))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read: {error}.") from None


def _check_all(files: Sequence[Named], layout: Layout, encoder: str | None) -> tuple[int, str, str]:
    """The width, encoder and precision of all files together; raises DataError with every file that does not fit."""
    problems: list[str] = []
    found: dict[Path, tuple[int, str | None, str]] = {}
    for _, path in files:
        try:
            foreign = _read(path, layout)
            _halved(path, foreign.features)
            found[path] = foreign.features.shape[1], foreign.encoder or encoder, str(foreign.features.dtype)
        except DataError as error:
            problems += error.problems
    problems += _disagreements("width", {path: each[0] for path, each in found.items()})
    problems += _disagreements("encoder", {path: each[1] for path, each in found.items()})
    stated = next((each[1] for each in found.values()), encoder)
    if encoder and stated != encoder:
        problems.append(f"--encoder {encoder}: the files say {stated}.")
    if not problems and stated is None:
        problems.append("The files do not say which network made them. Name it with --encoder.")
    if problems:
        raise DataError(problems)
    precisions = sorted({each[2] for each in found.values()})
    if precisions != ["float16"]:
        logger.info("Features in %s are stored in float16.", ", ".join(precisions))
    width, name, _ = next(iter(found.values()))
    return width, str(name), "+".join(precisions)


def _disagreements(what: str, values: Mapping[Path, object]) -> list[str]:
    """A line for each file whose value is not the most common one."""
    common = max(values.values(), key=[*values.values()].count, default=None)
    return [
        f"{shown(path)}: {what} {value} instead of {common}, as in most files."
        for path, value in values.items()
        if value != common
    ]


def _join(patient: str, files: Sequence[Named], layout: Layout) -> EmbeddedBag:
    """A patient's files as one bag."""
    images: list[StoredImage] = []
    embeddings = []
    for name, path in files:
        foreign = _read(path, layout)
        content = bytes.fromhex(digest_file(path))
        names = (f"{name}:{row}{_place(foreign.coords, row)}" for row in range(len(foreign.features)))
        images += [StoredImage(each, content, path.stat().st_size, UNKNOWN_MTIME) for each in names]
        embeddings.append(_halved(path, foreign.features))
    return EmbeddedBag(patient, tuple(images), np.concatenate(embeddings))


def _place(coords: NDArray[Any] | None, row: int) -> str:
    return "" if coords is None else f"@{coords[row, 0]:g},{coords[row, 1]:g}"


def _is_new(bag: EmbeddedBag, cache: FeatureCache) -> bool:
    versions = cache.versions(bag.patient_id)
    return not versions or versions[0].digest != bag.digest


def _shards(bags: Iterator[EmbeddedBag]) -> Iterator[list[EmbeddedBag]]:
    pending: list[EmbeddedBag] = []
    for bag in bags:
        pending.append(bag)
        instances = sum(len(each.images) for each in pending)
        if len(pending) >= PATIENTS_PER_SHARD or instances >= INSTANCES_PER_SHARD:
            yield pending
            pending = []
    if pending:
        yield pending


def _halved(path: Path, features: NDArray[Any]) -> NDArray[np.float16]:
    """In float16, by way of float32; raises DataError where that is not finite."""
    if not np.isfinite(features).all():
        raise DataError(f"{shown(path)}: {np.count_nonzero(~np.isfinite(features))} values are not finite.")
    with np.errstate(over="ignore"):
        halved = features.astype(np.float32).astype(np.float16)
    if not np.isfinite(halved).all():
        raise DataError(f"{shown(path)}: values of up to {np.abs(features).max():.3g} exceed float16.")
    return halved


def _read(path: Path, layout: Layout) -> Foreign:
    """One file; raises DataError where it cannot be read or is not laid out as it should be."""
    try:
        foreign = _read_tensor(path) if path.suffix == ".pt" else _read_hdf5(path, layout)
    except _UNREADABLE as error:
        raise DataError(f"{shown(path)} cannot be read: {str(error).splitlines()[0]}.") from None
    features, coords = _squeezed(foreign.features), foreign.coords
    if features.ndim != 2 or not features.size or not np.issubdtype(features.dtype, np.floating):
        what = f"{features.dtype} {foreign.features.shape}"
        raise DataError(f"{shown(path)}: expected features (N, D) of floating-point numbers, got {what}.")
    coords = None if coords is None else _squeezed(coords)
    if coords is not None and coords.shape != (len(features), 2):
        raise DataError(f"{shown(path)}: coords {coords.shape} do not fit {len(features)} features.")
    return Foreign(features, coords, foreign.encoder)


def _squeezed(values: NDArray[Any]) -> NDArray[Any]:
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def _read_tensor(path: Path) -> Foreign:
    tensor = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"it holds {type(tensor).__name__} instead of one tensor")
    return Foreign((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(), None, None)


def _read_hdf5(path: Path, layout: Layout) -> Foreign:
    with h5py.File(path, "r", locking=False) as file:
        _refuse_elsewhere(path, file)
        missing = [
            name for name in (layout.features, "coords") if not isinstance(file.get(name), h5py.Dataset)
        ]
        if missing:
            raise DataError(f"{shown(path)} has no dataset {' nor '.join(missing)}; it holds {sorted(file)}.")
        encoder = None
        if layout.encoder:
            place, name = layout.encoder
            encoder = (file[place] if place else file).attrs.get(name)
        known = None if encoder in (None, "None") else str(encoder)  # TRIDENT writes the word for nothing
        return Foreign(file[layout.features][()], file["coords"][()], known)


def _refuse_elsewhere(path: Path, file: h5py.File) -> None:
    """Raise DataError where opening what the file holds would read another file, or follow a name."""
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{shown(path)}: {name} is a link, which no feature file needs.")
        each = file[name]
        if isinstance(each, h5py.Dataset) and (each.is_virtual or each.external):
            raise DataError(f"{shown(path)}: {name} keeps its data in other files.")
