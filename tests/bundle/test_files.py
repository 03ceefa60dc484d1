"""Which files of a bundle are opened, and sealed nonsense in scores.json and in the backbone."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bundles import change_config, change_scores, change_tensors, replace_file, seal
from support.commands import Command
from support.studies import Tiny
from support.users import as_nobody, let_search, needs_root

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.bundle import files
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.files import foreign_to_bundle
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest_file
from mil_toolkit.core.reading import read_input

READ = ["model.safetensors", "config.json", "scores.json"]


@pytest.fixture(name="bundle")
def _bundle(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.bundle, tmp_path / "model"))


# The names in `digests`.


@pytest.mark.parametrize(
    "name",
    [
        "/etc/hostname",
        "../secret",
        "README.md",
        "head.onnx",
        "sub/model.safetensors",
        "",
        ".",
        "a\0b",
        "\x1b[2J",
    ],
)
def test_no_other_file_is_opened(name: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle.parent / "secret").write_text("secret")
    path = bundle / name if name and "\0" not in name else bundle
    known = digest_file(path) if path.is_file() else "0" * 64
    change_config(bundle, lambda config: config["digests"].update({name: known}))
    opened: list[str] = []
    monkeypatch.setattr(
        files, "read_input", lambda path, limit: (opened.append(str(path)), read_input(path, limit))[1]
    )
    with pytest.raises(DataError, match=r"config\.json: digests names .*, not a bundle's files") as caught:
        ModelBundle.load(bundle)
    assert opened == [str(bundle / "config.json")] and str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["model.safetensors", "scores.json"])
def test_the_files_that_must_be_there_are_named(name: str, bundle: Path) -> None:
    change_config(bundle, lambda config: config["digests"].pop(name))
    with pytest.raises(DataError, match=rf"config\.json: digests lacks {name}"):
        ModelBundle.load(bundle)


def test_a_link_out_of_the_bundle_gives_nothing_but_its_digest(bundle: Path) -> None:
    (bundle.parent / "secret").write_text("secret")
    (bundle / "scores.json").unlink()
    (bundle / "scores.json").symlink_to("../secret")
    with pytest.raises(DataError) as caught:
        ModelBundle.load(bundle)
    assert "does not match the digest" in str(caught.value) and "secret" not in str(caught.value)


# Special files, permissions, sizes.


def as_folder(path: Path) -> None:
    path.mkdir()


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a folder": as_folder,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": as_socket,
    "symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_refused(
    kind: str, name: str, bundle: Path, tiny: Tiny, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)  # the path of a socket is short
    (bundle / name).unlink()
    SPECIAL[kind](bundle / name)
    done = command("predict", bundle, tiny.cohort_toml, "--output", bundle.parent / "p.csv")
    assert done.code == 3 and kind in done.err and name in done.err
    assert not (bundle.parent / "p.csv").exists()


@pytest.mark.parametrize("name", READ)
def test_files_beyond_their_limit_are_refused(
    name: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(files.LIMITS, name, (bundle / name).stat().st_size - 1)
    with pytest.raises(DataError, match=rf"{name} is larger than"):
        ModelBundle.load(bundle)


@needs_root
@pytest.mark.parametrize("name", READ)
def test_a_file_without_permission_names_its_owner(name: str, bundle: Path) -> None:
    let_search(bundle)
    (bundle / name).chmod(0)
    assert f"UsageError: {bundle / name} cannot be read: permission denied" in as_nobody(
        lambda: ModelBundle.load(bundle)
    )


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "\udcff"])
def test_paths_that_cannot_be_are_a_sentence(path: str, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        ModelBundle.load(tmp_path / path)
    assert str(caught.value).isprintable()


def test_a_file_in_place_of_a_bundle_is_not_a_bundle(tiny: Tiny) -> None:
    with pytest.raises(DataError, match=r"is not a bundle: it has no config\.json"):
        ModelBundle.load(tiny.bundle / "config.json")


def test_a_named_pipe_does_not_make_a_folder_a_bundle(bundle: Path) -> None:
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")
    assert "config.json" in foreign_to_bundle(bundle)


# scores.json


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("inner", lambda scores: scores.pop("inner")),
        ("inner", lambda scores: scores.update(inner=[])),
        ("inner", lambda scores: scores["inner"].update(auc=3)),
        ("value", lambda scores: scores["inner"]["auc"].update(value="good")),
        ("outer", lambda scores: scores.update(outer="good")),
        ("epoch", lambda scores: scores.update(epoch="one")),
        ("rivals", lambda scores: scores.update(rivals={"a": {"auc": {}}})),
        ("finetuned", lambda scores: scores.update(finetuned=3)),
        ("finetuned", lambda scores: scores.update(finetuned={"kept": True})),
    ],
)
def test_scores_that_cannot_be_are_named(words: str, change: Any, bundle: Path) -> None:
    change_scores(bundle, change)
    with pytest.raises(DataError, match=rf"scores\.json: it does not have the expected content.*{words}"):
        ModelBundle.load(bundle)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"", b"\xff", b'{"inner": NaN}', b'"' * 9])
def test_other_content_than_scores_is_refused(content: bytes, bundle: Path) -> None:
    replace_file(bundle, "scores.json", content)
    with pytest.raises(DataError, match=r"scores\.json"):
        ModelBundle.load(bundle)


def test_a_metric_that_the_scores_lack_is_left_out(
    bundle: Path, tiny: Tiny, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mil_toolkit.bundle.membership import TrainingMarks

    monkeypatch.setattr(
        TrainingMarks, "recognise", lambda self, ids, images: torch.zeros(len(ids)).bool().numpy()
    )
    change_scores(bundle, lambda scores: scores["outer"].pop("auc"))
    options = ("--features", tiny.features, "--output", tmp_path / "p.csv")
    done = command("predict", bundle, tiny.cohort_toml, *options)
    assert done.code == 0, done.err
    (row,) = (line for line in done.out.splitlines() if line.startswith("  auc "))
    assert row.count("(") == 1


# The backbone.


@pytest.fixture(name="tuned")
def _tuned(bundle: Path) -> Path:
    """A bundle with a backbone, as if it had been fine-tuned."""
    loaded = ModelBundle.load(bundle)
    assert loaded.about.features is not None
    network = build_backbone("resnet18", "random").network.state_dict()
    spec = {**loaded.about.features.spec, "weights": "file", "seed": None}
    about = replace(loaded.about, features=replace(loaded.about.features, spec=spec, digest=None))
    replace(loaded, backbone=dict(network), about=about).save(bundle)
    return bundle


def test_a_backbone_of_the_bundle_is_used(
    tuned: Path, tiny: Tiny, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("predict", tuned, tiny.cohort_toml, "--cache", tmp_path / "cache", "--output", "p.csv")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("holds no tensors", lambda tensors: tensors.clear()),
        ("conv1.weight: not all values are finite", lambda tensors: tensors["conv1.weight"].fill_(torch.nan)),
        ("missing: conv1.weight", lambda tensors: tensors.pop("conv1.weight")),
        ("unexpected: more", lambda tensors: tensors.update(more=torch.zeros(1))),
        ("conv1.weight: (3,)", lambda tensors: tensors.update({"conv1.weight": torch.zeros(3)})),
        ("weight_digest", lambda tensors: tensors["conv1.weight"].mul_(2)),
    ],
)
def test_another_backbone_is_refused_and_no_file_is_looked_for(
    words: str,
    change: Any,
    tuned: Path,
    tiny: Tiny,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor a file named `file` in the working folder, the word for weights that came from one."""
    monkeypatch.chdir(tmp_path)
    torch.save(build_backbone("resnet18", "random").network.state_dict(), tmp_path / "file")
    change_tensors(tuned, change, "backbone.safetensors")
    done = command("predict", tuned, tiny.cohort_toml, "--cache", tmp_path / "cache", "--output", "p.csv")
    assert done.code == 3 and words in done.err and "Traceback" not in done.err, done.err
    assert not (tmp_path / "p.csv").exists() and not (tmp_path / "cache").exists()


def test_weights_of_a_file_are_asked_for(
    tuned: Path, tiny: Tiny, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle without its backbone names no file: it is given on the command line, and checked by digest."""
    monkeypatch.chdir(tmp_path)
    torch.save(build_backbone("resnet18", "random").network.state_dict(), tmp_path / "file")
    config = json.loads((tuned / "config.json").read_text())
    del config["digests"]["backbone.safetensors"]
    seal(tuned, config)
    done = command("predict", tuned, tiny.cohort_toml, "--cache", tmp_path / "cache", "--output", "p.csv")
    assert done.code == 2 and "--weights PATH" in done.err
    done = command(
        "predict",
        tuned,
        tiny.cohort_toml,
        "--cache",
        tmp_path / "cache",
        "--output",
        "p.csv",
        "--weights",
        "file",
    )
    assert done.code == 0, done.err


def test_loading_runs_no_code_and_uses_no_network(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("not reached")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert ModelBundle.load(bundle).about.patients == 24
