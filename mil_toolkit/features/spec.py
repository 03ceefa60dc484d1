"""`Spec`: the settings that a cache's embeddings depend on, stored in its `spec.json`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from mil_toolkit.backbones.spec import RANDOM_SEED, BackboneSpec
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import check_schema, digest_json, read_json
from mil_toolkit.features.colour import Colour

if TYPE_CHECKING:
    from mil_toolkit.backbones.backbones import Backbone

SCHEMA = 1
FILE_NAME = "spec.json"


class Tile(TypedDict, total=False):
    """What another tool recorded about the size of its tiles; it has only the keys that the files state.

    size_um, size_px: side of a tile in micrometres (STAMP) and in the pixels that the network saw
    magnification: at which tiles were cut (TRIDENT)
    level: of the slide's pyramid from which tiles were read (CLAM)
    downsample: factor from the slide's highest resolution to the tiles', if the magnification is unknown
    """

    size_um: float
    size_px: float
    magnification: float
    level: float
    downsample: float


class Spec(BackboneSpec):
    """Everything that an embedding depends on; JSON-compatible.

    schema: of the cache's files
    image_size: side of the square that images are resized to, in pixels; 0 for imported features
    crop: side of the centre crop before the resize, in pixels; 0 for none
    preprocess: a name in `PREPROCESSES`
    tile: of imported features, if the files state it
    colour: `srgb` if colour profiles were applied; absent if they were not, or if no image has one
    """

    schema: int
    image_size: int
    crop: int
    preprocess: str
    tile: NotRequired[Tile]
    colour: NotRequired[Colour]


def make_spec(config: ExtractionConfig, backbone: "Backbone", colour: Colour | None = None) -> Spec:
    """Return the spec of embeddings that this backbone computes under this configuration.

    Weights from a file are identified by their digest; the path of the file is not part of the spec.
    """
    known = config.weights in ("imagenet", "random")
    spec: Spec = {
        "schema": SCHEMA,
        "backbone": config.backbone,
        "weights": config.weights if known else "file",
        "seed": RANDOM_SEED if config.weights == "random" else None,
        "weight_digest": backbone.weight_digest,
        "width": backbone.width,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "image_size": config.image_size,
        "crop": config.crop,
        "preprocess": config.preprocess,
    }
    if colour:
        spec["colour"] = colour
    return spec


def read_spec(folder: Path) -> Spec:
    """Read the spec of the cache in `folder`; raises DataError if `folder` is not a cache."""
    path = folder / FILE_NAME
    if not path.is_file():
        reason = f"it has no {FILE_NAME}" if folder.exists() else "it does not exist"
        raise DataError(
            f"{folder} is not a feature cache: {reason}. mil-extract creates one and prints its folder."
        )
    spec: Spec = read_json(path)
    if not isinstance(spec, dict):
        raise DataError(f"{path} is not the spec of a cache.")
    check_schema(path, spec.get("schema"), SCHEMA)
    return spec


def folder_name(spec: Spec) -> str:
    """Return the name of a cache's folder: its main settings, then 8 hex digits of the spec's digest."""
    words = [spec["backbone"], spec["weights"], str(spec["image_size"])]
    words += [f"crop{spec['crop']}"] if spec["crop"] else []
    words += [spec["preprocess"]] if spec["preprocess"] != "none" else []
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join([*words, digest_json(spec)[:8]]))


def spec_differences(actual: Spec, expected: Spec) -> list[str]:
    """Return one line for each entry in which two specs differ."""
    return [
        f"{name}: {actual.get(name)!r} instead of {expected.get(name)!r}."
        for name in sorted({*actual, *expected})
        if actual.get(name) != expected.get(name)
    ]
