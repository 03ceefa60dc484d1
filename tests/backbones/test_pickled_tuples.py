"""Tuples that a pickle describes in few bytes, and would take forever to hash."""

import pickle
import pickletools
from pathlib import Path

import pytest
import torch

from mil_toolkit.backbones.checkpoint import read_checkpoint
from mil_toolkit.backbones.pickled_tuples import TupleSizes
from mil_toolkit.core.errors import DataError


def largest(content: bytes) -> int:
    """Return the largest size that is seen in a pickle."""
    sizes = TupleSizes()
    return max(sizes.after(opcode, argument) for opcode, argument, _ in pickletools.genops(content))


def nested(depth: int) -> object:
    """Return a tuple that holds the one below twice."""
    value: object = "x"
    for _ in range(depth):
        value = (value, value)
    return value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_size_of_a_tuple_is_that_of_all_values_in_it(protocol: int) -> None:
    assert largest(pickle.dumps((1, "a", (2.5, None)), protocol)) == 6
    assert largest(pickle.dumps(tuple(range(10)), protocol)) == 11
    assert largest(pickle.dumps(nested(6), protocol)) == 2**7 - 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_lists_and_dictionaries_do_not_add_up(protocol: int) -> None:
    content = pickle.dumps({"betas": (0.9, 0.999), "groups": [[(1, 2)] * 100, {"a": {1: (2,)}}]}, protocol)
    assert largest(content) == 3


def test_duplicates_on_the_stack_count_too() -> None:
    assert largest(b"(l" + b"2\x86" * 10 + b".") == 2**11 - 1


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_with_a_tuple_that_never_ends_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "bomb.pt"
    torch.save({nested(16): torch.zeros(1)}, path, _use_new_zipfile_serialization=not legacy)
    assert read_error(path).startswith(str(path))  # small enough: refused for its key
    content = {"a": torch.zeros(1), "b": nested(40)}  # as a key, its own creation would not end
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert "a tuple of more than 1,000,000 values" in read_error(path)


def read_error(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_checkpoint(path)
    return str(caught.value)
