"""`Spec`: the settings that a cache's embeddings depend on, stored in its `spec.json`."""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from mil_toolkit.backbones.identity import BackboneIdentity, Preprocessing
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.backbones.requests import weights_word
from mil_toolkit.backbones.spec import RANDOM_SEED, BackboneSpec
from mil_toolkit.config.extraction import (
    CELL_NAMES,
    INTERPOLATION_NAMES,
    PREPROCESS_NAMES,
    SQUASHED,
    STAIN_TARGETS,
    ExtractionConfig,
)
from mil_toolkit.core.access import exists
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import check_schema, digest_json, publish_json, read_json
from mil_toolkit.core.records import from_json
from mil_toolkit.core.text import printable, some
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.orientations import MOST_AUGMENTED, RULE
from mil_toolkit.features.sights import FINDER, RIM

SCHEMA = 1
FILE_NAME = "spec.json"
READING = "checkpoint"  # key of the file beside those of the spec
_LEAST_CROP = 0.1  # share of an image that is shown
_RANGES: dict[Literal["width", "image_size", "crop"], tuple[int, int]] = {
    "width": (1, 2**20),
    "image_size": (0, 2**16),
    "crop": (0, 2**16),
}


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


class CellRule(TypedDict):
    """How `cell-crop` and `cell-mask` find a cell, and what they show where there is any doubt.

    finder: the search for nuclei, with its version
    none: what is shown without a nucleus; several: which of several nuclei
    border: what becomes of a window that would reach beyond the image
    rim: width of what a mask keeps around the nucleus, as a share of the nucleus's radius
    """

    finder: str
    none: Literal["centre"]
    several: Literal["nearest-centre"]
    border: Literal["moved-inside"]
    rim: NotRequired[float]


class Augmentation(TypedDict):
    """In how many other orientations images are embedded besides, and the rule that chooses them."""

    count: int
    rule: str


class Resampling(TypedDict):
    """How images are brought to one scale before anything is cropped.

    microns_per_pixel: of the resampled images
    filter: bilinear interpolation that averages pixels where an image shrinks, as Pillow does it
    """

    microns_per_pixel: float
    filter: Literal["antialiased-bilinear"]


class Spec(BackboneSpec):
    """Everything that an embedding depends on; JSON-compatible.

    schema: of the cache's files
    image_size: side of the square that images are resized to, in pixels; 0 for imported features
    crop: side of the part that is shown, in pixels; 0 for the whole image, or the
        central square of `sampling`
    preprocess: a name in `PREPROCESSES`
    crop_um: that side in micrometres, if it was given so; absent if it was given in pixels
    scale: how images are resampled to one scale; absent if they are shown as they are
    cell: of preprocessing that searches a nucleus
    stain: of preprocessing that normalises the stain, the target, see `STAIN_TARGETS`
    augment: of images that are embedded in several orientations; absent otherwise
    tile: of imported features, if the files state it
    colour: `srgb` if colour profiles were applied; absent if they were not, or if no image has one
    """

    schema: int
    image_size: int
    crop: int
    preprocess: str
    crop_um: NotRequired[float]
    scale: NotRequired[Resampling]
    cell: NotRequired[CellRule]
    stain: NotRequired[str]
    augment: NotRequired[Augmentation]
    tile: NotRequired[Tile]
    colour: NotRequired[Colour]


