"""`check_files`: what the files of an import have in common, before anything is written."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import count_of, each_or_most, printable, some
from mil_toolkit.features.feature_files import FeatureFile
from mil_toolkit.features.foreign_content import Foreign
from mil_toolkit.features.half_precision import Loss, conversion_loss, spoiled_columns, to_float16
from mil_toolkit.features.spec import Tile
from mil_toolkit.features.tiles import silent_files, tile_problems

Read = Callable[[Path], Foreign]
logger = logging.getLogger(__name__)


class Content(NamedTuple):
    """What all files of an import have in common; precision: of the features, several joined by `+`."""

    width: int
    encoder: str
    precision: str
    tile: Tile | None


class _Described(NamedTuple):
    """What a file says and holds, without its features; twin_differs: whether a twin has other features."""

    width: int
    encoder: str | None
    precision: str
    tile: Tile | None
    loss: Loss
    ignored: tuple[str, ...]
    twin_differs: bool


def check_files(files: Sequence[FeatureFile], read: Read, encoder: str | None) -> Content:
    """Return what all files have in common; raises DataError that names every file that does not fit.

    read: reads a file; raises DataError if it does not hold features
    encoder: names the network if the files do not
    """
    problems: list[str] = []
    described: dict[Path, _Described] = {}
    for file in files:
        try:
            described[file.path] = _describe(file, read)
        except DataError as error:
            problems += error.problems
    tiles = {path: file.tile for path, file in described.items()}
    stated = {path: file.encoder for path, file in described.items() if file.encoder is not None}
    problems += _disagreements("width", {path: file.width for path, file in described.items()})
    problems += _disagreements("encoder", stated)
    problems += _encoder_problems(encoder, [*described], stated)
    problems += tile_problems(tiles)
    if problems:
        raise DataError(problems)
    _log_remarks(described)
    return Content(
        next(file.width for file in described.values()),
        next(iter(stated.values()), encoder or ""),
        "+".join(_precisions(described)),
        next(filter(None, tiles.values()), None),
    )


def _describe(file: FeatureFile, read: Read) -> _Described:
    foreign = read(file.path)
    features = foreign.features
    loss = conversion_loss(file.path, features)
    return _Described(
        features.shape[1],
        foreign.encoder,
        str(features.dtype),
        foreign.tile,
        loss,
        foreign.ignored,
        any(not _holds(twin, features, read) for twin in file.twins),
    )


def _holds(twin: Path, features: NDArray[np.floating], read: Read) -> bool:
    """Return whether another file of the same slide can be read and holds the same features in float16."""
    try:
        other = to_float16(twin, read(twin).features)
    except DataError:
        return False
    return np.array_equal(other, to_float16(twin, features))


def _disagreements(quantity: str, values: Mapping[Path, int | str]) -> list[str]:
    """Return a line for each file whose value is not the most common one."""
    common = max(values.values(), key=[*values.values()].count, default=None)
    return [
        f"{printable(path)}: {quantity} {value} instead of {common}, as in most files."
        for path, value in values.items()
        if value != common
    ]


def _encoder_problems(encoder: str | None, files: Sequence[Path], stated: Mapping[Path, str]) -> list[str]:
    """Return what is wrong with `--encoder`, which may name the network only where the files do not."""
    silent = [printable(path) for path in files if path not in stated]
    if encoder is not None:
        others = sorted({*stated.values()} - {encoder})
        return [
            f"--encoder {encoder}: the files say {name}, as {printable(_first(stated, name))} does."
            " Leave --encoder out."
            for name in others
        ]
    if silent and not stated:
        return ["The files do not say which network made them. Name it with --encoder."]
    return each_or_most(
        silent,
        len(files),
        (
            f"{path}: does not say which network made it, as others do. Name it with --encoder."
            for path in silent
        ),
        "files do not say which network made them, as others do. Name it with --encoder:",
    )


def _first(stated: Mapping[Path, str], name: str) -> Path:
    return next(path for path, encoder in stated.items() if encoder == name)


def _precisions(described: Mapping[Path, _Described]) -> list[str]:
    return sorted({file.precision for file in described.values()})


def _log_remarks(described: Mapping[Path, _Described]) -> None:
    """Log what a user should know about files that are imported all the same."""
    if (precisions := _precisions(described)) != ["float16"]:
        logger.info("Features in %s are stored in float16.", ", ".join(precisions))
    differing = [printable(path) for path, file in described.items() if file.twin_differs]
    if differing:
        logger.warning(
            "For %s, the same slide's file in another format holds other features or cannot be read. Only"
            " these were imported: %s.",
            count_of(len(differing), "file"),
            some(differing),
        )
    ignored = Counter(name for file in described.values() for name in file.ignored)
    for name, count in sorted(ignored.items()):
        logger.info("%s is not imported (%s).", printable(name), count_of(count, "file"))
    for warning in (
        silent_files({path: file.tile for path, file in described.items()}),
        spoiled_columns({path: file.loss for path, file in described.items()}),
    ):
        if warning:
            logger.warning("%s", warning)
