"""Shards: immutable HDF5 files of embeddings, each named by the SHA-256 of its bytes."""

import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import canonical_json, check_schema, digest
from mil_toolkit.features.spec import SCHEMA

UNKNOWN_MTIME = -1
SETTLED_NS = 2_000_000_000  # older than this, an mtime changes with the file, whatever the clock's resolution
_SHARD_NAME = re.compile(r"[0-9a-f]{64}\.h5")
_DATASETS = frozenset(
    {"embeddings", "offsets", "patient_ids", "bag_digests", "image_names", "image_digests", "image_stats"}
)
_UNREADABLE = (OSError, LookupError, ValueError, TypeError, RuntimeError)


def is_settled(mtime_ns: int) -> bool:
    """Return whether any later change of a file with this mtime will change its mtime."""
    return mtime_ns < time.time_ns() - SETTLED_NS


class StoredImage(NamedTuple):
    """The image file behind an embedding.

    digest: SHA-256 of the file's content
    size: in bytes
    mtime_ns: UNKNOWN_MTIME if a later change of the file might not change it
    """

    name: str
    digest: bytes
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class EmbeddedBag:
    """One patient's embeddings before they are written to a shard; (n, D) float16, one row per image."""

    patient_id: str
    images: tuple[StoredImage, ...]
    embeddings: NDArray[np.float16]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the patient's id, the images' names and digests, and the bytes of the embeddings."""
        images = [[image.name, image.digest.hex()] for image in self.images]
        head = canonical_json([self.patient_id, images])
        return bytes.fromhex(digest(head + self.embeddings.tobytes()))


class Recorded(NamedTuple):
    """How a shard's embeddings were computed, beyond the spec. Differences are reported, not refused."""

    precision: str
    decoder: str


class FileState(NamedTuple):
    """Identifies the content of a file without reading it; see `FileState.of`."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """Return the state of a file, which changes whenever a file with a settled mtime is written to."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, eq=False)
class Shard:
    """One shard without its embeddings, of p patients and n images; see `encode_shard` for the layout.

    verified: state of the file whose bytes matched its name; None if that state might survive a change
    """

    path: Path
    verified: FileState | None
    sequence: int
    recorded: Recorded
    patient_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    bag_digests: NDArray[np.uint8]
    image_names: NDArray[np.bytes_]
    image_digests: NDArray[np.uint8]
    image_stats: NDArray[np.int64]

    def embeddings(self) -> NDArray[np.float16]:
        """Read the embeddings, (n, D) float16; raises DataError if the file's bytes do not match its name."""
        content, _ = _read_verified(self.path, self.verified)
        with _opened(content) as file:
            embeddings: NDArray[np.float16] = file["embeddings"][()]
        return embeddings

    def is_unchanged(self) -> bool:
        """Return whether the file exists and is certainly the one whose bytes were verified."""
        try:
            return self.verified is not None and FileState.of(self.path.stat()) == self.verified
        except FileNotFoundError:
            return False


@dataclass(frozen=True)
class StoredBag:
    """One patient's bag in one shard."""

    shard: Shard
    index: int

    @property
    def rows(self) -> slice:
        """The bag's rows in its shard."""
        return slice(*self.shard.offsets[self.index : self.index + 2].tolist())

    @property
    def digest(self) -> bytes:
        """The `EmbeddedBag.digest` of the bag as it was written."""
        return bytes(self.shard.bag_digests[self.index])

    @property
    def image_names(self) -> list[str]:
        """The images' names, in the order of the rows."""
        return [os.fsdecode(name) for name in self.shard.image_names[self.rows].tolist()]

    @property
    def images(self) -> tuple[StoredImage, ...]:
        """The images, in the order of the rows."""
        digests = [row.tobytes() for row in self.shard.image_digests[self.rows]]
        stats = self.shard.image_stats[self.rows].tolist()
        rows = zip(self.image_names, digests, stats, strict=True)
        return tuple(StoredImage(name, content, *stat) for name, content, stat in rows)


def by_shard(bags: Sequence[StoredBag]) -> list[tuple[Shard, list[int]]]:
    """Group bags by shard: each shard with the positions of its bags in `bags`."""
    positions: dict[Path, list[int]] = {}
    for position, bag in enumerate(bags):
        positions.setdefault(bag.shard.path, []).append(position)
    return [(bags[group[0]].shard, group) for group in positions.values()]


def shard_paths(folder: Path) -> list[Path]:
    """Return the files in a cache's folder that have the name of a shard, sorted."""
    return sorted(path for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name))


