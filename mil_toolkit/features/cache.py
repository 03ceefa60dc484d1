"""`FeatureCache`: embeddings of every patient's images, readable without the images."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import check_schema, digest, digest_json, publish, publish_json, read_json, shown
from mil_toolkit.core.text import count_of, each_or_most, some
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.shards import (
    SCHEMA,
    EmbeddedBag,
    Recorded,
    Shard,
    StoredBag,
    encode_shard,
    read_shard,
    shard_paths,
)


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


def _by_shard(bags: Sequence[StoredBag]) -> Iterator[tuple[Shard, list[int]]]:
    places: dict[Path, list[int]] = {}
    for place, bag in enumerate(bags):
        places.setdefault(bag.shard.path, []).append(place)
    return ((bags[each[0]].shard, each) for each in places.values())


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
