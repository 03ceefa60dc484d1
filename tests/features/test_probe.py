"""`mil-extract --probe`: backbones compared on some images."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import Command
from support.tiny_images import BAGS, break_some, write_cohort

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features import probe as probe_module
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.pipeline import wants_processes
from mil_toolkit.features.probe import effective_rank, mean_cosine, probe

CONFIG = ExtractionConfig("resnet18", "random", 32)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "cohort", BAGS)


def test_the_measures_are_those_of_the_embeddings_of_an_extraction(toml: Path, tmp_path: Path) -> None:
    """All images are probed where there are fewer than N."""
    cohort = read_cohort(toml)
    (row,) = probe(cohort, [CONFIG], 100, device="cpu", precision="float32", batch_size=4)
    done = extract(cohort, CONFIG, tmp_path / "cache", device="cpu", precision="float32", batch_size=4)
    cache = FeatureCache.open(done.folder)
    rows = cache.bags(cache.patient_ids).instances.numpy().astype(float)
    assert row[:5] == ("resnet18", "random", 32, 512, len(rows)) == ("resnet18", "random", 32, 512, 11)
    assert row.cosine == pytest.approx(mean_cosine(rows)) and row.cosine < 1
    assert row.effective_rank == pytest.approx(effective_rank(rows)) and 1 < row.effective_rank < 11
    assert row.images_per_second > 0


def test_the_measures_against_their_definitions() -> None:
    rows = np.random.default_rng(0).normal(1, 1, (9, 5))
    units = [row / np.linalg.norm(row) for row in rows]
    cosines = [one @ other for place, one in enumerate(units) for other in units[:place]]
    assert mean_cosine(rows) == pytest.approx(np.mean(cosines))
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.T))
    shares = np.sqrt(eigenvalues) / np.sqrt(eigenvalues).sum()
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert effective_rank(3 * rows + 7) == pytest.approx(effective_rank(rows)), "scale and shift do not count"
    assert effective_rank(np.outer(np.arange(4.0), np.ones(3))) == pytest.approx(1)
    assert effective_rank(np.ones((4, 3))) == 0 and mean_cosine(np.ones((4, 3))) == pytest.approx(1)
    assert np.isnan(mean_cosine(np.zeros((4, 3))))


def test_images_are_resampled_as_by_an_extraction(toml: Path, tmp_path: Path) -> None:
    toml.write_text(toml.read_text() + "microns_per_pixel = 0.25\n")
    cohort, config = read_cohort(toml), replace(CONFIG, scale=0.5, crop_um=8.0)
    (row,) = probe(cohort, [config], 100, device="cpu", precision="float32", batch_size=4)
    done = extract(cohort, config, tmp_path / "cache", device="cpu", precision="float32", batch_size=4)
    cache = FeatureCache.open(done.folder)
    rows = cache.bags(cache.patient_ids).instances.numpy().astype(float)
    assert row.cosine == pytest.approx(mean_cosine(rows))
    with pytest.raises(UsageError, match="--scale needs the resolution"):
        probe(read_cohort(write_cohort(tmp_path / "other", BAGS)), [config], 100, device="cpu")


@pytest.mark.parametrize("threads", [None, 2, 9])
def test_a_card_reads_in_threads(threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of processes would count as time of the images."""
    monkeypatch.setattr(probe_module, "own_cores", lambda: 64)
    card = torch.device("cuda")
    readers = probe_module._readers(card, threads)
    assert readers == min(threads or 64, 4) and not wants_processes(card, readers)
    assert probe_module._readers(torch.device("cpu"), threads) == (threads or torch.get_num_threads())


IGNORED = {
    "--workers": ("--workers", "2"),
    "--shard": ("--shard", "1/2"),
    "--on-error": ("--on-error", "fail"),
    "--rehash": ("--rehash",),
    "--dry-run": ("--dry-run",),
    "--contact-sheet": ("--contact-sheet", "sheet.png"),
}


def test_options_without_an_effect_on_a_probe_are_named_in_one_error(toml: Path, command: Command) -> None:
    for name, given in IGNORED.items():
        done = command("extract", toml, "--probe", 3, "--weights", "random", *given)
        assert done.code == 2 and f"--probe does not use {name}: leave it out." in done.err
    every = [word for given in IGNORED.values() for word in given]
    done = command("extract", toml, "--probe", 3, *every)
    assert done.code == 2 and f"--probe does not use {', '.join(IGNORED)}: leave them out." in done.err


def test_images_that_cannot_be_read_are_left_out(toml: Path) -> None:
    break_some(toml)
    (row,) = probe(read_cohort(toml), [CONFIG], 100, device="cpu")
    assert row.images < 11
    for path in (toml.parent / "images").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="--probe needs 2 images that can be read, got 0"):
        probe(read_cohort(toml), [CONFIG], 100, device="cpu")


def test_the_command_prints_a_table_and_writes_nothing(
    toml: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toml.parent)
    before = sorted(toml.parents[1].rglob("*"))
    options = ("--probe", 5, "--image-size", 64, "--device", "cpu")
    names = ("--backbone", "resnet18", "--backbone", "timm:mobilenetv3_small_050", "--weights", "random")
    done = command("extract", toml, *names, *options)
    assert done.code == 0, done.err
    header, *rows, legend = done.out.splitlines()
    assert header.split() == ["backbone", "weights", "size", "width", "images/s", "cosine", "rank"]
    assert [row.split()[:4] for row in rows] == [
        ["resnet18", "random", "64", "512"],
        ["timm:mobilenetv3_small_050", "random", "64", "1024"],
    ]
    assert "these 5 images" in legend
    printed = command("extract", toml, *names, *options, "--json")
    found = json.loads(printed.out)["probe"]
    assert [row["width"] for row in found] == [512, 1024] and found[0]["images"] == 5
    assert sorted(toml.parents[1].rglob("*")) == before and os.listdir() == os.listdir(toml.parent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backbone", "resnet18", "--backbone", "resnet34"), "are for --probe; an extraction uses one"),
        (("--weights", "random", "--weights", "imagenet"), "are for --probe; an extraction uses one"),
        (("--probe", "1", "--weights", "random"), "--probe must be at least 2, not 1"),
        (("--probe", "-3"), "--probe must be at least 2, not -3"),
        (("--probe", "9", "--backbone", "resnet"), "'resnet' is not one of resnet18"),
        (("--probe", "9", "--weights", "random", "--weights", "random"), "got 2 for 1"),
    ],
)
def test_options_that_cannot_work_are_refused(
    toml: Path, command: Command, options: tuple[str, ...], message: str
) -> None:
    done = command("extract", toml, *options)
    assert done.code == 2 and message in done.err and done.out == ""
