"""`publish_in_shards`: publish bags in shards of bounded size while they are being computed."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

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


Publish = Callable[[Sequence[EmbeddedBag], Recorded], object]


class Background:
    """A context manager that publishes shards in a thread, one after the other.

    An error of publishing is raised by the next call or at the end of the block. The block ends once
    everything is published, also where an error ends it.

    publish: publishes one shard
    """

    def __init__(self, publish: Publish):
        self._publish = publish
        self._thread = ThreadPoolExecutor(1)
        self._latest: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, bags: Sequence[EmbeddedBag], recorded: Recorded) -> None:
        """Publish a shard once the one before it is published."""
        self._wait()
        self._latest = self._thread.submit(self._publish, bags, recorded)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._wait()

    def _wait(self) -> None:
        if self._latest is not None:
            self._latest.result()


def publish_in_shards(
    publish: Publish, bags: Iterable[EmbeddedBag], recorded: Recorded, limits: ShardLimits
) -> None:
    """Publish all bags, in one shard after the other; publish: publishes one shard."""
    pending: list[EmbeddedBag] = []
    published = time.monotonic()
    for bag in bags:
        pending.append(bag)
        if limits.are_reached(pending, time.monotonic() - published):
            publish(pending, recorded)
            pending, published = [], time.monotonic()
    if pending:
        publish(pending, recorded)
