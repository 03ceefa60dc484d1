"""Shards: immutable HDF5 files of embeddings, named by the digest of their bytes."""

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import canonical_json, check_schema, digest

SCHEMA = 1
UNKNOWN_MTIME = -1
_SHARD_NAME = re.compile(r"[0-9a-f]{64}\.h5")
_DATASETS = frozenset(
    {"embeddings", "offsets", "patient_ids", "bag_digests", "image_names", "image_digests", "image_stats"}
)
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError)


class StoredImage(NamedTuple):
    """What a shard knows of the file behind an embedding.

    digest: SHA-256 of the file's content; size in bytes; mtime_ns: UNKNOWN_MTIME where it cannot be trusted
    """

    name: str
    digest: bytes
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class EmbeddedBag:
    """One patient's embeddings, on their way to a shard. embeddings: (n, D) float16, a row an image."""

    patient_id: str
    images: tuple[StoredImage, ...]
    embeddings: NDArray[np.float16]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the patient, its images and its embeddings' bits."""
        images = [[image.name, image.digest.hex()] for image in self.images]
        head = canonical_json([self.patient_id, images])
        return bytes.fromhex(digest(head + self.embeddings.tobytes()))


class Recorded(NamedTuple):
    """How a shard's embeddings were computed, beyond the spec: a difference is tolerated, and told."""

    precision: str
    decoder: str


@dataclass(frozen=True, eq=False)
class Shard:
    """One shard, all but its embeddings. p patients, n images; see `encode_shard` for the layout."""

    path: Path
    sequence: int
    recorded: Recorded
    patient_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    bag_digests: NDArray[np.uint8]
    image_names: NDArray[np.bytes_]
    image_digests: NDArray[np.uint8]
    image_stats: NDArray[np.int64]

    def embeddings(self) -> NDArray[np.float16]:
        """(n, D) float16; raises DataError where the file's bytes are not those of its name."""
        with h5py.File(h5py.h5f.open_file_image(_checked_bytes(self.path))) as file:
            embeddings: NDArray[np.float16] = file["embeddings"][()]
        return embeddings


@dataclass(frozen=True)
class StoredBag:
    """One patient's bag in one shard."""

    shard: Shard
    index: int

    @property
    def rows(self) -> slice:
        """Where the bag lies in its shard."""
        return slice(*self.shard.offsets[self.index : self.index + 2].tolist())

    @property
    def digest(self) -> bytes:
        """`EmbeddedBag.digest` of what was written."""
        return bytes(self.shard.bag_digests[self.index])

    @property
    def image_names(self) -> list[str]:
        """The images' names, in the order of the rows."""
        return [os.fsdecode(name) for name in self.shard.image_names[self.rows].tolist()]

    @property
    def images(self) -> tuple[StoredImage, ...]:
        """What is known of the images, in the order of the rows."""
        digests = [row.tobytes() for row in self.shard.image_digests[self.rows]]
        stats = self.shard.image_stats[self.rows].tolist()
        rows = zip(self.image_names, digests, stats, strict=True)
        return tuple(StoredImage(name, content, *stat) for name, content, stat in rows)


def shard_paths(folder: Path) -> list[Path]:
    """The files in a cache's folder that have a shard's name, sorted."""
    return sorted(path for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name))


def encode_shard(bags: Sequence[EmbeddedBag], spec_digest: str, sequence: int, recorded: Recorded) -> bytes:
    """The bytes of a shard of p patients and n images; equal input gives equal bytes.

    Datasets: embeddings (n, D) float16; offsets (p + 1,); patient_ids (p,); bag_digests (p, 32);
    image_names (n,) as the bytes of the file system; image_digests (n, 32); image_stats (n, 2): size, mtime_ns.
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
    """All of a shard but its embeddings.

    Raises DataError where it is damaged, foreign or of another spec, FileNotFoundError where it vanished.
    """
    content = _checked_bytes(path)
    try:
        with h5py.File(h5py.h5f.open_file_image(content)) as file:
            _check_origin(path, file.attrs, spec_digest)
            datasets = _plain_datasets(path, file)
            shard = _shard(path, file.attrs, datasets)
            found = datasets["embeddings"].shape, datasets["embeddings"].dtype
    except _UNREADABLE as error:
        raise damaged(path, f"it cannot be read ({error})") from None
    steps = np.diff(shard.offsets)
    if found != ((shard.offsets[-1], width), np.float16) or shard.offsets[0] != 0 or (steps < 1).any():
        raise damaged(path, "its datasets do not fit together")
    return shard


def _checked_bytes(path: Path) -> bytes:
    """A shard's bytes; raises DataError where they are not those of its name.

    This comes before HDF5 sees them: one flipped bit can make it loop without end, or make an older shard count.
    """
    content = path.read_bytes()
    if digest(content) != path.stem:
        raise damaged(path, "its bytes do not match its name")
    return content


def _shard(path: Path, attributes: Mapping[str, Any], datasets: Mapping[str, h5py.Dataset]) -> Shard:
    return Shard(
        path=path,
        sequence=int(attributes["sequence"]),
        recorded=Recorded(attributes["precision"], attributes["decoder"]),
        patient_ids=tuple(os.fsdecode(patient) for patient in datasets["patient_ids"][()].tolist()),
        offsets=datasets["offsets"][()],
        bag_digests=datasets["bag_digests"][()],
        image_names=datasets["image_names"][()],
        image_digests=datasets["image_digests"][()],
        image_stats=datasets["image_stats"][()],
    )


def _plain_datasets(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    """Exactly the datasets written here: a link or a virtual dataset would read another file."""
    names = set(file)
    if names != _DATASETS:
        raise DataError(f"{path} is not a shard of this toolkit: it holds {sorted(names)}.")
    if not all(isinstance(file.get(name, getlink=True), h5py.HardLink) for name in names):
        raise DataError(f"{path} holds links to elsewhere, which no shard may.")
    datasets = {name: file[name] for name in names}
    if not all(isinstance(each, h5py.Dataset) for each in datasets.values()):
        raise DataError(f"{path} is not a shard of this toolkit: it holds more than datasets.")
    if any(each.is_virtual or each.external for each in datasets.values()):
        raise DataError(f"{path} keeps data in other files, which no shard may.")
    return datasets


def _check_origin(path: Path, attributes: Mapping[str, Any], spec_digest: str) -> None:
    check_schema(path, int(attributes["schema"]), SCHEMA)
    if attributes["spec"] != spec_digest:
        raise DataError(f"{path} belongs to another spec than {path.parent / 'spec.json'}.")


def damaged(path: Path, reason: str) -> DataError:
    """The error for a shard that is not what a writer left."""
    return DataError(f"{path} is damaged: {reason}. Remove it and run mil-extract again.")
