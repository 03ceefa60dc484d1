"""Checkpoints: the content tells the format, and hostile files end in a sentence and in bounded memory."""

import argparse
import io
import itertools
import json
import os
import pickle
import resource
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.fuzzing import run_isolated
from torch import Tensor, nn

from mil_toolkit.backbones.checkpoint import (
    HEADER_LIMIT,
    PICKLE_LIMIT,
    WRAPPERS,
    read_checkpoint,
    read_wrapped,
)
from mil_toolkit.core.errors import DataError, UsageError


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The tensors of a small network."""
    return {"conv.weight": torch.arange(24.0).view(2, 3, 2, 2), "conv.bias": torch.ones(2)}


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.pth", b"PK\x03\x04 torn", DataError, "cannot be read as a checkpoint"),
        ("a.pth", b"", DataError, "cannot be read as a checkpoint"),
        ("a.safetensors", b"\xff" * 20, DataError, "cannot be read as a checkpoint"),
        ("a.h5", b"", UsageError, "expected a .safetensors, .pth or .pt"),
        (None, b"", UsageError, "there is no such file"),
    ],
)
def test_broken_checkpoints_are_named(
    tmp_path: Path, name: str | None, content: bytes, error: type[Exception], message: str
) -> None:
    """With the path."""
    path = tmp_path / (name or "absent.pth")
    if name:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_tensors_without_names_are_not_a_checkpoint(tmp_path: Path) -> None:
    """A list of tensors, for example."""
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(DataError, match="does not hold a state dict"):
        read_checkpoint(tmp_path / "list.pt")


def messages_of(path: Path) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        read_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.bin", "a.ckpt", "a.pth.tar", "weights", "a.safetensors", "a.pth"])
def test_the_content_and_not_the_extension_tells_the_format(
    tmp_path: Path, name: str, state: dict[str, Tensor]
) -> None:
    torch.save(state, tmp_path / "zip")
    torch.save(state, tmp_path / "pickle", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "json")
    for form in ("zip", "pickle", "json"):
        (tmp_path / name).write_bytes((tmp_path / form).read_bytes())
        read = read_checkpoint(tmp_path / name)
        assert read.keys() == state.keys()
        assert all(torch.equal(tensor, state[key]) for key, tensor in read.items())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "needed"),
    [
        (nn.Sequential(nn.Linear(1, 1)), "torch.nn.modules.container.Sequential"),
        ({"state_dict": {}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"weight": torch.zeros(1), "loss": np.float64(1.0)}, "numpy._core.multiarray.scalar"),
    ],
)
def test_a_whole_model_is_refused_in_one_sentence_with_advice(
    tmp_path: Path, content: object, needed: str, zipped: bool
) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert messages_of(path) == (
        f"{path} holds more than tensors and was not read: it needs {needed}. Where the model was saved, save"
        " its tensors only: torch.save(model.state_dict(), PATH)."
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_no_message_quotes_the_advice_of_torch(tmp_path: Path) -> None:
    """For a program, a torn file, other pickles and other formats under the extension of a checkpoint."""
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "program.pt")
    torch.save({"a": torch.zeros(9)}, tmp_path / "torn.bin")
    (tmp_path / "torn.bin").write_bytes((tmp_path / "torn.bin").read_bytes()[:-40])
    (tmp_path / "other.pt").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    (tmp_path / "pointer.ckpt").write_text("version https://git-lfs.github.com/spec/v1")
    for path in tmp_path.iterdir():
        message = messages_of(path)
        assert message.startswith(f"{path} cannot be read as a checkpoint: ")
        for quoted in ("weights_only", "torch.load", "\x1b", "\n", "miniz", "trusted"):
            assert quoted not in message
    assert "it is a program (TorchScript)" in messages_of(tmp_path / "program.pt")


def saved(content: object, zipped: bool = True) -> bytes:
    """Return the file of torch.save."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def message_of_content(folder: Path, content: bytes) -> str:
    path = folder / "x.pt"
    path.write_bytes(content)
    return messages_of(path).removeprefix(f"{path} ")


