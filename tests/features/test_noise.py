"""What decoders print or warn of: said once, with the file, and never raw."""

import io
import os
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import Command
from support.tiny_images import BAGS, write_cohort
from support.zoo import write_png, write_tiff

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.decoding import decode, decode_noting
from mil_toolkit.features.noise import collect_noise, collect_printed

RGB = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def warning_exif() -> bytes:
    """A JPEG of whose EXIF Pillow warns: a tag's content lies behind the end."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\xff\xff\0\0\xf0\xff\0\0\0\0\0\0"
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def noisy_tiff() -> bytes:
    """A deflated TIFF of whose damaged data libtiff prints."""
    content = bytearray(write_tiff(RGB, compression="zlib"))
    content[len(content) // 2] ^= 255
    return bytes(content)


def test_warnings_are_notes_about_their_own_file() -> None:
    """In eight threads at once, of which every other decodes a file without a warning."""
    noisy, quiet, notes = warning_exif(), write_png(RGB), dict[int, list[tuple[str, ...]]]()

    def work(number: int) -> None:
        notes[number] = [decode_noting(quiet if number % 2 else noisy).notes for _ in range(20)]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, found in notes.items():
        assert all(bool(said) == (number % 2 == 0) for said in found)
    assert "the decoder says: " in notes[0][0][0]
    assert len(notes) == 8


def test_warnings_of_others_pass_as_before() -> None:
    """Also while a thread collects its own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with collect_noise() as noise:
            thread = threading.Thread(target=warnings.warn, args=("of another thread",))
            thread.start()
            thread.join()
            warnings.warn("mine", stacklevel=1)
        warnings.warn("after", stacklevel=1)
    assert noise == ["mine"]
    assert [str(warning.message) for warning in caught] == ["of another thread", "after"]


def test_libtiffs_lines_are_part_of_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="ZIPDecode"):
        decode(noisy_tiff())
    assert capfd.readouterr() == ("", "")


def test_other_lines_on_stderr_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with collect_noise() as noise, collect_printed():
        os.write(2, b"\r 50 %|###\nLZWDecode: Not enough data at scanline 0.\n")
    sys.stderr.flush()
    assert noise == ["LZWDecode: Not enough data at scanline 0."]
    assert "50 %" in capfd.readouterr().err


def test_a_command_says_it_once_with_the_file(tmp_path: Path, command: Command) -> None:
    toml = write_cohort(tmp_path / "cohort", BAGS)
    (tmp_path / "cohort/images/P1/0.png").write_bytes(warning_exif())
    twelve = write_tiff(RGB[..., 0].astype(np.uint16) * 16, "minisblack")
    (tmp_path / "cohort/images/P3/1.png").write_bytes(twelve)
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 32, "--cache", tmp_path / "c")
    done = command("extract", toml, *options)
    assert done.code == 0
    for path, said in (("P1/0.png: the decoder says: ", 1), ("P3/1.png: its largest 16-bit value", 1)):
        assert done.err.count(path) == said
    assert "UserWarning" not in done.err and "site-packages" not in done.err
