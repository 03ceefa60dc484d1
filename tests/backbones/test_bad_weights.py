"""Runs mil-extract on backbones and checkpoints and compares its messages with tests/bad_inputs.md."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support.bad_inputs import check_section
from support.commands import Command
from support.tiny_images import write_cohort
from torch import nn
from torchvision.models import resnet18

Make = Callable[[Path], object]


def whole_model(path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)


def program(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


def torn(path: Path) -> None:
    torch.save({"a": torch.zeros(9)}, path)
    path.write_bytes(path.read_bytes()[:-40])


def tensors(path: Path) -> None:
    safetensors.torch.save_file(resnet18().state_dict(), path.with_name("tensors"))
    path.with_name("tensors").rename(path)


# Description, backbone, side of the images, and the name of the checkpoint with the function that writes it.
CASES: list[tuple[str, str, int, str, Make | None]] = [
    ("width other than timm's `num_features`", "timm:mobilenetv3_small_100", 64, "random", None),
    ("transformer made for another size", "timm:vit_tiny_patch16_224", 64, "random", None),
    ("size that the network cannot take", "timm:maxvit_nano_rw_256", 200, "random", None),
    ("images that are too small", "timm:inception_v3", 64, "random", None),
    ("unknown model of timm", "timm:resnet19", 64, "random", None),
    ("unknown weights of timm", "timm:resnet18.nosuchtag", 64, "random", None),
    ("safetensors with another extension", "resnet18", 32, "weights.bin", tensors),
    ("whole model of torch.save", "resnet18", 32, "model.pth", whole_model),
    ("TorchScript", "resnet18", 32, "program.pt", program),
    ("cut short", "resnet18", 32, "torn.ckpt", torn),
    ("text", "resnet18", 32, "weights.pth", lambda path: path.write_text("version https://git-lfs")),
    ("another file", "resnet18", 32, "table.csv", lambda path: path.write_text("ID\n1\n")),
    ("no file", "resnet18", 32, "absent.pth", None),
    ("checkpoint of another network", "resnet34", 32, "small.safetensors", tensors),
]


def try_out(
    folder: Path, backbone: str, side: int, weights: str, make: Make | None, command: Command
) -> tuple[str, str]:
    """The exit code and first message for a cohort of one patient."""
    folder.mkdir()
    toml = write_cohort(folder, {"P1": 1})
    path = folder / "weights" / weights
    path.parent.mkdir()
    if make is not None:
        make(path)
    options = ("--backbone", backbone, "--weights", weights if weights == "random" else path)
    done = command(
        "extract", toml, *options, "--image-size", side, "--device", "cpu", "--cache", folder / "c"
    )
    assert "Traceback" not in done.err and "\x1b" not in done.err
    if done.code == 0:
        return "0", "embedded" if "1 embedded" in done.err else done.err.splitlines()[0]
    assert not (folder / "c").exists(), "refused before any image is read"
    message = done.err.splitlines()[0].removeprefix("mil-extract: ").replace(f"{folder}/weights/", "")
    return str(done.code), re.sub(
        r"(pixels|checkpoint): .*?\. (Use|$)", r"\1: (reason). \2", message
    ).rstrip()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_the_table_of_backbones_and_checkpoints_is_up_to_date(tmp_path: Path, command: Command) -> None:
    pytest.importorskip("timm")
    rows = [
        (description, *try_out(tmp_path / str(number), backbone, side, weights, make, command))
        for number, (description, backbone, side, weights, make) in enumerate(CASES)
    ]
    text = "What cannot be used is refused before the first image is read."
    check_section("Backbones and checkpoints", text, ("input", "exit code", "first message"), rows)
