"""Shards: immutable HDF5 files of embeddings, each named by the SHA-256 of its bytes."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError, MilError, UsageError
from mil_toolkit.core.file_state import FileState, is_settled
from mil_toolkit.core.files import canonical_json, check_schema, digest
from mil_toolkit.core.reading import MEBIBYTE, open_input, read_at, report_read_errors
from mil_toolkit.core.text import printable
from mil_toolkit.features.plain_hdf5 import Place
from mil_toolkit.features.shard_layout import (
    ShardArrays,
    ShardAttributes,
    ShardProblem,
    checked_arrays,
    parse_shard,
)
from mil_toolkit.features.shard_scales import SCALES, parse_scales, scale_texts
from mil_toolkit.features.spec import FILE_NAME as SPEC_NAME
from mil_toolkit.features.spec import SCHEMA

_ON = " on "  # before the architecture in the text of `Recorded`
_SHARD_NAME = re.compile(r"[0-9a-f]{64}\.h5")
_MAX_BYTES = 4096 * MEBIBYTE  # more than a shard of 30,000 images and a bag of a million tiles
_ADVICE = "Remove it and run mil-extract again, or mil-cache import for imported features."


class RemovedShard(DataError):
    """A shard that was opened and does not exist any more, because newer ones replaced it."""


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

    @property
    def stat_key(self) -> tuple[str, int, int]:
        """A key of the image within its patient, which stays as long as its file does not change."""
        return self.name, self.size, self.mtime_ns


@dataclass(frozen=True)
class EmbeddedBag:
    """One patient's embeddings before they are written to a shard.

    embeddings: (n, D), one row per image
    augmented: (n, A, D), the same images in A other orientations each; None if there are none
    microns_per_pixel: of the image files, if the images were resampled
    """

    patient_id: str
    images: tuple[StoredImage, ...]
    embeddings: NDArray[np.float16]
    augmented: NDArray[np.float16] | None = None
    microns_per_pixel: float | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the patient's id, the images' names and digests, and the bytes of all embeddings."""
        images = ((image.name, image.digest.hex()) for image in self.images)
        return _bag_digest(self.patient_id, images, self.embeddings, self.augmented)


def _bag_digest(
    patient_id: str,
    images: Iterable[tuple[str, str]],
    embeddings: NDArray[np.float16],
    augmented: NDArray[np.float16] | None,
) -> bytes:
    """Return `EmbeddedBag.digest`; images: pairs of a name and the digest of the file in hexadecimal."""
    hashed = hashlib.sha256(canonical_json([patient_id, [*images]]))
    hashed.update(np.ascontiguousarray(embeddings).data)
    if augmented is not None:
        hashed.update(np.ascontiguousarray(augmented).data)
    return hashed.digest()


class Recorded(NamedTuple):
    """How a shard's embeddings were computed, beyond the spec. Differences are reported, not refused.

    architecture: of the graphics processor: such as `sm_90` for CUDA, or `mps`; empty for a CPU
    """

    precision: str
    decoder: str
    architecture: str = ""

    def __str__(self) -> str:
        on = f"{_ON}{self.architecture}" if self.architecture else ""
        return f"{self.precision} with {self.decoder}{on}"


def architectures(computed: Iterable[str]) -> set[str]:
    """Return the distinct architectures in texts of `Recorded`, the empty one for CPUs.

    >>> sorted(architectures(["float32 with pillow 12", "bfloat16 with pillow 12 on sm_90"]))
    ['', 'sm_90']
    """
    return {text.rpartition(_ON)[2] if _ON in text else "" for text in computed}


