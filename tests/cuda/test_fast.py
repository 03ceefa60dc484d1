"""On a card: what makes extraction and fine-tuning fast changes no bit, or only rounds differently."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_images import BAGS, CONFIG, bags_of, break_some, run, same, write_cohort

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.cudnn_fusion import CudnnConvolution, fuse_for_cudnn
from mil_toolkit.backbones.embedder import Embedder, fuse_batch_norm
from mil_toolkit.features import extract as extract_module
from mil_toolkit.features.cuda_graph import captured
from mil_toolkit.features.decoders import Decoders
from mil_toolkit.features.transfer import Transfer, pinned_on
from mil_toolkit.training.spill import shelves_for

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
BATCH, SIDE = 16, 64


@pytest.fixture(name="card")
def _card() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture(name="toml")
def _toml(tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "cohort", BAGS)


def pixels(seed: int, count: int = BATCH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_processes_and_threads_give_the_same_bits_on_a_card(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where images cannot be read."""
    monkeypatch.setattr(extract_module, "available_cores", lambda: 8)
    break_some(toml)
    threads = run(toml, device="cuda", workers=2, on_error="skip")
    (toml.parents[1] / "cache").rename(toml.parents[1] / "threads")
    processes = run(toml, device="cuda", workers=8, on_error="skip")
    kept = toml.parents[1] / "threads" / threads.folder.relative_to(toml.parents[1] / "cache")
    threads = replace(threads, folder=kept)
    assert processes.skipped == threads.skipped
    assert same(bags_of(processes), bags_of(threads))


def test_a_graph_computes_the_bits_of_the_network(card: torch.device) -> None:
    embedder = Embedder(build_backbone("resnet34", "random"), card, torch.bfloat16, (BATCH, SIDE))
    graph = captured(embedder, (BATCH, SIDE, SIDE, 3), card)
    assert graph is not embedder
    for seed in range(3):
        batch = torch.from_numpy(pixels(seed)).to(card)
        assert torch.equal(graph(batch), embedder(batch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_convolutions_compute_what_the_layers_compute(card: torch.device, dtype: torch.dtype) -> None:
    network = fuse_batch_norm(build_backbone("resnet34", "random").network).to(card, dtype)
    network = network.to(memory_format=torch.channels_last)
    fused = fuse_for_cudnn(network, BATCH, SIDE)
    assert sum(isinstance(layer, CudnnConvolution) for layer in fused.modules()) == 33
    images = torch.randn(BATCH, 3, SIDE, SIDE, device=card, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        one, other = fused(images).float(), network(images).float()
    least = {torch.float32: 1 - 1e-6, torch.bfloat16: 0.999, torch.float16: 0.99999}[dtype]
    assert torch.cosine_similarity(one, other).min() > least


def test_embeddings_that_come_late_are_those_of_their_batch(card: torch.device) -> None:
    """Through pinned memory that is used again as soon as the embeddings are there."""
    embedder = Embedder(build_backbone("resnet18", "random"), card, torch.float32, (BATCH, SIDE))
    slots = np.zeros((2, BATCH, SIDE, SIDE, 3), np.uint8)
    transfer, results = Transfer(embedder, card), list[np.ndarray]()
    finishes: list[Callable[[], np.ndarray]] = []
    with pinned_on(card, slots):
        assert torch.from_numpy(slots[0]).is_pinned()
        for number in range(6):
            if number > 1:
                results.append(finishes[number - 2]())
            slots[number % 2] = pixels(number)
            finishes.append(transfer.begin(slots[number % 2]))
        results += [finish() for finish in finishes[-2:]]
    for number, result in enumerate(results):
        expected = embedder(torch.from_numpy(pixels(number)).to(card)).cpu().numpy()
        assert np.array_equal(result, expected)


def test_slots_of_decoders_can_be_pinned(card: torch.device) -> None:
    with Decoders[Path](CONFIG, None, 1, 4, Path) as decoders, pinned_on(card, decoders.slots):
        assert torch.from_numpy(decoders.slots[3:5]).is_pinned()


def test_what_is_put_aside_comes_back_to_the_bit(card: torch.device) -> None:
    x = torch.randn(3, 4, 5, 5, device=card).to(memory_format=torch.channels_last)
    for shelf in shelves_for(card):
        kept = shelf.copy(x)
        assert torch.equal(kept.to(card), x) and kept.stride() == x.stride()
        assert kept.is_cuda or kept.is_pinned()
