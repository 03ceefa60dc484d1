"""mil-cache: its output and exit codes."""

import dataclasses
from pathlib import Path

import pytest
from support.commands import Command
from support.stored_bags import three_patients

from mil_toolkit.cli.cache import FORMATS, IMPORT_FORMATS
from mil_toolkit.core.locks import shared
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.layouts import LAYOUTS, SOURCES
from mil_toolkit.features.upkeep import summarise_cache


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return three_patients(tmp_path / "cache")


def test_info_prints_text_or_json(cache: FeatureCache, command: Command) -> None:
    told = command("cache", "info", cache.folder, "--json")
    assert told.code == 0 and told.json == dataclasses.asdict(summarise_cache(cache.folder))
    assert told.json["patients"] == 3 and told.json["images"] == 9 and told.json["shards"] == 2
    assert told.json["bytes"] == sum(path.stat().st_size for path in cache.folder.glob("*.h5"))
    text = command("cache", "info", cache.folder)
    assert "patients: 3\nimages: 9\n" in text.out and 'backbone: "net"' in text.out
    assert command("cache", "--json", "info", cache.folder).json == told.json


def test_verify_and_prune_by_command(cache: FeatureCache, command: Command) -> None:
    assert command("cache", "verify", cache.folder, "--json").json == {"shards": 2}
    assert command("cache", "prune", cache.folder, "--json").json == {"removed": 0, "bytes": 0}
    with shared(cache.folder):
        assert command("cache", "prune", cache.folder).code == 75
    for shard in cache.shards:
        shard.path.write_bytes(b"")
    done = command("cache", "verify", cache.folder, "--json")
    assert done.code == 3 and done.out == "" and done.err.count("do not match its name") == 2
    assert command("cache", "verify", cache.folder.parent).code == 3


def test_the_formats_of_the_command_are_those_of_the_table() -> None:
    assert tuple(LAYOUTS) == FORMATS
    assert tuple(SOURCES) == IMPORT_FORMATS
