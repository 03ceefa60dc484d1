"""Exact end-to-end gradients in constant memory, beside plain autograd.

    python benchmarks/finetune.py [--backbone resnet18] [--image-size 64] [--chunk 50] [--json]

- memory: the peak of resident memory of one step on a bag, each size and way in a process of its own. Plain autograd
  is measured as far as --plain-images.
- gradients: of a bag of 200 images in float32 against plain autograd's, the worst tensor, by the norm of its
  difference over its own norm.
- time: of a bag of --timed-images at --timed-image-size in float32, ours and plain in turn, several times over; the
  medians of each round's ratios. By default the seconds are those of the processor, of all threads together, so that
  other processes do not count; `--clock wall` takes those of the clock, for a machine that is quiet.

The head is attention over the embeddings. What decodes images is left out of both.
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

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the commands do, before torch is imported

import torch
from torch import Tensor

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Normaliser
from mil_toolkit.backbones.parts import ALL, last_stage
from mil_toolkit.core.devices import use_available_cores
from mil_toolkit.training.backpropagation import Halves, Spill, backpropagate

BAGS = (50, 500, 5000)
CHECKED_IMAGES = 200
CPU = torch.device("cpu")
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    use_available_cores()
    if arguments.peak:
        way, part, images = arguments.peak
        print(peak_megabytes(arguments, way, part, int(images)))
        return
    figures = memory(arguments) | gradients(arguments) | times(arguments)
    figures |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "clock": arguments.clock}
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
    parser.add_argument("--chunk", type=int, default=50, help="images in the backbone at once")
    parser.add_argument("--image-size", type=int, default=64, help="of memory and gradients")
    parser.add_argument("--plain-images", type=int, default=500, help="largest bag of plain autograd")
    parser.add_argument("--timed-images", type=int, default=100)
    parser.add_argument("--timed-image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="processor")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


class Bench:
    """A network divided at a part, and two ways to add the gradient of a bag's loss to its parameters."""

    def __init__(self, backbone: str, part: str, chunk: int):
        built = build_backbone(backbone, "random")
        self.halves = Halves(built, part, CPU, torch.float32)
        self.normalise, self.chunk = Normaliser(built, CPU, torch.float32), chunk
        self.weight = torch.randn(built.width, generator=torch.Generator().manual_seed(0))

    def loss(self, embeddings: Tensor) -> Tensor:
        """Attention pools the bag, so that each image's gradient depends on all of them."""
        scaled = embeddings / embeddings.detach().std()
        attention = torch.softmax(scaled @ self.weight / len(self.weight) ** 0.5, 0)
        return (attention @ scaled).square().mean()

    def ours(self, images: Callable[[int], Iterator[Tensor]]) -> None:
        """In constant memory."""
        with tempfile.TemporaryFile() as file:
            backpropagate(images(self.chunk), self.halves, self.loss, Spill(file))

    def plain(self, images: Callable[[int], Iterator[Tensor]]) -> None:
        """All images at once, the frozen part without gradients."""
        pixels = torch.cat(list(images(self.chunk)))
        self.loss(self.halves.network(self.normalise(pixels))).backward()

    def gradients(self) -> dict[str, Tensor]:
        """What has come together, which is then forgotten."""
        found = {
            name: each.grad.clone() for name, each in self.halves.parameters.items() if each.grad is not None
        }
        self.halves.network.zero_grad()
        return found


def draw(count: int, size: int, chunk: int) -> Iterator[Tensor]:
    """Random pixels, drawn as they are needed, the same each time."""
    random = torch.Generator().manual_seed(0)
    for start in range(0, count, chunk):
        shape = (min(chunk, count - start), size, size, 3)
        yield torch.randint(256, shape, generator=random, dtype=torch.uint8)


def peak_megabytes(arguments: argparse.Namespace, way: str, part: str, images: int) -> float:
    """Of this process, after one step."""
    bench = Bench(arguments.backbone, part, arguments.chunk)
    getattr(bench, way)(partial(draw, images, arguments.image_size))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(arguments: argparse.Namespace) -> dict[str, float]:
    """Peaks in MB, and what the largest bag takes over the smallest one."""
    figures = {}
    for part in (ALL, stage(arguments.backbone)):
        for way, most in (("ours", max(BAGS)), ("plain", arguments.plain_images)):
            for images in (each for each in BAGS if each <= most):
                figures[f"peak_mb_{way}_{part}_{images}"] = measured_apart(way, part, images)
        for way in ("ours", "plain"):
            peaks = [value for name, value in figures.items() if name.startswith(f"peak_mb_{way}_{part}_")]
            figures[f"growth_{way}_{part}"] = peaks[-1] / peaks[0]
    growths = [value for name, value in figures.items() if name.startswith("growth_ours_")]
    return figures | {"memory_growth": max(growths)}


def measured_apart(way: str, part: str, images: int) -> float:
    """The peak in a process of its own."""
    argv = [sys.executable, __file__, *sys.argv[1:], "--peak", way, part, str(images)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def gradients(arguments: argparse.Namespace) -> dict[str, float]:
    """The worst tensor's error, of both parts."""
    errors = []
    for part in (ALL, stage(arguments.backbone)):
        bench = Bench(arguments.backbone, part, arguments.chunk)
        images = partial(draw, CHECKED_IMAGES, arguments.image_size)
        bench.ours(images)
        found = bench.gradients()
        bench.plain(images)
        expected = bench.gradients()
        errors += [((found[name] - each).norm() / each.norm()).item() for name, each in expected.items()]
    return {"gradient_error": max(errors)}


def times(arguments: argparse.Namespace) -> dict[str, float]:
    """Medians of ours over plain, of both parts."""
    figures: dict[str, float] = {}
    clock = CLOCKS[arguments.clock]
    for name, part in (("time_ratio", ALL), ("time_ratio_layer4", stage(arguments.backbone))):
        bench = Bench(arguments.backbone, part, arguments.chunk)
        pixels = torch.cat(list(draw(arguments.timed_images, arguments.timed_image_size, arguments.chunk)))
        images: Callable[[int], Iterator[Tensor]] = lambda chunk, ready=pixels: iter(ready.split(chunk))
        bench.ours(images), bench.plain(images)
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


def seconds(clock: Callable[[], float], call: Callable[[], None]) -> float:
    """How long a call takes."""
    begun = clock()
    call()
    return clock() - begun


def stage(backbone: str) -> str:
    """layer4, or what stands in its place."""
    return last_stage(build_backbone(backbone, "random").network)


if __name__ == "__main__":
    main()