def repacked(content: bytes, edit: Callable[[str, bytes], tuple[str, bytes]], compression: int = 0) -> bytes:
    """Return an archive with edited entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(*edit(entry.filename, old.read(entry)))
    return buffer.getvalue()


ODD_TENSORS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "a is sparse"),
    "compressed rows": (lambda: torch.eye(3).to_sparse_csr(), "a is sparse"),
    "meta": (lambda: torch.empty(3, device="meta"), "a is without values"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "a is complex"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), "a is quantised"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "_rebuild_nested_tensor"),
    "expanded": (lambda: torch.ones(1).expand(10**9), "a is of shape (1000000000,), but only 4 bytes"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning", "ignore:.*deprecated")
@pytest.mark.parametrize("name", ODD_TENSORS)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_are_not_plain_numbers_are_refused(tmp_path: Path, name: str, zipped: bool) -> None:
    make, words = ODD_TENSORS[name]
    try:
        content = saved({"a": make()}, zipped)
    except RuntimeError:
        pytest.skip("torch does not write this kind in the old format")
    assert words in message_of_content(tmp_path, content)


@pytest.mark.parametrize("key", [3, 1.5, None, ("a", "b"), b"bytes"])
def test_keys_that_are_not_names_are_refused(tmp_path: Path, key: object) -> None:
    message = message_of_content(tmp_path, saved({key: torch.ones(1)}))
    assert message.startswith(f"does not hold a state dict: the key {key!r} (")


def test_names_with_terminal_escapes_are_shown_escaped(tmp_path: Path) -> None:
    message = message_of_content(tmp_path, saved({"\x1b[31ma": torch.ones(1, dtype=torch.complex64)}))
    assert "\\x1b[31ma is complex" in message
    assert message.isprintable()


def test_attributes_cannot_replace_the_methods_of_tensors(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.isfinite = parameter.numel = parameter.detach = 5  # type: ignore[method-assign,assignment]
    (tmp_path / "x.pt").write_bytes(saved({"a": parameter}))
    tensor = read_checkpoint(tmp_path / "x.pt")["a"]
    assert tensor.numel() == 2 and tensor.isfinite().all()


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    def bomb(name: str, content: bytes) -> tuple[str, bytes]:
        return name, bytes(10**7) if "/data/" in name else content

    content = repacked(saved({"a": torch.ones(1)}), bomb, zipfile.ZIP_DEFLATED)
    assert len(content) < 10**5
    assert "it is compressed, as torch.save never writes it" in message_of_content(tmp_path, content)


def test_an_archive_whose_entries_share_bytes_is_refused(tmp_path: Path) -> None:
    """Each of two entries in the directory points to the same data of most of the file."""
    content = saved({"a": torch.ones(10**4)})
    start = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x05\x06"))
    end = content.index(b"PK\x06\x06") if b"PK\x06\x06" in content else content.rindex(b"PK\x05\x06")
    directory = content.index(b"PK\x01\x02")
    entries = content[directory:end]
    starts = [place for place in range(len(entries)) if entries.startswith(b"PK\x01\x02", place)]
    big = max((entries[place : place + 46] for place in starts), key=lambda entry: entry[24:28][::-1])
    place = entries.index(big)
    following = entries.find(b"PK\x01\x02", place + 4)
    record = entries[place : following if following > 0 else len(entries)]
    whole = content[:directory] + entries + record
    count = entries.count(b"PK\x01\x02") + 1
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entries) + len(record), directory, 0)
    assert start >= directory
    assert "its entries overlap" in message_of_content(tmp_path, whole + tail)


def pickled(operations: bytes) -> bytes:
    """Return an archive of torch.save with these operations as its pickle."""

    def edit(name: str, content: bytes) -> tuple[str, bytes]:
        return name, b"\x80\x02" + operations + b"." if name.endswith("data.pkl") else content

    return repacked(saved({"a": torch.ones(1)}), edit)


def legacy(operations: bytes) -> bytes:
    """Return a file of the old format with these operations as the pickle of its content."""
    content = saved({"a": torch.ones(1)}, zipped=False)
    head = io.BytesIO(content)
    for _ in range(3):
        pickle.load(head)
    return content[: head.tell()] + b"\x80\x02" + operations + b"."


HUGE = b"M\xff\xffM\xff\xff"  # two arguments of 65,535
ALLOCATIONS = {
    "bytearray": b"cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R",
    "bytearray of Python 2": b"c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R",
    "tensor": b"ctorch\nFloatTensor\n\x8a\x06\0\0\0\0\0\x01\x85R",
    "storage": b"ctorch.storage\nUntypedStorage\n\x8a\x06\0\0\0\0\0\x01\x85R",
}


@pytest.mark.parametrize("write", [pickled, legacy])
@pytest.mark.parametrize("name", ALLOCATIONS)
def test_a_pickle_that_allocates_does_not_take_memory(
    tmp_path: Path, name: str, write: Callable[[bytes], bytes]
) -> None:
    """A terabyte is asked for by less than a hundred bytes."""
    path = tmp_path / "x.pt"
    path.write_bytes(write(b"}X\x01\0\0\0a" + ALLOCATIONS[name] + b"s"))

    def read() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(messages_of(path))
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 2**18)  # KiB

    done = run_isolated(read, tmp_path / "printed")
    assert done.code == 0, done.text
    assert "x.pt" in done.text


def header_only(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(offsets: tuple[int, int], shape: tuple[int, ...] = (1,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES: Mapping[str, bytes] = {
    "header beyond the file": header_only({"a": entry((0, 4))}, bytes(4), 10**6),
    "header of 2^63 bytes": header_only({"a": entry((0, 4))}, bytes(4), 2**63),
    "data beyond the file": header_only({"a": entry((0, 4))}),
    "overlapping data": header_only({"a": entry((0, 4)), "b": entry((0, 4))}, bytes(4)),
    "gap in the data": header_only({"a": entry((4, 8))}, bytes(8)),
    "shape beyond the data": header_only({"a": entry((0, 4), (10**12,))}, bytes(4)),
    "shape whose product overflows": header_only({"a": entry((0, 4), (2**40, 2**40))}, bytes(4)),
    "unknown type": header_only({"a": entry((0, 4), dtype="F31")}, bytes(4)),
    "negative offset": header_only({"a": entry((-4, 0))}, bytes(4)),
    "offsets in reverse": header_only({"a": entry((4, 0))}, bytes(4)),
    "no dictionary": header_only([1]),
    "deeply nested": (100_000).to_bytes(8, "little") + b'{"a":' * 20_000,
    "text for a shape": header_only({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}, bytes(4)),
}


@pytest.mark.parametrize("name", LIES)
def test_headers_of_safetensors_that_lie_are_refused(tmp_path: Path, name: str) -> None:
    assert message_of_content(tmp_path, LIES[name]).startswith("cannot be read as a checkpoint: ")


def test_a_safetensors_header_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((HEADER_LIMIT + 1).to_bytes(8, "little") + b"{")
    os.truncate(path, 2 * HEADER_LIMIT)
    assert "its header is longer than" in messages_of(path)


def test_a_pickle_has_a_limit(tmp_path: Path) -> None:
    operations = b"X" + PICKLE_LIMIT.to_bytes(4, "little") + b"x" * PICKLE_LIMIT + b"0}"
    for content in (pickled(operations), legacy(operations)):
        assert "take more than 8 MiB" in message_of_content(tmp_path, content)


def test_the_old_archive_of_torch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle", "sys_info"):
            archive.addfile(tarfile.TarInfo(name))
    assert "neither a safetensors file nor a file of torch.save" in messages_of(path)
    for content in (path.read_bytes(), b"\x80\x02" + path.read_bytes()[2:]):
        message = message_of_content(tmp_path, content)
        assert "weights_only" not in message and "\n" not in message


REFUSED: Mapping[str, bytes] = {
    "posix.system": b"cposix\nsystem\n",
    "builtins.eval": b"cbuiltins\neval\n",
    "os.sy\\x1bstem": b"cos\nsy\x1bstem\n",
    "torch.load": b"ctorch\nload\n",
}


@pytest.mark.parametrize("write", [pickled, legacy])
@pytest.mark.parametrize("name", REFUSED)
def test_the_refused_class_is_named_without_the_advice_of_torch(
    tmp_path: Path, name: str, write: Callable[[bytes], bytes]
) -> None:
    message = message_of_content(tmp_path, write(REFUSED[name] + b"X\x04\0\0\0true\x85R"))
    assert f"it needs {name.removeprefix('builtins.')}. Where the model was saved" in message
    assert "weights_only" not in message and "safe_globals" not in message and message.isprintable()


@pytest.mark.parametrize(
    "operations",
    [
        b"0",
        b"R",
        b"s",
        b"u",
        b"h\x05",
        b"\x85",
        b"\x81",
        b"b",
        b"Q",
        b"X\xff\xff\xff\xff",
        b"\x8a\xff",
        b"e",
    ],
)
def test_malformed_pickles_are_refused_in_a_sentence(tmp_path: Path, operations: bytes) -> None:
    for content in (pickled(operations), legacy(operations), b"\x80\x02" + operations):
        message = message_of_content(tmp_path, content)
        assert message.startswith(("cannot be read as a checkpoint: ", "does not hold a state dict"))
        assert "weights_only" not in message


def test_other_content_of_a_checkpoint_is_ignored(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(saved({"state_dict": OrderedDict(state), "epoch": 3, 5: b"bytes", "set": {1}}))
    assert read_checkpoint(path).keys() == state.keys()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_tensors_are_found_under_the_usual_keys(
    tmp_path: Path, wrapper: str, state: dict[str, Tensor]
) -> None:
    """Also under two of them, and beside others; the keys are returned."""
    path = tmp_path / "x.pt"
    path.write_bytes(saved({wrapper: state, "epoch": 3}))
    assert read_wrapped(path).wrappers == (wrapper,)
    path.write_bytes(saved({"model": {wrapper: OrderedDict(state)}, "args": {"lr": 1}}))
    found = read_wrapped(path)
    assert found.wrappers == ("model", wrapper) and found.tensors.keys() == state.keys()


def test_the_first_of_several_wrappers_counts(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "x.pt"
    for first, second in itertools.pairwise(WRAPPERS):
        path.write_bytes(saved({second: {"other": torch.ones(1)}, first: state}))
        assert read_wrapped(path).wrappers == (first,)


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema", "ema", "teacher"])
@pytest.mark.parametrize("other", ["state_dict", "model", "model_state_dict", "student"])
def test_averaged_weights_count_before_others(
    tmp_path: Path, averaged: str, other: str, state: dict[str, Tensor]
) -> None:
    """As timm saves both: `state_dict` and `state_dict_ema`."""
    path = tmp_path / "x.pt"
    path.write_bytes(saved({other: {"other": torch.ones(1)}, averaged: state}))
    assert read_wrapped(path).wrappers == (averaged,)


def test_a_tensor_may_have_the_name_of_a_wrapper(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(saved({"model": torch.ones(1), "teacher": torch.ones(2)}))
    assert read_wrapped(path).wrappers == () and read_checkpoint(path).keys() == {"model", "teacher"}


def test_keys_that_do_not_hold_tensors_are_named(tmp_path: Path) -> None:
    message = message_of_content(tmp_path, saved({"weights": {"a": torch.ones(1)}, "\x1b": 1}))
    assert "top level or under state_dict_ema, model_ema, ema, teacher, state_dict, " in message
    assert message.endswith("these keys hold something else: weights, \\x1b.") and message.isprintable()


def test_wrappers_are_not_followed_for_ever(tmp_path: Path) -> None:
    content: object = {"a": torch.ones(1)}
    for _ in range(50):
        content = {"model": content}
    assert "does not hold a state dict" in message_of_content(tmp_path, saved(content))


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_pipe, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.pt")
    assert "where a regular file is expected" in messages_of(tmp_path / "x.pt")
