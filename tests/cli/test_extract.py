"""mil-extract: its output, exit codes and options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_images import BAGS, backbone, break_some, write_cohort

from mil_toolkit.backbones import backbones
from mil_toolkit.cli.extract import main
from mil_toolkit.features.cache import FeatureCache

ARGUMENTS = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "build_backbone", backbone)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """The cohort.toml of a tiny cohort."""
    return write_cohort(tmp_path / "cohort", BAGS)


def command(toml: Path, *more: str) -> int:
    """Run mil-extract on the tiny cohort."""
    return main([str(toml), *ARGUMENTS, "--cache", str(toml.parents[1] / "cache"), *more])


def test_the_command_prints_only_the_folder(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So FEATURES=$(mil-extract cohort.toml) works; the summary goes to stderr."""
    assert command(toml) == 0
    out, err = capsys.readouterr()
    assert FeatureCache.open(Path(out.removesuffix("\n"))).patient_ids == tuple(BAGS)
    assert "4 patients, 11 images: 11 embedded, 0 skipped" in err


def test_the_command_prints_json(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object with the stated keys."""
    assert command(toml, "--json", "--on-error", "skip", "--workers", "2", "--batch-size", "3") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["patients"] == 4 and told["images"] == told["extracted"] == 11 and told["skipped"] == []
    assert told["images_per_second"] > 0 and Path(told["features"]).is_dir()


def test_exit_codes(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 for usage, 3 for bad data, 4 if images were skipped; no traceback, and only results on stdout."""
    assert command(toml, "--shard", "9/4") == 2
    assert command(toml, "--weights", "absent.pth") == 2
    assert command(toml.with_name("absent.toml")) == 3
    break_some(toml)
    assert command(toml) == 3
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and "P1/1.png: cannot be decoded" in err
    assert command(toml, "--on-error", "skip") == 4
    out, err = capsys.readouterr()
    assert Path(out.removesuffix("\n")).is_dir()
    assert "skipped" in err and "patient P2 has no readable image" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_cuda_is_refused_on_a_machine_without_it(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no silent fallback to the CPU."""
    assert command(toml, "--device", "cuda") == 2
    assert "CUDA device 0 was requested, but 0 are usable" in capsys.readouterr().err


def test_shard_auto_reads_the_environment(
    toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torchrun sets it."""
    total = 0
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert command(toml, "--shard", "auto", "--json") == 0
        total += json.loads(capsys.readouterr().out)["extracted"]
    assert total == 11


def test_help_needs_no_torch() -> None:
    """It answers at once because nothing heavy is imported."""
    code = "import sys; from mil_toolkit.cli.extract import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'h5py', 'pandas')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--on-error" in done.stdout
