# Floor 1.5: the cache of embeddings: immutable HDF5 shards, named by the digest of their bytes.
"""`FeatureCache`: embeddings of every patient's images, readable without the images."""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from mil_toolkit.bags import Bags
from mil_toolkit.errors import DataError, UsageError
from mil_toolkit.files import (
    canonical_json,
    check_schema,
    digest,
    digest_json,
    publish,
    publish_json,
    read_json,
    shown,
)
from mil_toolkit.wording import count_of, each_or_most, some

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


class FeatureCache:
    """A folder with a `spec.json` and shards. Readers need no lock, and no writer reopens a shard."""

    def __init__(self, folder: Path, spec: dict[str, Any]):
        self.folder = folder
        self.spec = spec
        self.refresh()

    @classmethod
    def open(cls, folder: Path | str) -> "FeatureCache":
        """Open a cache to read; raises DataError where `folder` is none or holds a foreign shard."""
        return cls(Path(folder), read_spec(Path(folder)))

    @classmethod
    def create(cls, root: Path, cohort_name: str, spec: dict[str, Any]) -> "FeatureCache":
        """Open the cache of this spec under `root`, made where there is none yet."""
        folder = root / cohort_name / folder_name(spec)
        if not (folder / "spec.json").exists():
            publish_json(folder / "spec.json", spec)
        cache = cls.open(folder)
        if cache.spec != spec:
            raise DataError([f"{folder / 'spec.json'} was edited:", *spec_differences(cache.spec, spec)])
        return cache

    def refresh(self) -> None:
        """List the shards anew; where one vanished while they were read (a prune), once more."""
        try:
            self.shards = self._read_shards()
        except FileNotFoundError:
            self.shards = self._read_shards()
        ranked = sorted(self.shards, key=lambda shard: (shard.sequence, shard.path.name), reverse=True)
        self._versions: dict[str, list[StoredBag]] = {}
        for shard in ranked:
            for index, patient in enumerate(shard.patient_ids):
                self._versions.setdefault(patient, []).append(StoredBag(shard, index))

    def _read_shards(self) -> list[Shard]:
        return [read_shard(path, self.spec_digest, self.spec["width"]) for path in shard_paths(self.folder)]

    @cached_property
    def spec_digest(self) -> str:
        """SHA-256 of the spec."""
        return digest_json(self.spec)

    @property
    def patient_ids(self) -> tuple[str, ...]:
        """Every patient with embeddings, sorted."""
        return tuple(sorted(self._versions))

    @property
    def next_sequence(self) -> int:
        """One above the highest sequence number seen."""
        return max((shard.sequence for shard in self.shards), default=0) + 1

    def versions(self, patient_id: str) -> Sequence[StoredBag]:
        """Every stored bag of a patient; the first is the one that counts."""
        return self._versions.get(patient_id, [])

    def winners(self, patient_ids: Sequence[str]) -> list[StoredBag]:
        """The bags that count: highest sequence number, ties by name; raises DataError naming the absent."""
        if problems := self.absent(patient_ids):
            raise DataError(problems)
        return [self._versions[patient][0] for patient in patient_ids]

    def absent(self, patient_ids: Sequence[str]) -> list[str]:
        """What to say of these patients where some have no embeddings; of most of them at once."""
        absent = [shown(patient) for patient in patient_ids if patient not in self._versions]
        lines = each_or_most(
            absent,
            len(patient_ids),
            (f"patient {patient} has no embeddings in {self.folder}." for patient in absent),
            f"patients have no embeddings in {self.folder}:",
        )
        if len(lines) < len(absent):
            others = [shown(patient) for patient in sorted(set(self.patient_ids).difference(patient_ids))]
            held = f"It holds {count_of(len(others), 'other')}: {some(others)}. " if others else ""
            lines.append(f"{held}Name this cohort's own cache with --features, or make it with mil-extract.")
        return lines

    def recorded(self, patient_ids: Sequence[str]) -> list[str]:
        """In which precisions and by which decoders these patients' embeddings were computed, sorted."""
        return sorted({" with ".join(bag.shard.recorded) for bag in self.winners(patient_ids)})

    def digest(self, patient_ids: Sequence[str] | None = None) -> str:
        """SHA-256 of the spec and of these patients' embeddings and images, by default of all patients.

        The order of the patients and their division into shards do not matter.
        """
        patients = self.patient_ids if patient_ids is None else sorted(set(patient_ids))
        return digest_json([self.spec_digest, [bag.digest.hex() for bag in self.winners(patients)]])

    def bags(self, patient_ids: Sequence[str]) -> Bags:
        """The patients' bags in this order, float16 on the CPU; raises DataError for absent or damaged ones."""
        try:
            return self._load(patient_ids)
        except FileNotFoundError:
            self.refresh()
            return self._load(patient_ids)

    def _load(self, patient_ids: Sequence[str]) -> Bags:
        winners = self.winners(patient_ids)
        offsets = np.cumsum([0, *(bag.rows.stop - bag.rows.start for bag in winners)])
        instances = np.empty((offsets[-1], self.spec["width"]), dtype=np.float16)
        for shard, places in _by_shard(winners):
            embeddings = shard.embeddings()
            for place in places:
                instances[offsets[place] : offsets[place + 1]] = embeddings[winners[place].rows]
        names = tuple(name for bag in winners for name in bag.image_names)
        return Bags(torch.from_numpy(instances), torch.from_numpy(offsets), tuple(patient_ids), names)

    def publish(self, bags: Sequence[EmbeddedBag], recorded: Recorded) -> Path:
        """Publish one shard with these bags under a sequence number above all seen; returns its path."""
        content = encode_shard(bags, self.spec_digest, self.next_sequence, recorded)
        path = self.folder / f"{digest(content)}.h5"
        publish(path, content)
        return path


