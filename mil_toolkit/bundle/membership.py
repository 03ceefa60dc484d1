"""Who a model was fitted on, stored so that these patients are recognised and nothing else is disclosed.

An id can be guessed: hospitals number their patients. It is therefore stored as a key that takes scrypt about
0.05 s to derive, so that trying 100,000 ids takes hours. The content of an image cannot be guessed, so that a
fast hash of its digest is enough. Both depend on a salt, which differs between models: the keys of two
bundles cannot be compared, and no table of keys can be computed in advance. The salt is not secret. It is
derived from the fitted tensors and not from a source of randomness, so that the same command writes the same
bits.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.cores import available_cores
from mil_toolkit.features.cache import FeatureCache

ANONYMOUS: Literal["anonymous"] = "anonymous"
KEY_BYTES = 16  # of a key and of the salt
MOST_IMAGES = 1_000_000  # whose keys are stored; they take 40 MB
_MOST_THREADS = 16  # each needs the memory of one derivation
Key = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]


@dataclass(frozen=True)
class Scrypt:
    """The parameters of scrypt (Percival 2009; RFC 7914): it takes 128 * n * r bytes, p times.

    The limits bound the memory and the time that a received bundle can ask for.
    """

    n: Annotated[int, Meta(ge=2, le=2**16)]
    r: Annotated[int, Meta(ge=1, le=8)]
    p: Annotated[int, Meta(ge=1, le=4)]

    def key(self, patient_id: str, salt: bytes) -> str:
        """Return the key of a patient's id; case and surrounding spaces of the id make no difference."""
        spelling = normal_form(patient_id.strip().casefold()).encode(errors="surrogatepass")
        memory = 2 * 128 * self.r * (self.n + self.p)
        key = hashlib.scrypt(
            spelling, salt=salt, n=self.n, r=self.r, p=self.p, maxmem=memory + 2**20, dklen=KEY_BYTES
        )
        return key.hex()


SCRYPT = Scrypt(n=2**14, r=8, p=1)  # of new bundles: 16 MiB, about 0.05 s


@dataclass(frozen=True)
class TrainingMarks:
    """Keys by which the patients that a model was fitted on are recognised.

    ids: of the patients' ids; images: of their images' contents. Both are sorted: neither their order nor the
        patient that an image belongs to is stored.
    """

    salt: Key
    scrypt: Scrypt
    ids: list[Key]
    images: list[Key]

    @classmethod
    def of(cls, ids: Sequence[str], images: Iterable[AbstractSet[bytes]], salt: str) -> "TrainingMarks":
        """Return the marks of training patients.

        images: the digests of each patient's images, see `image_digests`; salt: 32 hexadecimal digits

        Of very large bags, MOST_IMAGES divided by the number of patients are kept: a bundle of ten million
        images could not be read, and any of its images tells a patient.
        """
        marks, most = cls(salt, SCRYPT, [], []), max(1, MOST_IMAGES // max(1, len(ids)))
        keys = {marks._image_key(digest) for digests in images for digest in sorted(digests)[:most]}
        return cls(salt, marks.scrypt, sorted(marks._id_keys(ids)), sorted(keys))

    def recognise(self, ids: Sequence[str], images: Iterable[AbstractSet[bytes]]) -> np.ndarray:
        """Return of whom of n patients the model was, or may have been, fitted on: (n,) bool.

        A patient is recognised by the id or by any image. The slow keys of ids are derived only for patients
        without a known image.
        """
        known_images, known_ids = set(self.images), set(self.ids)
        recognised = np.array(
            [any(self._image_key(digest) in known_images for digest in digests) for digests in images], bool
        )
        others = np.flatnonzero(~recognised).tolist()
        keys = self._id_keys([ids[place] for place in others])
        recognised[others] = [key in known_ids for key in keys]
        return recognised

    def _image_key(self, digest: bytes) -> str:
        return hashlib.sha256(bytes.fromhex(self.salt) + digest).hexdigest()[: 2 * KEY_BYTES]

    def _id_keys(self, ids: Sequence[str]) -> list[str]:
        salt = bytes.fromhex(self.salt)
        with ThreadPoolExecutor(min(available_cores(), _MOST_THREADS)) as pool:
            return list(pool.map(lambda patient_id: self.scrypt.key(patient_id, salt), ids))


def image_digests(cache: FeatureCache | None, patient_ids: Sequence[str]) -> Iterator[frozenset[bytes]]:
    """Yield the digests of each patient's images; empty sets without a cache.

    Of imported features these are the digests of the files that were imported.
    """
    if cache is None:
        return repeat(frozenset(), len(patient_ids))
    bags = cache.winners(patient_ids)
    return (frozenset(row.tobytes() for row in bag.read_digests()) for bag in bags)
