"""Completion of command lines in a shell, by argcomplete (the extra `completion`)."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mil_toolkit.core.errors import UsageError, import_extra

SHELLS = ("bash", "zsh")
_START = "_ARGCOMPLETE"  # set where a shell asks: the number of the word that names the command, from 1
_EXTRA = "completion"
Words = Callable[[str], Iterable[str]]


def completion_script(shell: str, programs: Sequence[str]) -> str:
    """Return a script that lets a shell ask these programs for completions.

    Raises UsageError if argcomplete is not installed.
    """
    argcomplete = import_extra("argcomplete", _EXTRA, "Completion")
    script: str = argcomplete.shellcode(programs, use_defaults=False, shell=shell)
    return script


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and end the process; otherwise do nothing.

    Without argcomplete, the process ends without an answer.
    """
    if _START not in os.environ:
        return
    try:
        argcomplete = import_extra("argcomplete", _EXTRA, "Completion")
    except UsageError:
        os._exit(1)
    argcomplete.autocomplete(parser, default_completer=_default_values)


def pass_on_completion(names: Iterable[str]) -> str | None:
    """Return the command that follows `mil` on the line that is being completed, if it is one of these.

    The command then takes the place of `mil`.
    """
    if _START not in os.environ:
        return None
    try:
        argcomplete = import_extra("argcomplete", _EXTRA, "Completion")
    except UsageError:
        return None
    line, cursor = os.environ.get("COMP_LINE", ""), int(os.environ.get("COMP_POINT", "0"))
    words, start = argcomplete.split_line(line, cursor)[3], int(os.environ[_START])
    name = str(words[start]) if len(words) > start else ""
    if name not in names:
        return None
    os.environ[_START] = str(start + 1)
    return name


def suggest(action: argparse.Action, words: Words | Sequence[str], files: bool = False) -> None:
    """Let completion suggest values of an option that is not limited to choices.

    words: the values, or a function that returns them for the beginning of a value; files: also suggest files
    """

    def values(prefix: str, **_: object) -> Iterator[str]:
        yield from words(prefix) if callable(words) else words
        if files:
            yield from file_names(prefix)

    vars(action)["completer"] = values  # where argcomplete looks for it


def _default_values(prefix: str, action: argparse.Action, **_: object) -> Iterable[str]:
    """Suggest files for options whose values are paths, and nothing for others."""
    return file_names(prefix) if action.type is Path else ()


def file_names(prefix: str) -> Iterator[str]:
    """Yield the files and folders whose path begins with `prefix`; folders end with a slash."""
    folder, beginning = os.path.split(prefix)
    written = prefix[: len(prefix) - len(beginning)]
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        hidden = entry.name.startswith(".") and not beginning.startswith(".")
        if entry.name.startswith(beginning) and not hidden:
            yield f"{written}{entry.name}{os.sep if entry.is_dir() else ''}"