def read_spec(folder: Path) -> dict[str, Any]:
    """The spec of the cache in `folder`; raises DataError where there is none."""
    if not (folder / "spec.json").is_file():
        why = "it has no spec.json" if folder.exists() else "it does not exist"
        raise DataError(f"{folder} is no feature cache: {why}. mil-extract makes one, and prints its folder.")
    spec = read_json(folder / "spec.json")
    if not isinstance(spec, dict):
        raise DataError(f"{folder / 'spec.json'} is not the spec of a cache.")
    check_schema(folder / "spec.json", spec.get("schema"), SCHEMA)
    return spec


def shard_paths(folder: Path) -> list[Path]:
    """The files in a cache's folder that have a shard's name, sorted."""
    return sorted(path for path in folder.iterdir() if _SHARD_NAME.fullmatch(path.name))


def _by_shard(bags: Sequence[StoredBag]) -> Iterator[tuple[Shard, list[int]]]:
    places: dict[Path, list[int]] = {}
    for place, bag in enumerate(bags):
        places.setdefault(bag.shard.path, []).append(place)
    return ((bags[each[0]].shard, each) for each in places.values())


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


def folder_name(spec: dict[str, Any]) -> str:
    """A cache folder's name: what a person looks for in the spec, then 8 hex digits of its digest."""
    words = [spec["backbone"], spec["weights"], str(spec["image_size"])]
    words += [f"crop{spec['crop']}"] if spec["crop"] else []
    words += [spec["preprocess"]] if spec["preprocess"] != "none" else []
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join([*words, digest_json(spec)[:8]]))


def spec_differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """One line for each entry in which two specs differ."""
    names = sorted({*found, *expected})
    differing = [name for name in names if found.get(name) != expected.get(name)]
    return [f"{name}: {found.get(name)!r} instead of {expected.get(name)!r}." for name in differing]


def find_cache(cohort_name: str, root: Path = Path("cache")) -> Path:
    """The one cache of this cohort under `root`; raises UsageError that lists the candidates otherwise."""
    folders = sorted(path.parent for path in (root / cohort_name).glob("*/spec.json"))
    if len(folders) == 1:
        return folders[0]
    if not folders:
        raise UsageError(f"{root / cohort_name} holds no features. Run mil-extract first.")
    listed = "\n".join(f"  --features {folder}" for folder in folders)
    raise UsageError(f"{root / cohort_name} holds several caches. Choose one:\n{listed}")


def open_features(features: str | None, cohort_name: str) -> FeatureCache | None:
    """What `--features` names: a cache folder, `none`, or left out the cohort's only cache."""
    if features == "none":
        return None
    return FeatureCache.open(Path(features) if features else find_cache(cohort_name))