def encode_shard(bags: Sequence[EmbeddedBag], spec_digest: str, sequence: int, recorded: Recorded) -> bytes:
    """Return the bytes of a shard of p patients and n images; equal arguments give equal bytes.

    Datasets: embeddings (n, D) float16; offsets (p + 1,); patient_ids (p,); bag_digests (p, 32); image_names
    (n,), encoded as the file system does; image_digests (n, 32); image_stats (n, 2): size and mtime_ns.
    """
    images = [image for bag in bags for image in bag.images]
    datasets = {
        "embeddings": np.concatenate([bag.embeddings for bag in bags]),
        "offsets": np.cumsum([0, *(len(bag.images) for bag in bags)]),
        "patient_ids": np.array([os.fsencode(bag.patient_id) for bag in bags]),
        "bag_digests": _digest_rows([bag.digest for bag in bags]),
        "image_names": np.array([os.fsencode(image.name) for image in images]),
        "image_digests": _digest_rows([image.digest for image in images]),
        "image_stats": np.array([(image.size, image.mtime_ns) for image in images], dtype=np.int64),
    }
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update(schema=SCHEMA, spec=spec_digest, sequence=sequence, **recorded._asdict())
        for name, values in datasets.items():
            file[name] = values
    return buffer.getvalue()


def _digest_rows(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)


def read_shard(path: Path, spec_digest: str, width: int) -> Shard:
    """Open a shard without keeping its embeddings.

    Raises DataError if it is damaged, not a shard or of another spec, FileNotFoundError if it does not exist.
    """
    content, verified = _read_verified(path)
    try:
        with _opened(content) as file:
            return _parse(path, verified, file, spec_digest, width)
    except _UNREADABLE as error:
        raise damaged(path, f"it cannot be read ({error})") from None


def read_whole_shard(path: Path, spec_digest: str, width: int) -> tuple[Shard, NDArray[np.float16]]:
    """Open a shard and read its embeddings, (n, D) float16, in one pass; raises as `read_shard` does."""
    content, verified = _read_verified(path)
    try:
        with _opened(content) as file:
            return _parse(path, verified, file, spec_digest, width), file["embeddings"][()]
    except _UNREADABLE as error:
        raise damaged(path, f"it cannot be read ({error})") from None


def _read_verified(path: Path, verified: FileState | None = None) -> tuple[bytes, FileState | None]:
    """Read a shard's bytes; raises DataError if they do not match its name.

    verified: the file's state when its bytes last matched. If the file still has it, they are not hashed
        again.

    Returns the bytes, and the state that the file keeps as long as it does not change; None if a later change
    might keep the state too.

    The check comes before HDF5 sees the bytes: a single flipped bit can make HDF5 loop forever, or make an
    older shard take precedence.
    """
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        settled = is_settled(max(before.st_mtime_ns, before.st_ctime_ns))
        content = file.read()
        after = FileState.of(os.fstat(file.fileno()))
    if after != verified and digest(content) != path.stem:
        raise damaged(path, "its bytes do not match its name")
    return content, FileState.of(before) if settled else None


def _opened(content: bytes) -> h5py.File:
    return h5py.File(h5py.h5f.open_file_image(content))


def _parse(path: Path, verified: FileState | None, file: h5py.File, spec_digest: str, width: int) -> Shard:
    _check_origin(path, file.attrs, spec_digest)
    datasets = _plain_datasets(path, file)
    shard = Shard(
        path=path,
        verified=verified,
        sequence=int(file.attrs["sequence"]),
        recorded=Recorded(file.attrs["precision"], file.attrs["decoder"]),
        patient_ids=tuple(os.fsdecode(patient) for patient in datasets["patient_ids"][()].tolist()),
        offsets=datasets["offsets"][()],
        bag_digests=datasets["bag_digests"][()],
        image_names=datasets["image_names"][()],
        image_digests=datasets["image_digests"][()],
        image_stats=datasets["image_stats"][()],
    )
    embeddings, offsets = datasets["embeddings"], shard.offsets
    fits = (embeddings.shape, embeddings.dtype) == ((offsets[-1], width), np.float16)
    if not fits or offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise damaged(path, "its datasets do not fit together")
    return shard


def _plain_datasets(path: Path, file: h5py.File) -> Mapping[str, h5py.Dataset]:
    """Return the file's datasets, which must be exactly those of `encode_shard`.

    Links, virtual datasets and external storage are refused because they would read other files.
    """
    names = set(file)
    if names != _DATASETS:
        raise DataError(f"{path} is not a shard of this toolkit: it holds {sorted(names)}.")
    if not all(isinstance(file.get(name, getlink=True), h5py.HardLink) for name in names):
        raise DataError(f"{path} contains links, which are not allowed in a shard.")
    datasets = {name: file[name] for name in names}
    if not all(isinstance(dataset, h5py.Dataset) for dataset in datasets.values()):
        raise DataError(f"{path} is not a shard of this toolkit: it holds more than datasets.")
    if any(dataset.is_virtual or dataset.external for dataset in datasets.values()):
        raise DataError(f"{path} keeps data in other files, which is not allowed in a shard.")
    return datasets


def _check_origin(path: Path, attributes: h5py.AttributeManager, spec_digest: str) -> None:
    check_schema(path, int(attributes["schema"]), SCHEMA)
    if attributes["spec"] != spec_digest:
        raise DataError(f"{path} belongs to another spec than {path.parent / 'spec.json'}.")


def damaged(path: Path, reason: str) -> DataError:
    """Return the error for a shard whose content is not what a writer published."""
    return DataError(f"{path} is damaged: {reason}. Remove it and run mil-extract again.")
