"""Running commands on damaged files: each in a process of its own, with a limit on its memory and time."""

import contextlib
import functools
import itertools
import os
import pkgutil
import re
import resource
import select
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import mil_toolkit
from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.core.files import digest
from mil_toolkit.core.run_log import LOG

Files = Mapping[str, bytes]
Changes = Mapping[str, bytes | None]  # the new content of files by their paths in the tree; None removes one

MEMORY = 2**31  # bytes of address space that a command may take in addition to that of this process
SECONDS = 120
CACHE = "CACHE"  # among the arguments of a command: the folder of the cache
ALLOWED = (0, 2, 3, 75)
SCREEN = 100  # lines
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Result(NamedTuple):
    """The exit code of a process, negative for a signal, and what it wrote to stdout and stderr."""

    code: int
    text: str


class Command(NamedTuple):
    """A command that runs in the tree, with `OUT` for the folder of its output.

    writes: patterns of the files in the tree that it may write
    check: raises AssertionError if the output folder does not hold a right result
    """

    name: str
    argv: tuple[str, ...]
    writes: tuple[str, ...] = ()
    check: Callable[[Path], None] | None = None


def run_isolated(function: Callable[[], int | None], output: Path) -> Result:
    """Run a function in a child process; its memory and time are limited.

    output: the file that receives what the child prints
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of threads, which the child lacks
        child = os.fork()
    if not child:
        _run_and_exit(function, output)
    descriptor = os.pidfd_open(child)
    if not select.select([descriptor], [], [], SECONDS)[0]:
        os.kill(child, signal.SIGKILL)
    os.close(descriptor)
    status = os.waitpid(child, 0)[1]
    return Result(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))


def _run_and_exit(function: Callable[[], int | None], output: Path) -> None:
    code: object = 1
    try:
        descriptor = os.open(output, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace") for number in (1, 2))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        warnings.resetwarnings()
        code = function()
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001 - reported to the parent process
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


@dataclass(frozen=True)
class Tree:
    """A folder of files that commands read, restored after each change.

    folder: holds the files; files: their content by path
    out: the folder beside it to which commands write
    """

    folder: Path
    files: Files
    out: Path

    @classmethod
    def at(cls, folder: Path) -> "Tree":
        """Return the tree of the files in a folder."""
        return cls(folder, contents(folder), folder.with_name("out"))

    @contextlib.contextmanager
    def changed(self, changes: Changes) -> Iterator[None]:
        """Change files within the block, and restore the tree after it."""
        try:
            for name, content in changes.items():
                self._write(name, content)
            yield
        finally:
            left = set(contents(self.folder))
            for name in {*changes, *left.symmetric_difference(self.files)}:
                self._write(name, self.files.get(name))
            for name in left & set(self.files):
                if (self.folder / name).read_bytes() != self.files[name]:
                    self._write(name, self.files[name])

    def _write(self, name: str, content: bytes | None) -> None:
        path = self.folder / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    @property
    def _cache(self) -> str:
        (spec,) = (name for name in self.files if name.startswith("cache/") and name.endswith("/spec.json"))
        return spec.removesuffix("/spec.json")

    def run(self, command: Command) -> Result:
        """Run a command in a child process, with an empty output folder."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        argv = [argument.replace("OUT", str(self.out)) for argument in command.argv]
        argv = [self._cache if argument == CACHE else argument for argument in argv]
        main = import_module(f"mil_toolkit.cli.{command.name}").main

        def run() -> int:
            os.chdir(self.folder)
            return int(main(argv))

        return run_isolated(run, self.out.with_name("printed"))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder by its path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check_commands(tree: Tree, changes: Changes, commands: tuple[Command, ...]) -> None:
    """Run commands on a changed tree; raises AssertionError for an outcome that is not allowed."""
    with tree.changed(changes):
        before = {name: digest(content) for name, content in contents(tree.folder).items()}
        for command in commands:
            result = tree.run(command)
            problem = _problem_of(result) or _problem_of_files(tree, before, command)
            assert problem is None, f"mil-{command.name}: {problem}\n{result.text[-6000:]}"
            if result.code == 0 and command.check is not None:
                command.check(tree.out)


def _problem_of(result: Result) -> str | None:
    if result.code not in ALLOWED or "Traceback" in result.text or "this is a bug" in result.text:
        return f"exit code {result.code}"
    if result.code and not result.text.strip():
        return f"exit code {result.code} without a sentence"
    if result.code and result.text.count("\n") > SCREEN:
        return f"more than {SCREEN} lines"
    control = _CONTROL.search(result.text)
    return None if control is None else f"the control character {control[0]!r} is printed"


def _problem_of_files(tree: Tree, before: Mapping[str, str], command: Command) -> str | None:
    after = {name: digest(content) for name, content in contents(tree.folder).items()}
    touched = [name for name in before if before[name] != after.get(name)]
    writes = (*command.writes, f"*{LOG}")
    damaged = [name for name in touched if not any(fnmatch(name, pattern) for pattern in writes)]
    return f"changed {', '.join(damaged)}" if damaged else None


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Import every module of this system and build a backbone once, for the child of each command."""
    for module in pkgutil.walk_packages(mil_toolkit.__path__, "mil_toolkit."):
        if not module.name.rpartition(".")[2].startswith("windows_"):
            import_module(module.name)
    build = functools.cache(build_backbone)
    build("resnet18", "random", 32)
    with patch("mil_toolkit.backbones.backbones.build_backbone", build):
        yield


class Fuzzed(NamedTuple):
    """How many cases were tried, and the messages of those that ended wrongly."""

    cases: int
    failures: list[str]


def fuzz(
    tree: Tree,
    damage: st.SearchStrategy[Changes],
    commands: tuple[Command, ...],
    cases: int,
    random_seed: int | None = None,
) -> Fuzzed:
    """Run commands on at most so many damaged trees.

    random_seed: of the cases, which are otherwise the same each time
    """
    failures: list[str] = []
    tried = itertools.count()

    @settings(
        max_examples=cases,
        database=None,
        derandomize=random_seed is None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(damage)
    def check(changes: Changes) -> None:
        next(tried)
        try:
            check_commands(tree, changes, commands)
        except AssertionError as error:
            failures.append(f"{', '.join(changes)}: {error}")

    (check if random_seed is None else seed(random_seed)(check))()
    return Fuzzed(next(tried), failures)
