"""Tensors in temporary files: they keep what was written, and need no cleaning up."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch

from mil_toolkit.core.errors import UsageError
from mil_toolkit.training import mapped
from mil_toolkit.training.mapped import MappedTensor


@pytest.fixture(autouse=True, name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("released_at", [1, 100, 2**30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_are_kept_whenever_pages_are_given_back(
    dtype: torch.dtype, released_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_RELEASED_AT", released_at)
    values = torch.rand(5000, 3)
    tensor = MappedTensor(5000, 3, dtype)
    for first in range(0, 5000, 700):
        tensor.write(first, values[first : first + 700])
    rows = torch.randint(5000, (2000,))
    assert torch.equal(tensor.read(rows), values.to(dtype)[rows])
    assert torch.equal(tensor.rows, values.to(dtype))


def test_the_file_has_no_name(folder: Path) -> None:
    """A killed process cannot leave it behind."""
    tensor = MappedTensor(1000, 4, torch.float32)
    tensor.write(0, torch.ones(1000, 4))
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_reported_before_anything_is_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UsageError) as caught:
        MappedTensor(10**7, 64, torch.bfloat16)
    text = str(caught.value)
    assert f"Temporary files need 1.3 GB in {folder}, which has" in text and "TMPDIR" in text