@dataclass(frozen=True, eq=False)
class Shard:
    """One shard of p patients and n images, without what grows with n; see `encode_shard` for the layout.

    verified: state of the file whose bytes matched its name; None if that state might survive a change
    places: where each dataset lies in the file
    scales: micrometres per pixel of each patient's image files, if the images were resampled
    """

    path: Path
    verified: FileState | None
    sequence: int
    recorded: Recorded
    patient_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    bag_digests: NDArray[np.uint8]
    places: Mapping[str, Place]
    scales: tuple[float | None, ...]

    def read(self, rows: slice, *names: str) -> list[NDArray[np.generic]]:
        """Read these rows of some datasets of n rows, and nothing else if the file has not changed.

        Raises DataError if the file's bytes do not match its name, RemovedShard if it does not exist.
        """
        places = [self.places[name].rows(rows.start, rows.stop) for name in names]
        try:
            with open_input(self.path) as file:
                parts = [read_at(file, place.size, place.address) for place in places]
                unchanged = FileState.of(os.fstat(file.fileno())) == self.verified
            if unchanged and all(len(part) == place.size for part, place in zip(parts, places, strict=True)):
                return [place.view(part, place.address) for part, place in zip(parts, places, strict=True)]
            content, _ = _read_verified(self.path)
        except FileNotFoundError:
            raise RemovedShard(
                f"{printable(self.path)} was removed while it was in use. Try again."
            ) from None
        return [place.view(content) for place in places]

    @property
    def size(self) -> int:
        """Number of images, n."""
        return int(self.offsets[-1])

    @property
    def augmented(self) -> int:
        """Number of orientations of each image besides the image as it is."""
        return self.places["augmented"].shape[1] if "augmented" in self.places else 0

    def orientations(self, rows: slice) -> NDArray[np.float16]:
        """Read these rows of the embeddings in all orientations, (n, 1 + A, D), the image as it is first.

        Raises as `read` does.
        """
        names = ("embeddings", "augmented") if self.augmented else ("embeddings",)
        first, *others = (part.view(np.float16) for part in self.read(rows, *names))
        return np.concatenate([first[:, None], *others], axis=1)

    def is_unchanged(self) -> bool:
        """Return whether the file exists and is certainly the one whose bytes were verified."""
        try:
            return self.verified is not None and FileState.of(self.path.stat()) == self.verified
        except OSError:
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
    def size(self) -> int:
        """Number of images."""
        return self.rows.stop - self.rows.start

    @property
    def digest(self) -> bytes:
        """The `EmbeddedBag.digest` of the bag as it was written."""
        return bytes(self.shard.bag_digests[self.index])

    @property
    def patient_id(self) -> str:
        """The patient's id."""
        return self.shard.patient_ids[self.index]

    @property
    def microns_per_pixel(self) -> float | None:
        """The micrometres per pixel of the image files; None if the images were not resampled."""
        return self.shard.scales[self.index]

    def embeddings(self, start: int, stop: int) -> NDArray[np.float16]:
        """Read the embeddings of the bag's images from `start` to `stop`, (n, D) float16."""
        rows = slice(self.rows.start + start, self.rows.start + stop)
        (embeddings,) = self.shard.read(rows, "embeddings")
        return embeddings.view(np.float16)

    def orientations(self, start: int, stop: int) -> NDArray[np.float16]:
        """Read the embeddings of the images from `start` to `stop` in all orientations, (n, 1 + A, D)."""
        return self.shard.orientations(slice(self.rows.start + start, self.rows.start + stop))

    def read_names(self) -> list[str]:
        """Read the images' names, in the order of the rows."""
        (names,) = self.shard.read(self.rows, "image_names")
        return decoded(names)

    def read_digests(self) -> NDArray[np.uint8]:
        """Read the SHA-256 of each image's file, (n, 32), in the order of the rows."""
        (digests,) = self.shard.read(self.rows, "image_digests")
        return digests.view(np.uint8)

    def read_images(self) -> tuple[StoredImage, ...]:
        """Read the images, in the order of the rows."""
        names, digests, stats = self.shard.read(self.rows, "image_names", "image_digests", "image_stats")
        rows = zip(decoded(names), (row.tobytes() for row in digests), stats.tolist(), strict=True)
        return tuple(StoredImage(name, content, *stat) for name, content, stat in rows)


def decoded(names: NDArray[np.generic]) -> list[str]:
    """Return image names (n,) of a shard as texts."""
    return [os.fsdecode(name) for name in names.tolist()]


def by_shard(bags: Sequence[StoredBag]) -> list[tuple[Shard, list[int]]]:
    """Group bags by shard: each shard with the positions of its bags in `bags`."""
    positions: dict[Path, list[int]] = {}
    for position, bag in enumerate(bags):
        positions.setdefault(bag.shard.path, []).append(position)
    return [(bags[group[0]].shard, group) for group in positions.values()]


def shard_paths(folder: Path) -> list[Path]:
    """Return the files in a cache's folder that have the name of a shard, sorted."""
    with report_read_errors(folder):
        return sorted(path for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name))


