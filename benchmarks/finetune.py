"""Compare exact end-to-end gradients in constant memory with plain autograd.

    python benchmarks/finetune.py [--backbone resnet18] [--image-size 64] [--chunk 50] [--json]

- memory: peak resident memory of one step on a bag; each bag size and method runs in a process of its own.
  Plain autograd is measured up to --plain-images.
- gradients: the largest relative error of a tensor's gradient against plain autograd (norm of the difference
  over the norm), for a bag of 200 images in float32.
- time: one step on a bag of --timed-images at --timed-image-size in float32. Each round times both methods,
  and the medians of the rounds' ratios are printed. By default the clock counts processor time of all
  threads, so that other processes do not matter; `--clock wall` is for an idle machine.

The head is attention pooling. Image decoding is excluded from both.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch is imported, as in the commands

import torch
from torch import Tensor

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Normaliser
from mil_toolkit.backbones.parts import ALL, last_stage
from mil_toolkit.core.devices import use_available_cores
from mil_toolkit.training.backpropagation import Halves, backpropagate
from mil_toolkit.training.spill import Spill

BAGS = (50, 500, 5000)
CHECKED_IMAGES = 200
CPU = torch.device("cpu")
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


def main() -> None:
    """Measure, and print the figures."""
    arguments = _arguments()
    use_available_cores()
    if arguments.peak:
        way, part, images = arguments.peak
        print(peak_megabytes(arguments, way, part, int(images)))
        return
    figures: dict[str, float | str] = {**memory(arguments), **gradients(arguments), **times(arguments)}
    figures |= {"threads": torch.get_num_threads(), "torch": str(torch.__version__), "clock": arguments.clock}
    figures |= {"backbone": arguments.backbone, "chunk": arguments.chunk}
    lines = (
        f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in figures.items()
    )
    print(json.dumps(figures) if arguments.json else "\n".join(lines))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--chunk", type=int, default=50, help="images per forward pass of the backbone")
    parser.add_argument("--image-size", type=int, default=64, help="image size for memory and gradients")
    parser.add_argument("--plain-images", type=int, default=500, help="largest bag for plain autograd")
    parser.add_argument("--timed-images", type=int, default=100)
    parser.add_argument("--timed-image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="processor")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


class Bench:
    """A network split into a frozen and a trained part, and two methods to accumulate a bag's gradients."""

    def __init__(self, backbone: str, part: str, chunk: int):
        built = build_backbone(backbone, "random")
        self.halves = Halves(built, part, CPU, torch.float32)
        self.normalise, self.chunk = Normaliser(built, CPU, torch.float32), chunk
        self.weight = torch.randn(built.width, generator=torch.Generator().manual_seed(0))

    def loss(self, embeddings: Tensor) -> Tensor:
        """Return a loss with attention pooling, in which each image's gradient depends on all images."""
        scaled = embeddings / embeddings.detach().std()
        attention = torch.softmax(scaled @ self.weight / len(self.weight) ** 0.5, 0)
        return (attention @ scaled).square().mean()

    def ours(self, images: Callable[[int], Iterator[Tensor]]) -> None:
        """Accumulate the gradients in constant memory."""
        with tempfile.TemporaryFile() as file:
            backpropagate(images(self.chunk), self.halves, self.loss, Spill(file))

    def plain(self, images: Callable[[int], Iterator[Tensor]]) -> None:
        """Accumulate the gradients with all images in memory; the frozen part has no gradients."""
        pixels = torch.cat(list(images(self.chunk)))
        self.loss(self.halves.network(self.normalise(pixels))).backward()

    def gradients(self) -> dict[str, Tensor]:
        """Return the accumulated gradients and reset them."""
        accumulated = {
            name: parameter.grad.clone()
            for name, parameter in self.halves.parameters.items()
            if parameter.grad is not None
        }
        self.halves.network.zero_grad()
        return accumulated


def draw(count: int, size: int, chunk: int) -> Iterator[Tensor]:
    """Yield the same random pixels on every call, generated chunk by chunk."""
    random = torch.Generator().manual_seed(0)
    for start in range(0, count, chunk):
        shape = (min(chunk, count - start), size, size, 3)
        yield torch.randint(256, shape, generator=random, dtype=torch.uint8)


def peak_megabytes(arguments: argparse.Namespace, way: str, part: str, images: int) -> float:
    """Return the peak memory of this process after one step, in MiB."""
    bench = Bench(arguments.backbone, part, arguments.chunk)
    getattr(bench, way)(partial(draw, images, arguments.image_size))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(arguments: argparse.Namespace) -> dict[str, float]:
    """Return peak memory in MB, and the ratio of the largest to the smallest bag."""
    figures = {}
    for part in (ALL, stage(arguments.backbone)):
        for way, most in (("ours", max(BAGS)), ("plain", arguments.plain_images)):
            for images in (size for size in BAGS if size <= most):
                figures[f"peak_mb_{way}_{part}_{images}"] = measured_apart(way, part, images)
        for way in ("ours", "plain"):
            peaks = [value for name, value in figures.items() if name.startswith(f"peak_mb_{way}_{part}_")]
            figures[f"growth_{way}_{part}"] = peaks[-1] / peaks[0]
    growths = [value for name, value in figures.items() if name.startswith("growth_ours_")]
    return figures | {"memory_growth": max(growths)}


def measured_apart(way: str, part: str, images: int) -> float:
    """Run `peak_megabytes` in a new process."""
    argv = [sys.executable, __file__, *sys.argv[1:], "--peak", way, part, str(images)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def gradients(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the largest relative error of a gradient, over both choices of the trained part."""
    errors = []
    for part in (ALL, stage(arguments.backbone)):
        bench = Bench(arguments.backbone, part, arguments.chunk)
        images = partial(draw, CHECKED_IMAGES, arguments.image_size)
        bench.ours(images)
        ours = bench.gradients()
        bench.plain(images)
        expected = bench.gradients()
        errors += [((ours[name] - plain).norm() / plain.norm()).item() for name, plain in expected.items()]
    return {"gradient_error": max(errors)}


def times(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the median ratios of ours to plain, for both choices of the trained part."""
    figures: dict[str, float] = {}
    clock = CLOCKS[arguments.clock]
    for name, part in (("time_ratio", ALL), ("time_ratio_layer4", stage(arguments.backbone))):
        bench = Bench(arguments.backbone, part, arguments.chunk)
        pixels = torch.cat(list(draw(arguments.timed_images, arguments.timed_image_size, arguments.chunk)))
        images = partial(split, pixels)
        bench.ours(images)
        bench.plain(images)
        ratios = []
        for _ in range(arguments.rounds):
            ours, plain = (seconds(clock, partial(way, images)) for way in (bench.ours, bench.plain))
            ratios.append(ours / plain)
        figures |= {
            name: statistics.median(ratios),
            f"{name}_least": min(ratios),
            f"{name}_most": max(ratios),
        }
        figures[f"plain_seconds_{part}"] = plain
    return figures


def split(pixels: Tensor, chunk: int) -> Iterator[Tensor]:
    """Yield the pixels in chunks."""
    yield from pixels.split(chunk)


def seconds(clock: Callable[[], float], call: Callable[[], None]) -> float:
    """Return how long a call takes."""
    begun = clock()
    call()
    return clock() - begun


def stage(backbone: str) -> str:
    """Return the name of the last stage: `layer4`, or its counterpart in other networks."""
    return last_stage(build_backbone(backbone, "random").network)


if __name__ == "__main__":
    main()
