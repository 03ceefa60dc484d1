"""Checks of outputs before any work is done, and folders that are replaced as a whole."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import TEMPORARY_PREFIX, check_regular_file, fsync_folder, report_write_errors
from mil_toolkit.core.text import printable, some

ForeignEntries = Callable[[Path], Sequence[str]]
"""Returns the names in an existing folder that are not part of the output which would replace it."""


def check_outputs(outputs: Mapping[str, Path], inputs: Iterable[Path] = ()) -> None:
    """Raise UsageError that names every output file which cannot be written or would overwrite another file.

    outputs: paths by the options that name them; no two may be the same file, and none may be an input
    inputs: files that the command reads
    """
    problems = [
        f"{option}: {path} is read by this command and would be overwritten."
        for option, path in outputs.items()
        if any(_same_file(path, source) for source in inputs)
    ]
    problems += [
        f"{one} and {other} both name {outputs[one]}."
        for one, other in combinations(outputs, 2)
        if _same_file(outputs[one], outputs[other])
    ]
    for option, path in outputs.items():
        try:
            with report_write_errors(path):
                check_regular_file(path)
                _try_to_create(path.resolve())
        except UsageError as error:
            problems.append(f"{option}: {error}")
    if problems:
        raise UsageError("\n".join([*problems, "Nothing was written. Name other files."]))


def _same_file(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _try_to_create(path: Path) -> None:
    """Raise OSError if nothing can be created at `path`; a trial file detects more than permissions tell."""
    nearest = next(folder for folder in path.parents if os.path.lexists(folder))
    with tempfile.TemporaryFile(dir=nearest):
        pass


def check_replaceable(folder: Path, kind: str, foreign_entries: ForeignEntries) -> None:
    """Raise UsageError if `folder` cannot be created, or exists and holds anything but a former output.

    kind: the output in words, such as "a bundle"; foreign_entries: lists what is not part of such an output
    """
    advice = f"It would be replaced by {kind}: name another folder."
    with report_write_errors(folder):
        _try_to_create(folder.resolve())
        if not os.path.lexists(folder):
            return
        if not folder.is_dir():
            raise UsageError(f"{folder} exists and is not a folder. {advice}")
        if folder.samefile(Path.cwd()):
            raise UsageError(f"{folder} is the working folder. {advice}")
        if names := foreign_entries(folder):
            entries = some(list(map(printable, names)))
            raise UsageError(f"{folder} contains entries that are not part of {kind}: {entries}. {advice}")


@contextlib.contextmanager
def published_folder(folder: Path, kind: str, foreign_entries: ForeignEntries) -> Iterator[Path]:
    """Yield a new folder to fill, which takes the name `folder` at the end of a block that succeeds.

    A former output at `folder` is replaced; if `folder` is a link, the folder that it points to. Raises
    UsageError as `check_replaceable` does, both before the block and at its end.
    """
    check_replaceable(folder, kind, foreign_entries)
    folder = folder.resolve()
    with report_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = folder.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        building.mkdir()
    retired = building.with_suffix(".old")
    try:
        yield building
        check_replaceable(folder, kind, foreign_entries)
        with report_write_errors(folder):
            if folder.exists():
                folder.rename(retired)
            building.rename(folder)
            fsync_folder(folder.parent)
    finally:
        if retired.exists() and not folder.exists():  # interrupted between the two renames
            retired.rename(folder)
        for leftover in (building, retired):
            shutil.rmtree(leftover, ignore_errors=True)