def make_spec(config: ExtractionConfig, backbone: BackboneIdentity, colour: Colour | None = None) -> Spec:
    """Return the spec of embeddings that this backbone computes under this configuration.

    Weights from a file are identified by their digest; the path of the file is not part of the spec.
    """
    config = for_backbone(config, backbone.preprocessing)
    spec: Spec = {
        "schema": SCHEMA,
        "backbone": config.backbone,
        "weights": weights_word(config.backbone, config.weights),
        "seed": RANDOM_SEED if config.weights == "random" else None,
        "weight_digest": backbone.weight_digest,
        "width": backbone.width,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "image_size": config.side,
        "crop": config.crop,
        "preprocess": config.preprocess,
    }
    if config.sampling and config.sampling != SQUASHED:
        interpolation, mode, crop_pct = astuple(config.sampling)
        spec["sampling"] = {"interpolation": interpolation, "mode": mode, "crop_pct": crop_pct}
    if config.crop_um is not None:
        spec["crop_um"] = config.crop_um
    if config.scale is not None:
        spec["scale"] = {"microns_per_pixel": config.scale, "filter": "antialiased-bilinear"}
    if rule := cell_rule(config.preprocess):
        spec["cell"] = rule
    if config.preprocess in STAIN_TARGETS:
        spec["stain"] = STAIN_TARGETS[config.preprocess]
    if config.augment:
        spec["augment"] = {"count": config.augment, "rule": RULE}
    if colour:
        spec["colour"] = colour
    return spec


def for_backbone(config: ExtractionConfig, backbone: Preprocessing) -> ExtractionConfig:
    """Return the configuration with the preprocessing of a backbone where it leaves that open.

    A window of --crop is shown whole: the backbone's own crop is not applied to it.
    """
    own = backbone.sampling
    if config.crop or config.crop_um is not None:
        own = replace(own, mode="squash", crop_pct=1.0)
    return replace(
        config,
        image_size=config.image_size or backbone.image_size,
        sampling=config.sampling or own,
    )


def cell_rule(preprocess: str) -> CellRule | None:
    """Return the rule by which this version shows cells; None if the preprocessing does not search them."""
    if preprocess not in CELL_NAMES:
        return None
    rule: CellRule = {
        "finder": FINDER,
        "none": "centre",
        "several": "nearest-centre",
        "border": "moved-inside",
    }
    return {**rule, "rim": RIM} if preprocess == "cell-mask" else rule


def augmented(spec: Spec) -> int:
    """Return the number of orientations that each image has besides the image as it is, 0 for none."""
    return spec["augment"]["count"] if "augment" in spec else 0


def preparation_problems(spec: Spec) -> Iterator[str]:
    """Yield why this version cannot prepare images as the spec says."""
    yield from _window_problems(spec)
    if "augment" in spec and not 1 <= augmented(spec) <= MOST_AUGMENTED:
        yield f"augment has a count of {augmented(spec)}, not between 1 and {MOST_AUGMENTED}"
    if "augment" in spec and spec["augment"]["rule"] != RULE:
        rule = spec["augment"]["rule"]
        yield f"augment has the rule {rule!r}; this version of mil_toolkit applies {RULE!r}"


def _window_problems(spec: Spec) -> Iterator[str]:
    preprocess, rule = spec["preprocess"], cell_rule(spec["preprocess"])
    if spec.get("cell") != rule:
        yield (
            f"cell is {spec.get('cell')!r}; for preprocess {preprocess!r} this version of mil_toolkit applies"
            f" {rule!r}"
        )
    target = STAIN_TARGETS.get(preprocess)
    if spec.get("stain") != target:
        yield (
            f"stain is {spec.get('stain')!r}; for preprocess {preprocess!r} this version of mil_toolkit"
            f" applies {target!r}"
        )
    if rule and not spec["crop"]:
        yield f"crop is 0, but preprocess {preprocess!r} needs the side of a window"
    if "crop_um" in spec and not 0 < spec["crop_um"] < math.inf:
        yield f"crop_um is {spec['crop_um']}, not a positive number"
    scale = scale_of(spec)
    if scale is not None and not 0 < scale < math.inf:
        yield f"scale.microns_per_pixel is {scale}, not a positive number"
    sampling = spec.get("sampling")
    if sampling and sampling["interpolation"] not in INTERPOLATION_NAMES:
        yield (
            f"sampling.interpolation is {sampling['interpolation']!r}, not one of"
            f" {', '.join(INTERPOLATION_NAMES)}"
        )
    if sampling and not _LEAST_CROP <= sampling["crop_pct"] <= 1:
        yield f"sampling.crop_pct is {sampling['crop_pct']}, not between {_LEAST_CROP} and 1"