def encode_shard(bags: Sequence[EmbeddedBag], spec_digest: str, sequence: int, recorded: Recorded) -> bytes:
    """Return the bytes of a shard of p patients and n images; equal arguments give equal bytes.

    Datasets: embeddings (n, D) float16; offsets (p + 1,); patient_ids (p,); bag_digests (p, 32); image_names
    (n,), encoded as the file system does; image_digests (n, 32); image_stats (n, 2): size and mtime_ns; if
    images are embedded in A other orientations besides, augmented (n, A, D) float16; of resampled images also
    scales (p,).
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
    augmented = [bag.augmented for bag in bags if bag.augmented is not None]
    if augmented:
        datasets["augmented"] = np.concatenate(augmented)
    if any(bag.microns_per_pixel is not None for bag in bags):
        datasets[SCALES] = scale_texts([bag.microns_per_pixel for bag in bags])
    import h5py  # to read shards, it is not needed

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update(schema=SCHEMA, spec=spec_digest, sequence=sequence, **_attributes(recorded))
        for name, values in datasets.items():
            file[name] = values
    return buffer.getvalue()


def _attributes(recorded: Recorded) -> dict[str, str]:
    """Return how embeddings were computed as attributes; shards of a CPU have no architecture."""
    attributes: dict[str, str] = recorded._asdict()
    if not recorded.architecture:
        del attributes["architecture"]
    return attributes


def _digest_rows(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)


def read_shards(
    paths: Iterable[Path],
    spec_digest: str,
    width: int,
    augmented: int = 0,
    ended: Callable[[], object] = lambda: None,
) -> list[Shard]:
    """Open shards as `read_shard` does; raises one error about all that cannot be read.

    ended: called after each shard
    """
    shards: list[Shard] = []
    errors: list[MilError] = []
    for path in paths:
        try:
            shards.append(read_shard(path, spec_digest, width, augmented))
        except MilError as error:
            errors.append(error)
        ended()
    if errors:
        raise joined(errors)
    return shards


def joined(errors: Sequence[MilError]) -> MilError:
    """Return one error with all messages; a UsageError, as for a missing permission, if any of them is."""
    lines = [line for error in errors for line in str(error).splitlines()]
    if any(isinstance(error, UsageError) for error in errors):
        return UsageError("\n".join(lines))
    return DataError(lines)


def read_shard(path: Path, spec_digest: str, width: int, augmented: int = 0) -> Shard:
    """Open a shard and check all that it holds, without keeping its embeddings.

    augmented: number of orientations of each image besides the image as it is

    Since a name belongs to one content, whatever is read from the file later was checked here.

    Raises DataError if it is damaged, not a shard or of another spec, or if its embeddings are not finite or
    do not match the digests of their bags; UsageError if it may not be read; FileNotFoundError if it does not
    exist.
    """
    content, verified = _read_verified(path)
    try:
        attributes, datasets, places = parse_shard(content)
        check_schema(path, attributes.schema, SCHEMA)
        if attributes.spec != spec_digest:
            raise DataError(f"{printable(path)} belongs to another spec than {_spec_of(path)}.")
        scales = datasets.pop(SCALES, None)
        arrays = checked_arrays(datasets, width, augmented)
        resampled = parse_scales(scales, arrays.patient_ids.size)
        shard = _shard(path, verified, attributes, arrays, places, resampled)
    except ShardProblem as problem:
        raise damaged(path, str(problem)) from None
    _check_bags(shard, arrays)
    return shard


def _spec_of(path: Path) -> str:
    return printable(path.parent / SPEC_NAME)


def _shard(
    path: Path,
    verified: FileState | None,
    attributes: ShardAttributes,
    arrays: ShardArrays,
    places: Mapping[str, Place],
    scales: tuple[float | None, ...],
) -> Shard:
    """Return the shard; its arrays are copies, which do not keep the bytes of the file in memory."""
    return Shard(
        path=path,
        verified=verified,
        sequence=attributes.sequence,
        recorded=Recorded(attributes.precision, attributes.decoder, attributes.architecture),
        patient_ids=tuple(os.fsdecode(patient) for patient in arrays.patient_ids.tolist()),
        offsets=arrays.offsets.copy(),
        bag_digests=arrays.bag_digests.copy(),
        places=places,
        scales=scales,
    )


def _check_bags(shard: Shard, arrays: ShardArrays) -> None:
    """Raise DataError that names every patient whose embeddings are not finite or not those of the digest."""
    stored_arrays = [array for array in (arrays.embeddings, arrays.augmented) if array is not None]
    all_finite = all(bool(np.isfinite(array).all()) for array in stored_arrays)
    problems: list[str] = []
    for index, patient in enumerate(shard.patient_ids):
        stored = StoredBag(shard, index)
        names, parts = (
            decoded(arrays.image_names[stored.rows]),
            [array[stored.rows] for array in stored_arrays],
        )
        images = zip(names, _hexadecimal(arrays.image_digests[stored.rows]), strict=True)
        place = f"{printable(shard.path)}: the bag of patient {printable(patient)}"
        if _bag_digest(patient, images, parts[0], parts[1] if parts[1:] else None) != stored.digest:
            problems.append(f"{place} does not match its digest. {_ADVICE}")
        if not (all_finite or all(np.isfinite(part).all() for part in parts)):
            problems.append(f"{place} holds embeddings that are not finite. {_ADVICE}")
    if problems:
        raise DataError(problems)


def _hexadecimal(digests: NDArray[np.uint8]) -> list[str]:
    """Return each digest of (n, 32) as text."""
    text = digests.tobytes().hex()
    return [text[start : start + 64] for start in range(0, len(text), 64)]


def _read_verified(path: Path) -> tuple[bytes, FileState | None]:
    """Read a shard's bytes; raises DataError if they do not match its name.

    Returns the bytes, and the state that the file keeps as long as it does not change; None if a later change
    might keep the state too.
    """
    with open_input(path) as file:
        before = os.fstat(file.fileno())
        if before.st_size > _MAX_BYTES:
            raise damaged(path, f"it is larger than {_MAX_BYTES // MEBIBYTE:,} MiB")
        settled = is_settled(max(before.st_mtime_ns, before.st_ctime_ns))
        content = file.read(before.st_size + 1)
    if digest(content) != path.stem:
        raise damaged(path, "its bytes do not match its name")
    return content, FileState.of(before) if settled else None


def damaged(path: Path, reason: str) -> DataError:
    """Return the error for a shard whose content is not what a writer published."""
    return DataError(f"{printable(path)} is damaged: {reason}. {_ADVICE}")
