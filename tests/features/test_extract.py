"""`extract` embeds every image once, and refuses options that cannot work."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.encoder_files import randomised
from support.tiny_images import (
    CONFIG,
    LONG_AGO,
    bags_of,
    draw,
    expected,
    run,
    same,
    write_cohort,
)

import mil_toolkit.features.extract as extract_module
import mil_toolkit.features.pipeline as pipeline_module
from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.backbones.encoders import ENCODERS
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core import devices, launchers
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.sharding import Share
from mil_toolkit.features.spec import read_reading

REAL = Path(__file__).parents[3] / "shared" / "lymphocytosis"

pytestmark = pytest.mark.usefixtures("built_once")


def test_every_image_is_embedded_as_if_it_were_alone(toml: Path) -> None:
    """Batches of four across patients, against one image at a time, bit by bit."""
    first = run(toml)
    assert (first.patients, first.images, first.extracted) == (4, 11, 11)
    assert same(bags_of(first), expected(toml))


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 3}, {"threads": 1}, {"threads": 3}], ids=str)
def test_the_number_of_threads_does_not_change_any_bit(
    toml: Path, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the order within a bag."""
    monkeypatch.setattr(extract_module, "available_cores", lambda: 4)
    assert same(bags_of(run(toml, **options)), expected(toml))


@pytest.mark.parametrize("threads", [-1, 0, 5])
def test_threads_are_as_many_as_the_cores_at_most(
    toml: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "available_cores", lambda: 4)
    message = f"^--threads must be between 1 and 4, the cores of this process, not {threads}.$"
    with pytest.raises(UsageError, match=message):
        run(toml, threads=threads)


