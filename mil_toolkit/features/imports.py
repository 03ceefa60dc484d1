"""`import_features`: make a cache from the feature files of another tool."""

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest_file
from mil_toolkit.core.locks import shared
from mil_toolkit.core.text import printable
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.foreign import read_foreign, to_float16
from mil_toolkit.features.layouts import LAYOUTS, Layout
from mil_toolkit.features.publishing import ShardLimits, publish_in_shards
from mil_toolkit.features.shards import UNKNOWN_MTIME, EmbeddedBag, Recorded, StoredImage
from mil_toolkit.features.spec import SCHEMA, Spec

SHARD_LIMITS = ShardLimits(patients=64, images=2**15)
_TABLES = (("case_id", "slide_id"), ("PATIENT", "FILENAME"), ("patient", "path"))
logger = logging.getLogger(__name__)


class FeatureFile(NamedTuple):
    """A file, and its name within the tool's folder, without the extension."""

    name: str
    path: Path


class Content(NamedTuple):
    """What all files of an import have in common; precision: of the features, several joined by `+`."""

    width: int
    encoder: str
    precision: str


def import_features(
    source: Path,
    format: str,
    root: Path,
    cohort_name: str,
    encoder: str | None = None,
    table: Path | None = None,
) -> FeatureCache:
    """Make a cache from the feature files of another tool, or bring it up to date; return it.

    source: the tool's folder of features
    format: a name in LAYOUTS
    encoder: names the network if the files do not
    table: a CSV file that says which files belong to which patient, with the columns case_id and slide_id
        (CLAM), PATIENT and FILENAME (STAMP), or patient and path. By default a patient is one file, or all
        files in a folder.

    Features are stored in float16, the precision of every cache. The name of an instance consists of its
    file, row and coordinates.

    Raises DataError that names every file that cannot be imported, before anything is written: links, virtual
    or external data, values that are not finite or exceed float16, another width or encoder than the other
    files.
    """
    layout = LAYOUTS[format]
    files = _files(source, layout)
    patients = _by_table(files, table) if table else _by_folder(files)
    content = _check_all([file for group in patients.values() for file in group], layout, encoder)
    cache = FeatureCache.create(root, cohort_name, _spec(format, content))
    with shared(cache.folder):
        bags = (_join(patient, group, layout) for patient, group in patients.items())
        new = (bag for bag in bags if _is_new(bag, cache))
        publish_in_shards(cache, new, Recorded(content.precision, f"imported from {format}"), SHARD_LIMITS)
    cache.refresh()
    return cache


def _spec(format: str, content: Content) -> Spec:
    """Return the spec of imported features, of whose computation only the origin is known."""
    return {
        "schema": SCHEMA,
        "backbone": content.encoder,
        "weights": f"imported from {format}",
        "width": content.width,
        "seed": None,
        "weight_digest": None,
        "mean": None,
        "std": None,
        "image_size": 0,
        "crop": 0,
        "preprocess": "none",
    }


def _files(source: Path, layout: Layout) -> dict[str, Path]:
    """Return every feature file by its name within the tool's folder, without the extension."""
    folders = [source / layout.folder, source / "pt_files", source]
    folder = next((candidate for candidate in folders if candidate.is_dir()), None)
    if folder is None:
        raise UsageError(f"{source} is not a folder.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix in layout.extensions)
    if not paths:
        raise DataError(f"{folder} holds no files that end in {' or '.join(layout.extensions)}.")
    # Reversed, so that of two files with the same name the .h5 file is taken.
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in reversed(paths)}


def _by_folder(files: Mapping[str, Path]) -> dict[str, list[FeatureFile]]:
    patients: dict[str, list[FeatureFile]] = {}
    for name in sorted(files):
        patients.setdefault(name.partition("/")[0], []).append(FeatureFile(name, files[name]))
    return patients


