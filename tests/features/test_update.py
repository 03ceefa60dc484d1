"""Publishing until the cache matches the images, whatever other processes do."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.tiny_images import LONG_AGO, bags_of, draw, expected, run, same

from mil_toolkit.core.errors import DataError
from mil_toolkit.features import update
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.plan import Plan
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage
from mil_toolkit.features.update import CacheUpdate

pytestmark = pytest.mark.usefixtures("built_once")


def test_the_bag_of_an_outdated_writer_is_replaced(toml: Path) -> None:
    """If another process published other content last, the cohort's content is published again."""
    first = run(toml)
    cache = FeatureCache.open(first.folder)
    stale = EmbeddedBag("P1", (StoredImage("0.png", b"\1" * 32, 1, 1),), np.ones((1, 512), np.float16))
    cache.publish([stale], Recorded("float32", "pillow 1"))
    cache.refresh()
    assert cache.winners(["P1"])[0].digest == stale.digest
    again = run(toml)
    assert again.extracted == 0 and same(bags_of(again), expected(toml))


def test_a_concurrent_writer_of_old_content_is_overruled(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It publishes outdated content under the same sequence number during the run."""
    stale = EmbeddedBag("P1", (StoredImage("0.png", b"\1" * 32, 1, 1),), np.ones((1, 512), np.float16))
    publish, done = FeatureCache.publish, []

    def interfere(cache: FeatureCache, bags: Sequence[EmbeddedBag], recorded: Recorded) -> Path:
        path = publish(cache, bags, recorded)
        if not done:
            done.append(True)
            other = FeatureCache.open(cache.folder)
            publish(other, [stale], recorded)
        return path

    monkeypatch.setattr(FeatureCache, "publish", interfere)
    assert same(bags_of(run(toml)), expected(toml))


def test_images_that_keep_changing_are_an_error(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not an endless run."""
    seeds = iter(range(1000, 2000))
    carry_out = CacheUpdate.carry_out

    def carry_out_and_change(update: CacheUpdate, plans: Sequence[Plan]) -> float:
        seconds = carry_out(update, plans)
        path = toml.parent / "images/P2/0.png"
        draw(path, next(seeds))
        os.utime(path, (LONG_AGO, LONG_AGO + next(seeds)))
        return seconds

    monkeypatch.setattr(CacheUpdate, "carry_out", carry_out_and_change)
    with pytest.raises(DataError, match="changed while they were read, in 3 attempts: patients P2"):
        run(toml)


@pytest.mark.parametrize(
    ("name", "limit", "patients"),
    [
        ("patients", 2, [("P1", "P2"), ("P3", "P4")]),
        ("images", 4, [("P1", "P2"), ("P3",), ("P4",)]),
        ("images", 5, [("P1", "P2", "P3"), ("P4",)]),
    ],
)
def test_shards_are_published_during_the_run(
    toml: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, patients: list[tuple[str, ...]]
) -> None:
    """After a number of patients or of images."""
    monkeypatch.setattr(update, "SHARD_LIMITS", update.SHARD_LIMITS._replace(**{name: limit}))
    found = run(toml)
    assert sorted(shard.patient_ids for shard in FeatureCache.open(found.folder).shards) == patients
    assert same(bags_of(found), expected(toml))


def test_shards_are_published_after_some_time(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of zero seconds, each finished patient at once."""
    monkeypatch.setattr(update, "SHARD_LIMITS", update.SHARD_LIMITS._replace(seconds=0.0))
    assert len(FeatureCache.open(run(toml, batch_size=1).folder).shards) == 4