@pytest.mark.parametrize(("options", "expected_threads"), [({}, 2), ({"threads": 1}, 1)], ids=str)
def test_by_default_as_many_threads_embed_as_torch_uses(
    toml: Path, options: dict[str, int], expected_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    real = pipeline_module.in_threads
    monkeypatch.setattr(pipeline_module, "in_threads", lambda *args: given.append(args[-1]) or real(*args))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    run(toml, **options)
    assert given == [expected_threads]


@pytest.mark.parametrize("batch_size", [1, 100])
def test_the_batch_size_changes_only_rounding(toml: Path, batch_size: int) -> None:
    """Because kernels depend on it."""
    for patient, bag in bags_of(run(toml, batch_size=batch_size, workers=1)).items():
        for name, row in bag.items():
            assert np.allclose(row, expected(toml)[patient][name], rtol=2e-3, atol=2e-3)


def test_bfloat16_is_recorded_and_close_to_float32(toml: Path) -> None:
    """The shard records how its embeddings were computed."""
    half = bags_of(found := run(toml, precision="bfloat16"))
    (shard,) = FeatureCache.open(found.folder).shards
    assert shard.recorded.precision == "bfloat16" and shard.recorded.decoder.startswith("pillow ")
    for patient, bag in expected(toml).items():
        for name, row in bag.items():
            a, b = row.astype(float), half[patient][name].astype(float)
            assert a @ b > 0.999 * np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_crop_larger_than_every_image_is_a_usage_error(toml: Path, dry_run: bool) -> None:
    """It lists the images' sizes, and nothing is written."""
    Image.new("RGB", (20, 30)).save(toml.parent / "images/P1/0.png")
    (toml.parent / "images/P1/1.png").write_bytes(b"")
    config = replace(CONFIG, crop=41)
    message = r"--crop 41: every image is smaller\. .* 48 x 40 \(9\), 20 x 30 \(1\)\. Choose a smaller crop"
    with pytest.raises(UsageError, match=message):
        extract(read_cohort(toml), config, toml.parents[1] / "cache", device="cpu", dry_run=dry_run)
    assert not (toml.parents[1] / "cache").exists()


def test_all_shares_together_are_the_whole_cohort(toml: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every patient is in exactly one share, and the imbalance is logged."""
    with caplog.at_level("INFO", "mil_toolkit"):
        parts = [run(toml, share=Share(index, 3)) for index in range(3)]
    assert sum(part.patients for part in parts) == 4 and sum(part.extracted for part in parts) == 11
    assert same(bags_of(parts[0]), expected(toml))
    assert "times the mean share" in caplog.text
    assert run(toml).extracted == 0


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"preprocess": "blur"}, {}, "'blur' is not one of none, saturation-mask"),
        ({"image_size": 16}, {}, "^--image-size must be at least 32, not 16.$"),
        ({"crop": -1}, {}, "^--crop must be at least 0, not -1.$"),
        ({}, {"batch_size": 0}, "^--batch-size must be at least 1, not 0.$"),
        ({}, {"workers": -1}, "^--workers must be at least 0, not -1.$"),
        ({}, {"on_error": "ignore"}, "neither fail nor skip"),
    ],
)
def test_impossible_options_are_refused(
    toml: Path, change: dict[str, object], options: dict[str, object], message: str
) -> None:
    """Before anything is built or written."""
    config = replace(CONFIG, **change)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        extract(read_cohort(toml), config, toml.parents[1] / "cache", **options)  # type: ignore[arg-type]
    assert not (toml.parents[1] / "cache").exists()


def test_every_option_that_changes_an_embedding_changes_the_folder(toml: Path, tmp_path: Path) -> None:
    """So embeddings of two specs never mix."""
    build_backbone("resnet18", "random")
    path = tmp_path / "own.pth"
    torch.save(
        {k: v + 0.01 for k, v in build_backbone("resnet18", "random").network.state_dict().items()}, path
    )
    changes: list[dict[str, object]] = [
        {},
        {"image_size": 40},
        {"crop": 30},
        {"preprocess": "saturation-mask"},
        {"preprocess": "reinhard"},
        {"weights": str(path)},
        {"backbone": "resnet34"},
    ]
    cohort = read_cohort(toml)
    configs = [replace(CONFIG, **change) for change in changes]  # type: ignore[arg-type]
    folders = {extract(cohort, config, tmp_path, dry_run=True).folder for config in configs}
    assert len(folders) == len(changes)


def test_a_dry_run_writes_nothing(toml: Path) -> None:
    """It counts what is missing, with and without a cache."""
    found = run(toml, dry_run=True)
    assert found.extracted == 11 and not found.folder.parents[1].exists()
    run(toml)
    files = sorted(found.folder.iterdir())
    assert run(toml, dry_run=True).extracted == 0
    draw(toml.parent / "images/P1/0.png", 77)
    os.utime(toml.parent / "images/P2/0.png", (LONG_AGO, LONG_AGO + 9))
    assert run(toml, dry_run=True).extracted == 1
    assert sorted(found.folder.iterdir()) == files


def test_the_real_cohort(tmp_path: Path) -> None:
    """A few of its patients, twice; skipped if the cohort is not available."""
    if not REAL.is_dir():
        assert os.environ.get("CI") != "true", "the real cohort is missing"
        pytest.skip("the real cohort is not beside the repository")
    folder = tmp_path / "cohort"
    patients = sorted(path.name for path in (REAL / "trainset").iterdir())[:3]
    (folder / "images").mkdir(parents=True)
    for patient in patients:
        (folder / "images" / patient).symlink_to(REAL / "trainset" / patient)
    toml = write_cohort(folder, dict.fromkeys(patients, 0))
    first = extract(read_cohort(toml), replace(CONFIG, image_size=64), tmp_path / "cache", device="cpu")
    assert first.extracted == first.images >= 48
    again = extract(read_cohort(toml), replace(CONFIG, image_size=64), tmp_path / "cache", device="cpu")
    assert again.extracted == 0


def test_threads_are_said_to_have_no_effect_on_a_graphics_processor(caplog: pytest.LogCaptureFixture) -> None:
    how = extract_module._How("cuda", "auto", None, 1, 3, False, False, None)
    assert how._readers("cuda") == 3
    assert "--threads has no effect on a graphics processor" in caplog.text
    caplog.clear()
    assert how._readers("mps") == 3 and "--threads has no effect on a graphics processor" in caplog.text
    caplog.clear()
    assert how._replace(threads=None)._readers("cuda") == 3 and not caplog.text


def test_workers_are_said_to_have_no_effect_on_the_cpu(toml: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(toml, workers=2)
    assert "--workers has no effect on the CPU" in caplog.text
    caplog.clear()
    run(toml, threads=1)
    assert "--workers" not in caplog.text


def test_an_encoder_is_extracted_as_its_authors_prepare_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size, statistics and sampling of the table; a bundle's spec then gives the same pixels again."""
    timm = pytest.importorskip("timm")
    encoder = replace(ENCODERS["gigapath"], model="test_vit", width=64, options={}, size=160)
    monkeypatch.setitem(ENCODERS, "gigapath", encoder)
    network = randomised(timm.create_model("test_vit", num_classes=0))
    torch.save({"model": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "a.bin")
    toml = write_cohort(tmp_path / "cohort", {"P1": 2})
    config = ExtractionConfig("gigapath", str(tmp_path / "a.bin"))
    cohort = read_cohort(toml)
    done = extract(cohort, config, tmp_path / "cache", device="cpu", precision="float32")
    cache = FeatureCache.open(done.folder)
    assert cache.spec["sampling"] == {"interpolation": "bicubic", "mode": "centre", "crop_pct": 0.875}
    assert (cache.spec["weights"], cache.spec["image_size"]) == ("file", 160)
    assert read_reading(done.folder) == Reading(("model",), "module.")
    transform = timm.data.create_transform(
        (3, 160, 160), interpolation="bicubic", crop_pct=0.875, mean=encoder.mean, std=encoder.std
    )
    shown = torch.stack([transform(Image.open(path).convert("RGB")) for path in cohort.images["P1"]])
    with torch.inference_mode():
        expected = network(shown)
    actual = cache.bags(["P1"]).instances.float()
    assert torch.allclose(actual, expected, rtol=0.01, atol=0.01 * float(expected.abs().max()))
    assert extract(cohort, config, tmp_path / "cache", device="cpu").extracted == 0
    plain = replace(config, weights=str(tmp_path / "b.pth"))
    torch.save(network.state_dict(), tmp_path / "b.pth")
    again = extract(cohort, plain, tmp_path / "cache", device="cpu")
    assert (again.folder, again.extracted) == (done.folder, 0), "the same tensors in another container"


class _OutOfMemory(torch.nn.Module):
    """A network for which the device lacks memory."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")


def test_missing_memory_is_a_usage_error_and_the_next_run_continues(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the option and the free memory; no other batch size is used silently."""
    sizes: list[int] = []

    def embed(self: Embedder, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        embeddings: torch.Tensor = _OutOfMemory()(pixels)
        return embeddings

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "forward", embed)
        with pytest.raises(
            UsageError, match=r"^Out of memory: .* GiB are free .* Use a --batch-size below 4\."
        ):
            run(toml)
    assert set(sizes) == {4}
    assert same(bags_of(run(toml)), expected(toml))


@pytest.mark.parametrize(
    ("precision", "advice"),
    [("float16", "Use mil-extract --precision float32"), ("float32", "Other weights?")],
)
def test_a_value_that_is_not_finite_has_advice_by_precision(
    toml: Path, precision: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(self: Embedder, pixels: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixels), 512), torch.inf, dtype=torch.float16)

    monkeypatch.setattr(Embedder, "forward", overflow)
    (line, *_) = run(toml, precision=precision, on_error="skip").skipped
    assert line.endswith(advice if advice.endswith("?") else f"{advice}.")


def test_rows_of_another_architecture_are_reported_and_not_put_into_one_bag(
    toml: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(toml)
    draw(toml.parent / "images/P1/3.png", seed=7)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "architecture", lambda device: "sm_90")
        assert run(toml).extracted == 4  # all images of P1, so that its bag has one architecture
    assert " on sm_90. Those of the same image differ little: a cosine of 0.995" in caplog.text
    assert "between architectures it has not been measured" in caplog.text


def test_each_process_of_torchrun_reads_with_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    how = extract_module._How("cuda", "auto", None, None, None, False, False, None)
    monkeypatch.setattr(launchers, "available_cores", lambda: 16)
    readers = []
    for count in ("1", "4", "64"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", count)
        readers.append(how._readers("cuda"))
    assert readers == [16, 4, 1]
    assert how._replace(workers=3)._readers("cuda") == 3
