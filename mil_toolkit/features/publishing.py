"""`publish_in_shards`: publish bags in shards of bounded size while they are being computed."""

import math
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, Recorded


class ShardLimits(NamedTuple):
    """A shard is published as soon as it reaches one limit; `seconds` count from the previous shard."""

    patients: int
    images: int
    seconds: float = math.inf

    def are_reached(self, bags: Sequence[EmbeddedBag], seconds: float) -> bool:
        """Return whether these bags, collected over so many seconds, are enough for a shard."""
        images = sum(len(bag.images) for bag in bags)
        return len(bags) >= self.patients or images >= self.images or seconds >= self.seconds


def publish_in_shards(
    cache: FeatureCache, bags: Iterable[EmbeddedBag], recorded: Recorded, limits: ShardLimits
) -> None:
    """Publish all bags, in one shard after the other."""
    pending: list[EmbeddedBag] = []
    published = time.monotonic()
    for bag in bags:
        pending.append(bag)
        if limits.are_reached(pending, time.monotonic() - published):
            cache.publish(pending, recorded)
            pending, published = [], time.monotonic()
    if pending:
        cache.publish(pending, recorded)