def _by_table(files: Mapping[str, Path], table: Path) -> dict[str, list[FeatureFile]]:
    patients: dict[str, list[FeatureFile]] = {}
    absent = []
    for number, patient, name in _rows(table):
        name = name if name in files else name.removesuffix(Path(name).suffix)
        if name not in files:
            absent.append(f"{table}, row {number} (patient {patient}): there is no feature file {name!r}.")
        else:
            patients.setdefault(patient, []).append(FeatureFile(name, files[name]))
    if absent:
        raise DataError(absent)
    unused = len(files.keys() - {file.name for group in patients.values() for file in group})
    if unused:
        logger.info("%d feature files are in no row of %s and were not imported.", unused, table)
    return patients


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the row number, patient and file of each row."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or ()
            columns = next((columns for columns in _TABLES if {*columns} <= {*header}), None)
            if columns is None:
                expected = " or ".join(",".join(columns) for columns in _TABLES)
                raise DataError(f"{table}: expected the columns {expected}, got {','.join(header)}.")
            patient, name = columns
            yield from ((number, row[patient], row[name]) for number, row in enumerate(reader, 2))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read: {error}.") from None


class _Described(NamedTuple):
    """What has to be the same in all files, and the precision, which need not."""

    width: int
    encoder: str | None
    precision: str


def _check_all(files: Sequence[FeatureFile], layout: Layout, encoder: str | None) -> Content:
    """Return what all files have in common; raises DataError that names every file that does not fit."""
    problems: list[str] = []
    described: dict[Path, _Described] = {}
    for file in files:
        try:
            described[file.path] = _describe(file.path, layout, encoder)
        except DataError as error:
            problems += error.problems
    problems += _disagreements("width", {path: file.width for path, file in described.items()})
    problems += _disagreements("encoder", {path: file.encoder for path, file in described.items()})
    stated = next((file.encoder for file in described.values()), encoder)
    if encoder and stated != encoder:
        problems.append(f"--encoder {encoder}: the files say {stated}.")
    if not problems and stated is None:
        problems.append("The files do not say which network made them. Name it with --encoder.")
    if problems:
        raise DataError(problems)
    precisions = sorted({file.precision for file in described.values()})
    if precisions != ["float16"]:
        logger.info("Features in %s are stored in float16.", ", ".join(precisions))
    first = next(iter(described.values()))
    return Content(first.width, str(stated), "+".join(precisions))


def _describe(path: Path, layout: Layout, encoder: str | None) -> _Described:
    foreign = read_foreign(path, layout)
    to_float16(path, foreign.features)
    return _Described(foreign.features.shape[1], foreign.encoder or encoder, str(foreign.features.dtype))


def _disagreements(quantity: str, values: Mapping[Path, int | str | None]) -> list[str]:
    """Return a line for each file whose value is not the most common one."""
    common = max(values.values(), key=[*values.values()].count, default=None)
    return [
        f"{printable(path)}: {quantity} {value} instead of {common}, as in most files."
        for path, value in values.items()
        if value != common
    ]


def _join(patient: str, files: Sequence[FeatureFile], layout: Layout) -> EmbeddedBag:
    """Return all files of a patient as one bag."""
    images: list[StoredImage] = []
    embeddings = []
    for name, path in files:
        foreign = read_foreign(path, layout)
        content, size = bytes.fromhex(digest_file(path)), path.stat().st_size
        rows = range(len(foreign.features))
        images += [
            StoredImage(f"{name}:{row}{_place(foreign.coords, row)}", content, size, UNKNOWN_MTIME)
            for row in rows
        ]
        embeddings.append(to_float16(path, foreign.features))
    return EmbeddedBag(patient, tuple(images), np.concatenate(embeddings))


def _place(coords: NDArray[np.number] | None, row: int) -> str:
    return "" if coords is None else f"@{coords[row, 0]:g},{coords[row, 1]:g}"


def _is_new(bag: EmbeddedBag, cache: FeatureCache) -> bool:
    versions = cache.versions(bag.patient_id)
    return not versions or versions[0].digest != bag.digest
