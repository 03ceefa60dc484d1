"""The memory of backbones: it is only believed where nothing can have changed."""

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.users import NOBODY, as_nobody, let_search, needs_root

from mil_toolkit.backbones import backbones
from mil_toolkit.backbones import memory as memory_module
from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.backbones.identity import BackboneIdentity
from mil_toolkit.backbones.memory import MOST, BackboneMemory
from mil_toolkit.backbones.source import MisrememberedError, find_backbone

IDENTITY = BackboneIdentity("ab" * 32, 512, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LATER = time.time_ns() + 10**16  # files that are written within months are old enough then


@pytest.fixture(name="weights")
def _weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"tensors")
    return path


@pytest.fixture(name="memory")
def _memory(tmp_path: Path, weights: Path) -> BackboneMemory:
    """A memory that knows the backbone of one checkpoint."""
    memory = BackboneMemory(tmp_path / "cache")
    memory.remember("resnet18", str(weights), 32, IDENTITY, [weights], LATER)
    assert memory.find("resnet18", str(weights), 32) == IDENTITY
    return memory


def test_another_question_has_no_answer(memory: BackboneMemory, weights: Path) -> None:
    other = weights.with_name("other.pth")
    other.write_bytes(b"tensors")
    for question in (("resnet34", weights, 32), ("resnet18", weights, 64), ("resnet18", other, 32)):
        assert memory.find(question[0], str(question[1]), question[2]) is None


def replace_in_place(path: Path) -> None:
    path.write_bytes(b"TENSORS")
    os.utime(path, (1e9, 1e9))


def replace_by_rename(path: Path) -> None:
    former = path.stat()
    path.with_name("new").write_bytes(b"TENSORS")
    os.utime(path.with_name("new"), ns=(former.st_mtime_ns, former.st_mtime_ns))
    path.with_name("new").rename(path)


def replace_and_restore_mtime(path: Path) -> None:
    former = path.stat()
    while path.stat().st_ctime_ns == former.st_ctime_ns:  # the kernel's clock has steps
        path.write_bytes(b"TENSORS")
        os.utime(path, ns=(former.st_mtime_ns, former.st_mtime_ns))


CHANGES = [replace_in_place, replace_by_rename, replace_and_restore_mtime, os.unlink]


@pytest.mark.parametrize("replace", CHANGES)
def test_a_changed_file_of_the_same_size_is_noticed(
    memory: BackboneMemory, weights: Path, replace: Callable[[Path], None]
) -> None:
    replace(weights)
    assert memory.find("resnet18", str(weights), 32) is None


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, weights: Path) -> None:
    """It could change again within the resolution of its modification time."""
    memory = BackboneMemory(tmp_path)
    memory.remember("resnet18", str(weights), 32, IDENTITY, [weights], time.time_ns())
    memory.remember("resnet18", "imagenet", 32, IDENTITY, None, LATER)  # from files that are not known
    assert not memory.path.exists()


def test_another_environment_has_no_answer(
    memory: BackboneMemory, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", "/elsewhere")
    assert memory.find("resnet18", str(weights), 32) is None


def change(key: str, value: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        content["entries"][0][key] = value
        path.write_text(json.dumps(content))

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def nest(path: Path) -> None:
    path.write_text("[" * 100_000)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def open_to_others(path: Path) -> None:
    path.chmod(0o666)


DAMAGE = [
    cut,
    nest,
    replace_by_pipe,
    open_to_others,
    change("weight_digest", "cd" * 32),
    change("weight_digest", "../../etc"),
    change("width", 7),
    change("std", [0.0, 0.0, 0.0]),
    change("files", {}),
    change("check", ""),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text('{"schema": 99, "entries": []}'),
    lambda path: path.write_bytes(os.urandom(2**21)),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_ignored(
    memory: BackboneMemory, weights: Path, damage: Callable[[Path], None]
) -> None:
    damage(memory.path)
    assert memory.find("resnet18", str(weights), 32) is None


@needs_root
def test_the_file_of_another_user_is_ignored(memory: BackboneMemory, weights: Path) -> None:
    os.chown(memory.path, NOBODY, NOBODY)
    assert memory.find("resnet18", str(weights), 32) is None


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "file").touch()
    memory = BackboneMemory(tmp_path / "file")
    memory.remember("resnet18", str(weights), 32, IDENTITY, [weights], LATER)
    assert memory.find("resnet18", str(weights), 32) is None


@needs_root
def test_where_the_package_may_not_be_listed_nothing_is_remembered(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the modules would not be noticed there."""
    code, shared = tmp_path / "closed" / "memory.py", tmp_path / "shared"
    for folder, mode in ((code.parent, 0o700), (shared, 0o777)):
        folder.mkdir()
        folder.chmod(mode)
    let_search(shared.parent)
    monkeypatch.setattr(memory_module, "__file__", str(code))

    def remember_and_find() -> object:
        memory = BackboneMemory(shared)
        memory.remember("resnet18", str(weights), 32, IDENTITY, [], LATER)
        return memory.find("resnet18", str(weights), 32), os.listdir(shared)

    assert as_nobody(remember_and_find) == "(None, [])"


def test_where_users_have_no_numbers_nothing_is_remembered(
    memory: BackboneMemory, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which has no `os.uname` either."""
    monkeypatch.setattr(memory_module, "user_id", lambda: None)
    monkeypatch.delattr(os, "uname")
    assert memory.find("resnet18", str(weights), 32) is None
    other = BackboneMemory(tmp_path / "other")
    other.remember("resnet18", str(weights), 32, IDENTITY, [weights], LATER)
    assert other.find("resnet18", str(weights), 32) is None and not (tmp_path / "other").exists()


def test_the_file_is_private_and_bounded(memory: BackboneMemory, weights: Path) -> None:
    assert stat.S_IMODE(memory.path.stat().st_mode) == 0o600
    for size in range(100, 100 + MOST):
        memory.remember("resnet18", str(weights), size, IDENTITY, [weights], LATER)
    assert len(json.loads(memory.path.read_text())["entries"]) == MOST
    assert memory.find("resnet18", str(weights), 32) is None


def test_a_wrong_memory_does_not_survive_the_network(
    memory: BackboneMemory, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the network is built, its own digest counts, and is remembered."""
    true = IDENTITY._replace(weight_digest="ef" * 32)
    backbone = Backbone(None, true.width, true.mean, true.std, true.weight_digest, (weights,))  # type: ignore[arg-type]
    monkeypatch.setattr(backbones, "build_backbone", lambda *_: backbone)
    monkeypatch.setattr(time, "time_ns", lambda: LATER)
    source = find_backbone("resnet18", str(weights), 32, memory)
    assert source.identity == IDENTITY
    with pytest.raises(MisrememberedError) as error:
        source.build()
    error.value.source.remember()
    assert find_backbone("resnet18", str(weights), 32, memory).identity == true
