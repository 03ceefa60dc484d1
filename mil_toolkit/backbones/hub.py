"""Files of the Hugging Face hub: from its cache, or downloaded if the hub can be reached."""

import importlib
import urllib.request
from pathlib import Path

from mil_toolkit.backbones.encoders import HUB

DOWNLOAD_TIMEOUT = 15  # seconds without a response
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"  # the files of weights that timm looks for
CONFIG = "config.json"


def cached_file(repository: str | None, file: str) -> Path | None:
    """Return a file of the hub's cache; None if it is not there.

    repository: `ORG/NAME` or `ORG/NAME@REVISION`
    """
    if not repository:
        return None
    hub = importlib.import_module("huggingface_hub")
    name, _, revision = repository.partition("@")
    cached = hub.try_to_load_from_cache(name, file, None, revision or None)
    return Path(cached) if isinstance(cached, str) else None


def cached_files(repository: str | None, *files: str) -> list[Path] | None:
    """Return what decides which file of a repository is read: the first one in the cache, and its revision.

    None if none of the files is in the cache.
    """
    for file in files:
        cached = cached_file(repository, file)
        if cached is not None:
            return [cached, *cached.parents[2].glob("refs/main")]  # .../snapshots/REVISION/model.safetensors
    return None


def check_online() -> None:
    """Raise OSError at once if the hub cannot be reached.

    Otherwise the hub's client would retry for a minute, even for a file in its cache.
    """
    urllib.request.urlopen(HUB, timeout=DOWNLOAD_TIMEOUT).close()


def fetch(repository: str, *files: str) -> Path:
    """Return the first of these files that a repository has, from the cache or downloaded.

    Raises OSError if the hub cannot be reached, and the exceptions of the hub's client.
    """
    for file in files:
        cached = cached_file(repository, file)
        if cached is not None:
            return cached
    check_online()
    hub = importlib.import_module("huggingface_hub")
    name, _, revision = repository.partition("@")
    *others, last = files
    for file in others:
        try:
            return Path(hub.hf_hub_download(name, file, revision=revision or None))
        except hub.errors.EntryNotFoundError:
            continue
    return Path(hub.hf_hub_download(name, last, revision=revision or None))


def one_line(error: Exception) -> str:
    """Return the first line of an error's message; those of the hub's client have several."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
