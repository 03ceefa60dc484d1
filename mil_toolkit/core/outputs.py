"""Checks of outputs before any work is done, and folders that are replaced as a whole."""

import contextlib
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from mil_toolkit.core.access import adopt_access_of_folder, adopt_access_privately
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import (
    RETIRED,
    TEMPORARY_PREFIX,
    check_regular_file,
    digest,
    remove_dead_temporaries,
    report_write_errors,
    temporary_folder,
)
from mil_toolkit.core.own_folders import check_outside_own_folders
from mil_toolkit.core.reading import open_input
from mil_toolkit.core.system_files import free_lock, fsync_folder, rename
from mil_toolkit.core.text import printable, some

ForeignEntries = Callable[[Path], Sequence[str]]
"""Returns the names in an existing folder that are not part of the output which would replace it."""


@dataclass(frozen=True)
class Output:
    """A file that a command is going to write.

    kind: what it is in words, such as "a table of predictions"
    is_former: whether an existing file is a former output of the same kind; only such a file is replaced
    study: folder of the study that the file belongs to, inside which it may be written
    """

    path: Path
    kind: str
    is_former: Callable[[Path], bool]
    study: Path | None = None


def check_outputs(outputs: Mapping[str, Output], inputs: Iterable[Path] = ()) -> None:
    """Raise UsageError that names every output file that cannot be written or would replace another file.

    outputs: by the options that name them; no two may be the same file, none may be an input, and none may be
        in the folder of a cache, a study or a bundle
    inputs: files that the command reads
    """
    sources = list(inputs)
    problems = [
        f"{option}: {printable(output.path)} is read by this command and would be overwritten."
        for option, output in outputs.items()
        if _is_among(output.path, sources)
    ]
    problems += [
        problem
        for one, other in combinations(outputs, 2)
        for problem in _collisions(one, outputs[one].path, other, outputs[other].path)
    ]
    for option, output in outputs.items():
        try:
            _check_output(output)
        except UsageError as error:
            problems.append(f"{option}: {error}")
    if problems:
        raise UsageError("\n".join([*problems, "Nothing was written. Name other files."]))
    for output in outputs.values():
        remove_dead_temporaries(output.path.parent)


def _is_among(path: Path, sources: Sequence[Path]) -> bool:
    """Return whether a path names one of some files; there may be very many of them."""
    there = _identity(path)
    if there is not None:
        return any(_identity(source) == there for source in sources)
    return any(_same_file(path, source) for source in sources if _identity(source) is None)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of an existing file, which two paths of the same file share."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _same_file(one: Path, other: Path) -> bool:
    same_name = os.path.realpath(one) == os.path.realpath(other)
    return same_name or (os.path.exists(one) and os.path.exists(other) and one.samefile(other))


def _collisions(one: str, path: Path, other: str, second: Path) -> Iterator[str]:
    """Yield why two outputs cannot both be written; some file systems ignore case and normal form."""
    first, last = (
        Path(unicodedata.normalize("NFC", os.path.realpath(name)).casefold()) for name in (path, second)
    )
    if first == last or _same_file(path, second):
        yield f"{one} and {other} both name {printable(path)}."
    elif first in last.parents or last in first.parents:
        yield f"{one} and {other} name {printable(path)} and {printable(second)}, one inside the other."


def _check_output(output: Output) -> None:
    """Raise UsageError if a file cannot be created at the path or should not be."""
    path = output.path
    with report_write_errors(path):
        check_regular_file(path)
        _try_to_create(path)
        check_outside_own_folders(path, output.study)
        if os.path.lexists(path) and not _is_former(output):
            raise UsageError(f"{printable(path)} exists and is not {output.kind} that this command wrote.")


def _is_former(output: Output) -> bool:
    try:
        return output.is_former(output.path)
    except (DataError, FileNotFoundError):  # such as a link to nothing
        return False


def _try_to_create(path: Path) -> None:
    """Raise OSError if nothing can be created at `path`; a trial file detects more than permissions tell."""
    with contextlib.suppress(FileNotFoundError):
        path.lstat()  # the name may be too long
    nearest = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    with tempfile.TemporaryFile(dir=nearest):
        pass


def starts_with(path: Path, start: bytes) -> bool:
    """Return whether a file starts with these bytes; raises as `open_input` does."""
    with open_input(path) as file:
        return file.read(len(start)) == start


def check_replaceable(folder: Path, kind: str, foreign_entries: ForeignEntries) -> None:
    """Raise UsageError if `folder` cannot be created, or exists and holds anything but a former output.

    kind: the output in words, such as "a bundle"; foreign_entries: lists what is not part of such an output
    """
    advice = f"It would be replaced by {kind}: name another folder."
    with report_write_errors(folder):
        target = Path(os.path.realpath(folder))
        _restore_interrupted(target)
        remove_dead_temporaries(target.parent)
        _try_to_create(target)
        if not os.path.lexists(folder):
            return
        if not folder.is_dir():
            raise UsageError(f"{printable(folder)} exists and is not a folder. {advice}")
        if folder.samefile(Path.cwd()):
            raise UsageError(f"{printable(folder)} is the working folder. {advice}")
        if names := foreign_entries(folder):
            entries = some(list(map(printable, names)))
            raise UsageError(
                f"{printable(folder)} contains entries that are not part of {kind}: {entries}. {advice}"
            )


@contextlib.contextmanager
def published_folder(folder: Path, kind: str, foreign_entries: ForeignEntries) -> Iterator[Path]:
    """Yield a new folder to fill, which takes the name `folder` at the end of a block that succeeds.

    A former output at `folder` is replaced, and its access rights are kept; if `folder` is a link, the folder
    that it points to. Raises UsageError as `check_replaceable` does, both before the block and at its end.
    """
    check_replaceable(folder, kind, foreign_entries)
    folder = Path(os.path.realpath(folder))
    with contextlib.ExitStack() as stack:
        with report_write_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            building = stack.enter_context(temporary_folder(folder.parent, _stem(folder)))
        if folder.exists():
            adopt_access_privately(building, folder)
        yield building
        check_replaceable(folder, kind, foreign_entries)
        with report_write_errors(folder):
            _replace(building, folder)


def _replace(building: Path, folder: Path) -> None:
    retired = building.with_suffix(RETIRED)
    try:
        if folder.exists():
            adopt_access_of_folder(building, folder)
            rename(folder, retired)
        rename(building, folder)
        fsync_folder(folder.parent)
    finally:
        if retired.exists() and not folder.exists():  # interrupted between the two renames
            retired.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)


def _restore_interrupted(folder: Path) -> None:
    """Put back a former output whose replacement was killed between its two renames."""
    for retired in list(folder.parent.glob(f"{TEMPORARY_PREFIX}{_stem(folder)}*{RETIRED}")):
        with contextlib.suppress(OSError), free_lock(retired.with_suffix("")):
            with contextlib.suppress(OSError):  # there is another output in its place
                retired.rename(folder)
            shutil.rmtree(retired, ignore_errors=True)


def _stem(folder: Path) -> str:
    """Return the part of temporary names that tells which folder they are to become or were."""
    return f"{digest(os.fsencode(folder.name))[:16]}-"
