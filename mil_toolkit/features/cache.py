"""`FeatureCache`: the embeddings of every patient's images, readable without the images."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mil_toolkit.backbones.reading import Reading
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest, digest_json, publish
from mil_toolkit.core.reading import report_read_errors
from mil_toolkit.core.text import count_of, each_or_most, printable, some
from mil_toolkit.features.shard_layout import MAX_SEQUENCE
from mil_toolkit.features.shards import (
    EmbeddedBag,
    Recorded,
    RemovedShard,
    Shard,
    StoredBag,
    by_shard,
    decoded,
    encode_shard,
    read_shards,
    shard_paths,
)
from mil_toolkit.features.spec import (
    FILE_NAME,
    Spec,
    augmented,
    folder_name,
    holds_spec,
    read_spec,
    spec_differences,
    write_spec,
)

if TYPE_CHECKING:
    from mil_toolkit.features.bags import Bags


class FeatureCache:
    """A folder with a `spec.json` and immutable shards. Reading needs no lock.

    A patient may have bags in several shards. The one that counts is in the shard with the highest sequence
    number.

    opened: shards of this folder that are open already; those that have not changed are not read again
    """

    def __init__(self, folder: Path, spec: Spec, opened: Sequence[Shard] = ()):
        self.folder = folder
        self.spec = spec
        self.shards = list(opened)
        self.refresh()

    @classmethod
    def open(cls, folder: Path | str) -> "FeatureCache":
        """Open a cache to read; raises DataError if it is not a cache or holds a damaged or foreign shard."""
        return cls(Path(folder), read_spec(Path(folder)))

    @classmethod
    def create(
        cls,
        root: Path,
        cohort_name: str,
        spec: Spec,
        opened: Sequence[Shard] = (),
        reading: Reading | None = None,
    ) -> "FeatureCache":
        """Open the cache of this spec under `root`; create it if it does not exist.

        opened: see the class
        reading: see `write_spec`
        """
        folder = root / cohort_name / folder_name(spec)
        if not holds_spec(folder):
            write_spec(folder, spec, reading)
        cache = cls(folder, read_spec(folder), opened)
        if cache.spec != spec:
            raise DataError(
                [f"{printable(folder / FILE_NAME)} was edited:", *spec_differences(cache.spec, spec)]
            )
        return cache

    def refresh(self) -> None:
        """List the shards again; shards that are open already and unchanged are not read again."""
        try:
            self.shards = self._read_shards()
        except FileNotFoundError:  # a prune removed a shard after it was listed
            self.shards = self._read_shards()
        ranked = sorted(self.shards, key=lambda shard: (shard.sequence, shard.path.name), reverse=True)
        self._versions: dict[str, list[StoredBag]] = {}
        for shard in ranked:
            for index, patient in enumerate(shard.patient_ids):
                self._versions.setdefault(patient, []).append(StoredBag(shard, index))

    def _read_shards(self) -> list[Shard]:
        known = {shard.path: shard for shard in self.shards if shard.is_unchanged()}
        paths = shard_paths(self.folder)
        new = [path for path in paths if path not in known]
        shape = self.spec["width"], augmented(self.spec)
        read = {shard.path: shard for shard in read_shards(new, self.spec_digest, *shape)}
        return [known.get(path) or read[path] for path in paths]

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
        """One more than the highest sequence number of all listed shards."""
        return max((shard.sequence for shard in self.shards), default=0) + 1

    def versions(self, patient_id: str) -> Sequence[StoredBag]:
        """Return every stored bag of a patient; the first one counts."""
        return self._versions.get(patient_id, [])

    def winners(self, patient_ids: Sequence[str]) -> list[StoredBag]:
        """Return the bags that count: highest sequence number, then highest name of the shard.

        Raises DataError that names the patients without embeddings.
        """
        if problems := self.absent(patient_ids):
            raise DataError(problems)
        return [self._versions[patient][0] for patient in patient_ids]

    def absent(self, patient_ids: Sequence[str]) -> list[str]:
        """Return the lines of an error about those of these patients that have no embeddings.

        If most patients have none, they are one line about all of them and advice, else one line for each;
        empty if all have embeddings.
        """
        absent = [printable(patient) for patient in patient_ids if patient not in self._versions]
        lines = each_or_most(
            absent,
            len(patient_ids),
            (f"patient {patient} has no embeddings in {printable(self.folder)}." for patient in absent),
            f"patients have no embeddings in {printable(self.folder)}:",
        )
        if len(lines) < len(absent):
            others = [printable(patient) for patient in sorted(set(self.patient_ids).difference(patient_ids))]
            held = f"It holds {count_of(len(others), 'other')}: {some(others)}. " if others else ""
            lines.append(
                f"{held}Name this cohort's own cache with --features, or create it with mil-extract."
            )
        return lines

    def recorded(self, patient_ids: Sequence[str]) -> list[str]:
        """Return the distinct ways in which these patients' embeddings were computed, sorted.

        Each is a precision and a decoder, as in `bfloat16 with pillow 11.0.0`, with `on sm_90` or `on mps`
        after it for a graphics processor of that architecture.
        """
        return sorted({printable(str(bag.shard.recorded)) for bag in self.winners(patient_ids)})

    def digest(self, patient_ids: Sequence[str] | None = None) -> str:
        """Return the SHA-256 of the spec and of these patients' embeddings and images.

        By default of all patients. It depends neither on their order nor on their division into shards.
        """
        patients = self.patient_ids if patient_ids is None else sorted(set(patient_ids))
        return digest_json([self.spec_digest, [bag.digest.hex() for bag in self.winners(patients)]])

    def bags(self, patient_ids: Sequence[str]) -> "Bags":
        """Return the bags of these patients in this order, float16 on the CPU.

        Many embeddings stay in the shards, see `is_streamed`. Raises DataError for patients without
        embeddings and for damaged shards.
        """
        from mil_toolkit.features.bags import StreamedBags, is_streamed  # imports torch

        winners = self.winners(patient_ids)
        embeddings = sum(bag.size for bag in winners) * (1 + augmented(self.spec))
        if is_streamed(embeddings, self.spec["width"]):
            return StreamedBags(winners, self.spec["width"])
        try:
            return self._load(patient_ids)
        except RemovedShard:  # by a prune
            self.refresh()
            return self._load(patient_ids)

    def _load(self, patient_ids: Sequence[str]) -> "Bags":
        import torch  # all else works without it, which saves seconds

        from mil_toolkit.features.bags import Bags
        from mil_toolkit.features.stored_orientations import StoredOrientations

        winners = self.winners(patient_ids)
        offsets = np.cumsum([0, *(bag.size for bag in winners)])
        instances = np.empty((offsets[-1], self.spec["width"]), dtype=np.float16)
        names = np.empty(offsets[-1], dtype=object)
        for shard, positions in by_shard(winners):
            embeddings, texts = shard.read(slice(0, shard.size), "embeddings", "image_names")
            for bag in positions:
                rows = slice(offsets[bag], offsets[bag + 1])
                instances[rows] = embeddings[winners[bag].rows]
                names[rows] = decoded(texts[winners[bag].rows])
        return Bags(
            torch.from_numpy(instances),
            torch.from_numpy(offsets),
            tuple(patient_ids),
            tuple(names.tolist()),
            StoredOrientations.of(winners),
        )

    def publish(self, bags: Sequence[EmbeddedBag], recorded: Recorded) -> Path:
        """Publish one shard with these bags and return its path; `refresh` makes its bags visible."""
        sequence = self.next_sequence
        if sequence > MAX_SEQUENCE:
            raise DataError(
                f"{printable(self.folder)} holds a shard with the highest sequence number. Remove that shard."
            )
        content = encode_shard(bags, self.spec_digest, sequence, recorded)
        path = self.folder / f"{digest(content)}.h5"
        publish(path, content)
        return path


def named_cache(cohort_name: str, name: str, root: Path = Path("cache")) -> Path:
    """Return the path of the cache folder with this name of a cohort; it need not exist."""
    return root / cohort_name / name


def find_cache(cohort_name: str, root: Path = Path("cache")) -> Path:
    """Return the only cache of this cohort under `root`; raises UsageError if there is none or several."""
    place = root / cohort_name
    folders = [folder for folder in _entries(place) if holds_spec(folder)]
    if len(folders) == 1:
        return folders[0]
    if not folders:
        raise UsageError(
            f"{printable(place)} holds no features. Run mil-extract first, or use"
            " --features none for metadata only."
        )
    listed = "\n".join(f"  --features {printable(folder)}" for folder in folders)
    raise UsageError(f"{printable(place)} holds several caches. Choose one:\n{listed}")


def _entries(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted; nothing if it does not exist."""
    try:
        with report_read_errors(folder):
            return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def open_features(features: str | None, cohort_name: str) -> FeatureCache | None:
    """Open the cache that `--features` names, by default the cohort's only cache; None for `none`."""
    if features == "none":
        return None
    return FeatureCache.open(Path(features) if features else find_cache(cohort_name))
