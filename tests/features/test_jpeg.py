"""Damaged JPEGs that keep their end marker; benchmarks/jpeg.py has the figures for each kind of damage."""

import functools
import io
import random

import numpy as np
import pytest
from PIL import Image
from support.jpegs import DAMAGE, draw_smear, good_jpegs

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.decoding import decode, decode_noting
from mil_toolkit.features.jpeg import find_damage

LEAST = {  # of 20 damaged files per kind, refused by Pillow or by `find_damage`
    "LF turned into CRLF": 20,
    "CR left out": 20,
    "cut off, end marker added": 20,
    "512 bytes missing": 19,
    "512 random bytes": 19,
    "two blocks of 1 KiB exchanged": 10,
    "4 KiB of zeros": 20,
    "512 zeros": 20,
    "eight flipped bits": 10,
    "one flipped bit": 0,  # most change only one coefficient
}


def is_refused(content: bytes) -> bool:
    try:
        decode(content)
    except DataError:
        return True
    return False


@functools.cache
def usual_jpegs(count: int) -> list[bytes]:
    """Baseline colour JPEGs of at least 4,000 bytes."""
    source, contents = np.random.default_rng(0), list[bytes]()
    while len(contents) < count:
        buffer = io.BytesIO()
        draw_smear(source).save(buffer, "JPEG", quality=int(source.integers(75, 96)))
        contents += [buffer.getvalue()] if buffer.tell() >= 4000 else []
    return contents


def test_no_whole_jpeg_is_refused() -> None:
    for content in good_jpegs(300, seed=1):
        assert find_damage(content, []) is None


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_recognised(kind: str) -> None:
    source, refused, damaged = random.Random(0), 0, 0
    for content in usual_jpegs(40):
        changed = DAMAGE[kind](content, source)
        if changed != content and damaged < 20:
            damaged += 1
            refused += is_refused(changed)
    assert damaged == 20 and refused >= LEAST[kind]


def test_a_uniform_image_may_consist_of_zeros() -> None:
    """Its optimised tables give zeros for the end of a block, and no byte of its data is damaged."""
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 2000), (128, 128, 128)).save(buffer, "JPEG", optimize=True)
    assert bytes(64) in buffer.getvalue() and find_damage(buffer.getvalue(), []) is None


def test_a_jpeg_that_cannot_be_checked_is_said_to_be_unchecked() -> None:
    """The subsampling of all components of CMYK is unknown to simplejpeg."""
    buffer = io.BytesIO()
    Image.new("CMYK", (32, 32), (10, 20, 30, 0)).save(buffer, "JPEG", subsampling=2)
    assert decode_noting(buffer.getvalue()).notes == ("this kind of JPEG cannot be checked for damage.",)


def test_bytes_before_and_after_the_image_are_no_damage() -> None:
    """Fill bytes before a marker, and whatever follows the end marker."""
    content = next(good_jpegs(1))
    filled = content[:2] + b"\xff\xff" + content[2:] + b"appended by a scanner"
    assert find_damage(filled, []) is None


def test_the_message_names_the_damage() -> None:
    content = usual_jpegs(40)[0]
    with pytest.raises(DataError, match=r"is damaged \(Corrupt JPEG data: premature end of data segment\)"):
        decode(content[: len(content) // 2] + b"\xff\xd9")
