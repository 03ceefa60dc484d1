"""`parse_shard`: the bytes of a shard as typed arrays, after a check of their types, shapes and relations."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.text import printable, some
from mil_toolkit.features.plain_hdf5 import Place, read_plain

MAX_SEQUENCE = 2**53
_MAX_TEXT = 255  # characters of `precision`, `decoder` and `architecture`
_ATTRIBUTES = {
    "schema": int,
    "spec": str,
    "sequence": int,
    "precision": str,
    "decoder": str,
    "architecture": str,
}


class ShardProblem(ValueError):
    """What is wrong with the bytes of a shard, as the rest of a sentence."""


class ShardAttributes(NamedTuple):
    """The attributes of a shard, see `encode_shard`."""

    schema: int
    spec: str
    sequence: int
    precision: str
    decoder: str
    architecture: str


class ShardArrays(NamedTuple):
    """The datasets of a shard, see `encode_shard`; read-only views of its bytes.

    augmented: None if images have no other orientations
    """

    embeddings: NDArray[np.float16]
    offsets: NDArray[np.int64]
    patient_ids: NDArray[np.bytes_]
    bag_digests: NDArray[np.uint8]
    image_names: NDArray[np.bytes_]
    image_digests: NDArray[np.uint8]
    image_stats: NDArray[np.int64]
    augmented: NDArray[np.float16] | None = None


class ParsedShard(NamedTuple):
    """The content of a shard whose datasets are not checked yet; see `checked_arrays`."""

    attributes: ShardAttributes
    datasets: dict[str, NDArray[np.generic]]
    places: dict[str, Place]


def parse_shard(content: bytes) -> ParsedShard:
    """Parse a shard and check its attributes; raises ShardProblem if it cannot be a shard."""
    try:
        datasets, places, attributes = read_plain(content)
    except ValueError as error:
        raise ShardProblem(str(error)) from None
    attributes = {"architecture": "", **attributes}  # shards of a CPU do not have it
    for name, kind in _ATTRIBUTES.items():
        if not isinstance(attributes.get(name), kind):
            raise ShardProblem(f"its attribute {name} is missing or not of type {kind.__name__}")
    return ParsedShard(_checked_attributes(attributes), datasets, places)


def _checked_attributes(attributes: Mapping[str, int | str]) -> ShardAttributes:
    known = ShardAttributes(**{name: attributes[name] for name in _ATTRIBUTES})  # type: ignore[arg-type]
    if not 0 <= known.sequence <= MAX_SEQUENCE:
        raise ShardProblem(f"its sequence number is {known.sequence}, not between 0 and {MAX_SEQUENCE}")
    if max(len(known.precision), len(known.decoder), len(known.architecture)) > _MAX_TEXT:
        raise ShardProblem(f"its precision, decoder or architecture has more than {_MAX_TEXT} characters")
    return known


def checked_arrays(
    datasets: Mapping[str, NDArray[np.generic]], width: int, augmented: int = 0
) -> ShardArrays:
    """Return the datasets of a shard of embeddings (n, width), with `augmented` other orientations of each.

    Raises ShardProblem if one is missing or superfluous, has another type or shape, or if ids, names and
    offsets are not those of patients with images.
    """
    unused = set() if augmented else {"augmented"}
    differing = sorted(datasets.keys() ^ ({*ShardArrays._fields} - unused))
    if differing:
        names = some([*map(printable, differing)])
        raise ShardProblem(f"it is not a shard of this toolkit, whose datasets differ in {names}")
    arrays = ShardArrays(**datasets)  # type: ignore[arg-type] # `_shape_problems` checks the types
    problems = _shape_problems(arrays, width, augmented) or [
        *_offset_problems(arrays),
        *_name_problems(arrays),
    ]
    if problems:
        raise ShardProblem(f"its datasets do not fit together ({'; '.join(problems)})")
    return arrays


def _shape_problems(arrays: ShardArrays, width: int, augmented: int) -> list[str]:
    patients, images = arrays.patient_ids.size, arrays.image_names.size
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "embeddings": ("float16", (images, width)),
        "offsets": ("int64", (patients + 1,)),
        "patient_ids": ("bytes", (patients,)),
        "bag_digests": ("uint8", (patients, 32)),
        "image_names": ("bytes", (images,)),
        "image_digests": ("uint8", (images, 32)),
        "image_stats": ("int64", (images, 2)),
    }
    if augmented:
        expected["augmented"] = ("float16", (images, augmented, width))
    present = {name: array for name, array in arrays._asdict().items() if array is not None}
    found = {name: (_type_name(array), array.shape) for name, array in present.items()}
    return [
        f"{name} is {found[name][0]} {found[name][1]} instead of {dtype} {shape}"
        for name, (dtype, shape) in expected.items()
        if found[name] != (dtype, shape)
    ]


def _type_name(array: NDArray[np.generic]) -> str:
    return "bytes" if array.dtype.kind == "S" else str(array.dtype)


def _offset_problems(arrays: ShardArrays) -> list[str]:
    offsets, images = arrays.offsets, len(arrays.image_names)
    rises = (offsets[1:] > offsets[:-1]).all()
    if len(offsets) > 1 and offsets[0] == 0 and offsets[-1] == images and rises:
        return []
    return [f"offsets do not rise from 0 to {images}, the number of images"]


def _name_problems(arrays: ShardArrays) -> list[str]:
    """Return what is wrong with patient ids and image names; an id may not occur twice."""
    problems = []
    for kind, names in (("patient ids", arrays.patient_ids), ("image names", arrays.image_names)):
        wrong = [name for name in np.unique(names).tolist() if not name or b"\0" in name]
        if wrong:
            problems.append(f"{kind} are empty or contain null characters: {_listed(wrong)}")
    repeated = [patient for patient, count in Counter(arrays.patient_ids.tolist()).items() if count > 1]
    if repeated:
        problems.append(f"patients occur more than once: {_listed(repeated)}")
    return problems


def _listed(names: Sequence[bytes]) -> str:
    return some([printable(os.fsdecode(name)) or "''" for name in names])
