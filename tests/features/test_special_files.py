"""Pipes, devices, folders, and files that may not be read, where shards, specs and images are expected."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.stored_bags import three_patients, write_trident
from support.tiny_images import BAGS, CONFIG, write_cohort
from support.users import as_nobody, let_search, needs_root

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache, find_cache
from mil_toolkit.features.export import export_cache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.imports import import_features
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.upkeep import prune, summarise_cache, verify

NAME = "0" * 64 + ".h5"


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (_pipe, "is a named pipe"),
    "an endless device": (_endless, "is a device"),
    "a folder": (Path.mkdir, "is a folder"),
    "a loop of links": (_loop, "symbolic links"),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", [NAME, "spec.json"])
def test_caches_with_special_files_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    folder = three_patients(tmp_path).folder
    make, reason = SPECIAL[kind]
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    for read in (FeatureCache.open, verify, prune, summarise_cache):
        with pytest.raises(DataError, match=reason) as caught:
            read(folder)
        assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_not_imported(tmp_path: Path, kind: str) -> None:
    """All of them are named in one run."""
    write_trident(tmp_path / "f/P1.h5", np.ones((2, 3), np.float32))
    make, reason = SPECIAL[kind]
    paths = [tmp_path / "f" / f"P2.{extension}" for extension in ("h5", "pt", "npy")]
    for number, path in enumerate(paths):
        make(path.with_stem(f"P{number + 2}"))
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "f", "bags", tmp_path / "cache", "c")
    assert sum(reason in problem for problem in caught.value.problems) == 3
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("built_once")
def test_special_images_are_named(tmp_path: Path) -> None:
    """Also where they appear after the cohort was read; a sparse image of a terabyte is not read."""
    toml = write_cohort(tmp_path / "cohort", BAGS)
    cohort = read_cohort(toml)
    images = toml.parent / "images" / "P1"
    (images / "0.png").unlink()
    _pipe(images / "0.png")
    (images / "1.png").unlink()
    _endless(images / "1.png")
    with (images / "2.png").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError) as caught:
        extract(cohort, CONFIG, tmp_path / "cache", device="cpu", precision="float32", batch_size=4)
    for name, reason in (("0", "is a named pipe"), ("1", "is a device"), ("2", "is larger than 1,024 MiB")):
        assert f"{images}/{name}.png: {reason}" in str(caught.value)
    assert len(caught.value.problems) == 4


def test_a_special_file_of_rehashes_is_ignored(tmp_path: Path) -> None:
    _pipe(tmp_path / "rehashes.json")
    assert Rehashes(tmp_path).get("P1", "a", 5, 7) is None


# Permissions.


@pytest.fixture(name="shared")
def _shared(tmp_path: Path) -> Iterator[FeatureCache]:
    """A cache that another user may search."""
    let_search(tmp_path)
    yield three_patients(tmp_path / "cache")


@needs_root
def test_a_shard_that_may_not_be_read_is_named_with_its_owner(shared: FeatureCache) -> None:
    path = shared.shards[0].path
    path.chmod(0)
    for read in (FeatureCache.open, verify, summarise_cache):
        text = as_nobody(lambda read=read: read(shared.folder))
        assert text.splitlines()[-1].startswith("mil_toolkit.core.errors.UsageError:")
        assert f"{path} cannot be read: permission denied: it belongs to root and has mode 0000" in text


@needs_root
def test_a_folder_that_may_not_be_searched_is_named(shared: FeatureCache, tmp_path: Path) -> None:
    shared.folder.chmod(0o600)
    root = tmp_path / "cache"
    reads: list[Callable[[], object]] = [
        lambda: FeatureCache.open(shared.folder),
        lambda: verify(shared.folder),
        lambda: find_cache("cohort", root),
        lambda: FeatureCache.create(root, "cohort", shared.spec),
        lambda: import_features(shared.folder, "bags", tmp_path, "c"),
    ]
    for read in reads:
        text = as_nobody(read)
        assert "UsageError: " in text and "Ask root for permission to read it" in text
    shared.folder.chmod(0o700)
    shared.folder.parent.chmod(0o600)
    for read in reads[:4]:
        assert "Ask root for permission to read it" in as_nobody(read)


@needs_root
def test_feature_files_that_may_not_be_read_are_named(shared: FeatureCache, tmp_path: Path) -> None:
    write_trident(tmp_path / "f/P1.h5", np.ones((2, 3), np.float32))
    (tmp_path / "f/P1.h5").chmod(0)
    text = as_nobody(lambda: import_features(tmp_path / "f", "trident", tmp_path / "new", "c"))
    assert "UsageError: " in text and f"{tmp_path}/f/P1.h5 cannot be read: permission denied" in text


@needs_root
def test_an_unreadable_export_is_not_replaced(shared: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o").chmod(0o777)
    (tmp_path / "o/a.h5").write_bytes(b"other")
    (tmp_path / "o/a.h5").chmod(0)
    text = as_nobody(lambda: export_cache(shared, "trident", tmp_path / "o"))
    assert "UsageError: " in text and (tmp_path / "o/a.h5").read_bytes() == b"other"
