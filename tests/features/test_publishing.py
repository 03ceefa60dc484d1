"""Publishing in the background: in order, one shard at a time, and no error is lost."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from mil_toolkit.features.publishing import Background, ShardLimits, publish_in_shards
from mil_toolkit.features.shards import EmbeddedBag, Recorded

RECORDED = Recorded("float32", "pillow 0")
BAGS = [EmbeddedBag(f"P{number}", (), np.zeros((0, 4), np.float16)) for number in range(7)]


def test_shards_are_published_in_order_and_before_the_block_ends() -> None:
    """In a thread: bags are computed while a shard is being published, but no two shards at once."""
    events: list[str] = []
    begun, computed = threading.Event(), threading.Event()

    def publish(bags: Sequence[EmbeddedBag], recorded: Recorded) -> None:
        events.append(f"begin {bags[0].patient_id}")
        begun.set()
        assert computed.wait(30) and recorded == RECORDED
        events.append(f"end {bags[-1].patient_id}")

    with Background(publish) as background:
        background(BAGS[:2], RECORDED)
        assert begun.wait(30) and events == ["begin P0"]
        computed.set()
        publish_in_shards(background, BAGS[2:], RECORDED, ShardLimits(patients=2, images=9))
    assert events == [
        f"{what} P{n}" for n, m in ((0, 1), (2, 3), (4, 5), (6, 6)) for what, n in (("begin", n), ("end", m))
    ]


@pytest.mark.parametrize("failing", range(3))
def test_an_error_of_publishing_is_raised_before_the_block_ends(failing: int) -> None:
    """Nothing is published after it."""
    published: list[str] = []

    def publish(bags: Sequence[EmbeddedBag], _: Recorded) -> None:
        if len(published) == failing:
            raise OSError("full")
        published.append(bags[0].patient_id)

    with pytest.raises(OSError, match="full"), Background(publish) as background:
        publish_in_shards(background, BAGS[:3], RECORDED, ShardLimits(patients=1, images=9))
    assert published == ["P0", "P1", "P2"][:failing]


def test_what_was_begun_is_published_where_the_block_fails() -> None:
    published: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        Background(lambda bags, _: published.append(bags[0].patient_id)) as background,
    ):
        background(BAGS[:1], RECORDED)
        raise KeyboardInterrupt
    assert published == ["P0"]