def scale_of(spec: Spec) -> float | None:
    """Return the micrometres per pixel to which images are resampled; None if they are not."""
    return spec["scale"]["microns_per_pixel"] if "scale" in spec else None


def read_spec(folder: Path) -> Spec:
    """Read the spec of the cache in `folder`; raises DataError if `folder` is not a cache.

    Raises UsageError if the folder or its spec may not be read.
    """
    path = folder / FILE_NAME
    if not exists(path):
        reason = f"it has no {FILE_NAME}" if exists(folder) else "it does not exist"
        raise DataError(
            f"{printable(folder)} is not a feature cache: {reason}. mil-extract creates one and prints its"
            " folder."
        )
    value = read_json(path)
    if isinstance(value, dict):
        value.pop(READING, None)
    return check_spec(value, path)


def write_spec(folder: Path, spec: Spec, reading: Reading | None = None) -> None:
    """Write the spec of a cache, beside how the checkpoint of its backbone was read.

    How it was read says nothing about the embeddings that the digest of the weights does not say, and so it
    is not part of the spec.
    """
    publish_json(folder / FILE_NAME, spec if reading is None else {**spec, READING: asdict(reading)})


def read_reading(folder: Path) -> Reading | None:
    """Return how the checkpoint of a cache's backbone was read; None if its tensors were used as they were.

    Raises DataError if the folder is not a cache.
    """
    read_spec(folder)
    value = read_json(folder / FILE_NAME)
    stated = value.get(READING) if isinstance(value, dict) else None
    return None if stated is None else from_json(stated, Reading, folder / FILE_NAME)


def holds_spec(folder: Path) -> bool:
    """Return whether a folder is a cache; raises UsageError if the folder may not be searched."""
    return exists(folder / FILE_NAME)


def check_spec(value: object, source: Path) -> Spec:
    """Return parsed JSON as a spec; raises DataError that names the source and what is wrong with it."""
    if not isinstance(value, dict):
        raise DataError(f"{printable(source)} is not the spec of a cache.")
    check_schema(source, value.get("schema"), SCHEMA)
    spec = from_json(value, Spec, source)
    unknown = sorted(value.keys() - Spec.__annotations__.keys())
    problems = [f"unknown keys: {some([*map(printable, unknown)])}"] if unknown else []
    problems += _range_problems(spec)
    if problems:
        raise DataError(
            [f"{printable(source)} is not the spec of a cache: {problem}." for problem in problems]
        )
    return spec


def _range_problems(spec: Spec) -> list[str]:
    problems = [
        f"{name} is {spec[name]}, not between {least} and {most}"
        for name, (least, most) in _RANGES.items()
        if not least <= spec[name] <= most
    ]
    if spec["preprocess"] not in PREPROCESS_NAMES:
        problems.append(f"preprocess is {spec['preprocess']!r}, not one of {', '.join(PREPROCESS_NAMES)}")
    problems += preparation_problems(spec)
    for name, values in (("mean", spec["mean"]), ("std", spec["std"])):
        if values is not None and len(values) != 3:
            problems.append(f"{name} has {len(values)} values instead of 3")
    if any(deviation <= 0 for deviation in spec["std"] or ()):
        problems.append("std is not positive")
    return problems


def folder_name(spec: Spec) -> str:
    """Return the name of a cache's folder: its main settings, then 8 hex digits of the spec's digest."""
    words = [spec["backbone"], spec["weights"], str(spec["image_size"])]
    words += [f"{scale:g}um"] if (scale := scale_of(spec)) is not None else []
    words += [f"crop{spec['crop']}"] if spec["crop"] else []
    words += [spec["preprocess"]] if spec["preprocess"] != "none" else []
    words += [f"augment{augmented(spec)}"] if augmented(spec) else []
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join([*words, digest_json(spec)[:8]]))


def spec_differences(actual: Spec, expected: Spec) -> list[str]:
    """Return one line for each entry in which two specs differ."""
    return [
        f"{name}: {actual.get(name)!r} instead of {expected.get(name)!r}."
        for name in sorted({*actual, *expected})
        if actual.get(name) != expected.get(name)
    ]
