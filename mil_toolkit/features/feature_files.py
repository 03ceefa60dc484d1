"""`find_feature_files`: the feature files in another tool's folder, by slide."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mil_toolkit.core.access import exists
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.reading import unreadable
from mil_toolkit.core.text import count_of, printable, some
from mil_toolkit.features.layouts import Source

_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
logger = logging.getLogger(__name__)


class FeatureFile(NamedTuple):
    """The file that is read for a slide.

    name: path within the tool's folder, without the extension
    twins: other files of the same slide, which are not imported
    """

    name: str
    path: Path
    twins: tuple[Path, ...]


def find_feature_files(source: Path, layout: Source) -> dict[str, FeatureFile]:
    """Return the file of every slide by its name; the name is its path without folder and extension.

    The subfolders of the layout are read together; slides that only one of them has are logged. Hidden files
    and those of operating systems, such as `._P1.h5`, are passed over.

    Raises UsageError if `source` is not a folder, DataError if it holds no feature files.
    """
    if not exists(source) or not source.is_dir():
        raise UsageError(f"{printable(source)} is not a folder.")
    folders = [source / name for name in layout.folders if (source / name).is_dir()] or [source]
    slides: dict[str, list[Path]] = {}
    for folder in folders:
        for path in _files(folder, layout):
            slides.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    if not slides:
        places = " and ".join(map(printable, folders))
        raise DataError(f"{places}: no files that end in {' or '.join(layout.extensions)}.")
    _log_incomplete(folders, slides)
    return {name: FeatureFile(name, paths[0], tuple(paths[1:])) for name, paths in slides.items()}


def _files(folder: Path, layout: Source) -> list[Path]:
    """Return the feature files in a folder, those with the preferred extension first."""
    paths = [
        path
        for path in sorted(_below(folder))
        if path.suffix.lower() in layout.extensions and not _is_hidden(path.relative_to(folder))
    ]
    return sorted(paths, key=lambda path: layout.extensions.index(path.suffix.lower()))


def _below(folder: Path) -> Iterator[Path]:
    """Yield all files and folders below a folder; raises UsageError if one of the folders may not be read."""

    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename), error)

    for place, folders, files in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in (*folders, *files))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in _SYSTEM_FOLDERS for part in path.parts)


def _log_incomplete(folders: Sequence[Path], slides: Mapping[str, Sequence[Path]]) -> None:
    """Warn of slides that some folders lack."""
    if len(folders) == 1:
        return
    for folder in folders:
        absent = [
            printable(name)
            for name, paths in slides.items()
            if not any(path.is_relative_to(folder) for path in paths)
        ]
        if absent:
            logger.warning(
                "%s lacks %d of %s, read from %s instead: %s.",
                folder,
                len(absent),
                count_of(len(slides), "slide"),
                " and ".join(other.name for other in folders if other != folder),
                some(sorted(absent)),
            )
