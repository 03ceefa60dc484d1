"""Compare extraction with a plain torchvision loop and with the network alone, as ratios from one run.

    python benchmarks/extraction.py [--cohort COHORT.toml] [--backbone resnet34] [--weights random] [--json]

- ours: `mil_toolkit.extract` on image files: reading, decoding, embedding, publishing
- plain: a dataset of files, torchvision transforms, a DataLoader and the unmodified network, in float32
- bare: the same prepared network, in as many threads, on normalised batches in memory: no decoding, no
  writing

Each round times all three, and the medians of the rounds' ratios are printed, so that a temporary load on the
machine affects all of them. Without --cohort, random JPEG images are used. `bound` is the share of the bare
network that remains if reading and decoding take their processor time from the same cores.

With --network, only the network is measured, in one thread: ours against the other ways in which torch
computes it in float32. ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2 make a newer processor compute as
one without AVX-512.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from mil_toolkit.backbones.backbones import Backbone, build_backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.devices import DTYPES, pick_device, pick_precision, use_available_cores
from mil_toolkit.features.batch_sizes import CPU_BATCH
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.extract import extract
from mil_toolkit.features.loading import in_threads
from mil_toolkit.features.pixels import prepare
from mil_toolkit.features.read_prepared import read_prepared

PLAIN_BATCH_SIZE = 32
BATCH_SIZE = CPU_BATCH


def main() -> None:
    """Measure, and print the figures."""
    arguments = _arguments()
    use_available_cores()
    backbone = build_backbone(arguments.backbone, arguments.weights)
    if arguments.network:
        print(json.dumps(compare_networks(backbone, arguments.rounds), indent=None if arguments.json else 1))
        return
    with tempfile.TemporaryDirectory() as folder:
        toml = arguments.cohort or draw_cohort(Path(folder), arguments.cosine_images)
        cohort = read_cohort(toml)
        figures = measure(cohort, backbone, arguments, Path(folder))
        figures |= worst_cosine(some_paths(cohort, arguments.cosine_images), backbone)
    figures |= {"threads": torch.get_num_threads(), "backbone": arguments.backbone}
    lines = (
        f"{name}: {value:.5g}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in figures.items()
    )
    print(json.dumps(figures) if arguments.json else "\n".join(lines))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohort", type=Path, help="a cohort.toml; default: random images")
    parser.add_argument("--backbone", default="resnet34")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=512, help="images per round of ours and bare")
    parser.add_argument("--plain-images", type=int, default=128, help="images per round of plain")
    parser.add_argument("--cosine-images", type=int, default=1000)
    parser.add_argument("--network", action="store_true", help="measure only the network, in float32")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def draw_cohort(folder: Path, images: int) -> Path:
    """Create a cohort of random JPEG images, 50 a patient, with the pixels and bytes of smear images."""
    random = np.random.default_rng(0)
    patients = [f"P{number}" for number in range(-(-images // 50))]
    for patient in patients:
        (folder / "images" / patient).mkdir(parents=True)
        for row in range(50):
            noise = Image.fromarray(random.integers(0, 256, (224, 224, 3), dtype=np.uint8))
            noise.filter(ImageFilter.GaussianBlur(2)).save(
                folder / "images" / patient / f"{row}.jpg", quality=95
            )
    (folder / "table.csv").write_text("\n".join(["ID", *patients]) + "\n")
    (folder / "cohort.toml").write_text(
        '[cohort]\nname = "drawn"\ntable = "table.csv"\nimages = ["images"]\nid = "ID"\n'
    )
    return folder / "cohort.toml"


def some_paths(cohort: Cohort, count: int) -> list[Path]:
    """Return the first `count` images of the cohort."""
    return [path for images in cohort.images.values() for path in images][:count]


def some_patients(cohort: Cohort, count: int) -> Cohort:
    """Return the first patients that together have at least `count` images."""
    sizes = np.cumsum([len(cohort.images[patient]) for patient in cohort.patient_ids])
    return cohort.select(cohort.patient_ids[: int(np.searchsorted(sizes, count)) + 1])


def measure(
    cohort: Cohort, backbone: Backbone, arguments: argparse.Namespace, folder: Path
) -> dict[str, float | int]:
    """Return the medians over the rounds."""
    part = some_patients(cohort, arguments.images)
    plain = plain_loop(backbone, some_paths(cohort, arguments.plain_images))
    bare = bare_loop(backbone, arguments.images)
    config = ExtractionConfig(backbone=arguments.backbone, weights=arguments.weights)
    plain(), bare()
    ours, plains, bares = [], [], []
    for number in range(arguments.rounds):
        plains.append(arguments.plain_images / seconds(plain))
        ours.append(extract(part, config, folder / f"cache{number}").images_per_second)
        bares.append(arguments.images / seconds(bare))
    decoding = decoding_seconds(some_paths(cohort, 200))
    network = torch.get_num_threads() / statistics.median(bares)
    return {
        "images_per_second": statistics.median(ours),
        "plain_images_per_second": statistics.median(plains),
        "bare_images_per_second": statistics.median(bares),
        "speedup_plain": median_ratio(ours, plains),
        "fraction_bare": median_ratio(ours, bares),
        "decoding_ms": 1000 * decoding,
        "network_ms": 1000 * network,
        "bound": network / (network + decoding),
        "rounds": arguments.rounds,
    }


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(over, under, strict=True))


def seconds(call: Callable[[], None]) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


class _Files(torch.utils.data.Dataset[Tensor]):
    def __init__(self, paths: Sequence[Path], transform: Callable[[Image.Image], Tensor]):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def plain_loop(backbone: Backbone, paths: Sequence[Path]) -> Callable[[], None]:
    """Return a loop as found in tutorials."""
    normalise = transforms.Normalize(backbone.mean, backbone.std)
    transform = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(), normalise])
    loader = torch.utils.data.DataLoader(_Files(paths, transform), batch_size=PLAIN_BATCH_SIZE)

    def loop() -> None:
        with torch.no_grad():
            torch.cat([backbone.network(batch) for batch in loader])

    return loop


def bare_loop(backbone: Backbone, count: int) -> Callable[[], None]:
    """Return a loop of only the prepared network, on normalised batches in its layout and precision."""
    cpu = torch.device("cpu")
    dtype = DTYPES[pick_precision("auto", cpu)]
    network = Embedder(backbone, cpu, dtype, (BATCH_SIZE, 224)).network
    batch = torch.randn(BATCH_SIZE, 3, 224, 224).to(dtype, memory_format=torch.channels_last)

    def compute(_: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            return network(batch)

    def loop() -> None:
        for _ in in_threads(iter(range(count)), compute, BATCH_SIZE, torch.get_num_threads()):
            pass

    return loop


def decoding_seconds(paths: Sequence[Path]) -> float:
    """Return the processor time that an image takes to read and decode; the least of three rounds."""
    config = ExtractionConfig(image_size=224)
    times = []
    for _ in range(3):
        begun = time.process_time()
        for path in paths:
            read_prepared(config, None, path)
        times.append((time.process_time() - begun) / len(paths))
    return min(times)


def compare_networks(backbone: Backbone, rounds: int) -> dict[str, float]:
    """Return milliseconds of processor time for each image, and the speed of ours relative to each way."""
    torch.set_num_threads(1)
    ways = networks(backbone)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begun = time.process_time()
            with torch.no_grad():
                way()
            if number:
                times[name].append(1000 * (time.process_time() - begun) / BATCH_SIZE)
    figures = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    return figures | {f"ours_over_{name}": median_ratio(times[name], times["ours"]) for name in times}


def networks(backbone: Backbone) -> dict[str, Callable[[], Tensor]]:
    """Return the ways in which torch computes the network in float32, each on a batch in memory."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    cpu, x = torch.device("cpu"), torch.randn(BATCH_SIZE, 3, 224, 224)
    last = x.to(memory_format=torch.channels_last)
    packed = Embedder(backbone, cpu, torch.float32, (BATCH_SIZE, 224)).network
    fused = Embedder(backbone, cpu, torch.float32).network
    compiled, compiled_last = torch.compile(copy.deepcopy(fused)), torch.compile(copy.deepcopy(fused))
    frozen = torch.jit.freeze(torch.jit.trace(copy.deepcopy(backbone.network), x))
    frozen = torch.jit.optimize_for_inference(frozen)
    return {
        "ours": lambda: packed(last),
        "unchanged": lambda: backbone.network(x),
        "channels_last": lambda: fused(last),
        "jit_frozen": lambda: frozen(x),
        "compiled": lambda: compiled(x),
        "compiled_channels_last": lambda: compiled_last(last),
    }


def worst_cosine(paths: Sequence[Path], backbone: Backbone) -> dict[str, float | int]:
    """Return the smallest cosine between an image's embeddings in our precision and in float32."""
    device = pick_device("auto")
    half = Embedder(backbone, device, DTYPES[pick_precision("auto", device)], (BATCH_SIZE, 224))
    whole = Embedder(backbone, device, torch.float32)
    worst = []
    for start in range(0, len(paths), BATCH_SIZE):
        images = [
            prepare(decode(path.read_bytes()), 224, 0, "none") for path in paths[start : start + BATCH_SIZE]
        ]
        pixels = torch.from_numpy(np.stack(images)).to(device)
        worst.append(torch.cosine_similarity(half(pixels).float(), whole(pixels).float()).min().item())
    return {"worst_cosine": min(worst), "cosine_images": len(paths)}


if __name__ == "__main__":
    main()
