"""The file of digests beside the shards."""

import os
from pathlib import Path

from mil_toolkit.features.rehashes import Rehashes


def test_rehashes_survive_any_file(tmp_path: Path) -> None:
    """Corrupt files are ignored; names may hold any bytes."""
    name = os.fsdecode(b"\xff\n.png")
    rehashes = Rehashes(tmp_path)
    rehashes.remember("P1", name, 5, 7, b"\2" * 32)
    rehashes.save()
    assert Rehashes(tmp_path).get("P1", name, 5, 7) == b"\2" * 32
    assert Rehashes(tmp_path).get("P1", name, 5, 8) is None
    for text in ("{", "[]", '{"P1": 3}', '{"P1": {"a": ["5", 7, "00"]}}', '{"P1": {"a": [5, 7, "zz"]}}'):
        rehashes.path.write_text(text)
        assert Rehashes(tmp_path).get("P1", "a", 5, 7) is None
