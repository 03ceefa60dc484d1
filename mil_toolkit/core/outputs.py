"""Checks of what a command is about to write, and folders that are replaced as a whole."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import TEMPORARY_PREFIX, check_file, check_place, fsync_folder, shown, written
from mil_toolkit.core.text import some

Foreign = Callable[[Path], Sequence[str]]


def check_outputs(outputs: Mapping[str, Path], inputs: Iterable[Path] = ()) -> None:
    """Raise UsageError that names every output which cannot be published, is another one or one of the inputs.

    outputs: files, by the options that name them; inputs: files that are read for them
    """
    problems = [
        f"{option}: {path} is read by this command, and would be lost."
        for option, path in outputs.items()
        if any(_same(path, each) for each in inputs)
    ]
    problems += [
        f"{one} and {other} both name {outputs[one]}."
        for one, other in combinations(outputs, 2)
        if _same(outputs[one], outputs[other])
    ]
    for option, path in outputs.items():
        try:
            with written(path):
                check_file(path)
                check_place(path.resolve())
        except UsageError as error:
            problems.append(f"{option}: {error}")
    if problems:
        raise UsageError("\n".join([*problems, "Nothing was written. Name other files."]))


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def check_replaceable(folder: Path, kind: str, foreign: Foreign) -> None:
    """Raise UsageError where `folder` cannot be made, or is there and holds what nobody asked to lose.

    kind: what alone may be replaced, in words; foreign: names in an existing folder that are no part of that
    """
    advice = f"It would be replaced by {kind}: name another folder."
    with written(folder):
        check_place(folder.resolve())
        if not os.path.lexists(folder):
            return
        if not folder.is_dir():
            raise UsageError(f"{folder} is there, and is no folder. {advice}")
        if folder.samefile(Path.cwd()):
            raise UsageError(f"{folder} is the working folder. {advice}")
        if names := foreign(folder):
            raise UsageError(
                f"{folder} holds what is not of {kind}: {some(list(map(shown, names)))}. {advice}"
            )


@contextlib.contextmanager
def published_folder(folder: Path, kind: str, foreign: Foreign) -> Iterator[Path]:
    """A new folder to fill, which takes the name `folder` when all of it is there; an older one is replaced.

    Raises what `check_replaceable` does, before and after it was filled.
    """
    check_replaceable(folder, kind, foreign)
    folder = folder.resolve()  # what a link names, not the link
    with written(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = folder.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        building.mkdir()
    retired = building.with_suffix(".old")
    try:
        yield building
        check_replaceable(folder, kind, foreign)
        with written(folder):
            if folder.exists():
                folder.rename(retired)
            building.rename(folder)
            fsync_folder(folder.parent)
    finally:
        if retired.exists() and not folder.exists():  # stopped between the two
            retired.rename(folder)
        for each in (building, retired):
            shutil.rmtree(each, ignore_errors=True)
