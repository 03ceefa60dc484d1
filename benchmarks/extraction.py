"""Compare extraction with a plain torchvision loop and with the network alone, as ratios from one run.

    python benchmarks/extraction.py [--cohort COHORT.toml] [--backbone resnet34] [--weights random] [--json]

- ours: `mil_toolkit.extract` on image files: reading, decoding, embedding, publishing
- plain: a dataset of files, torchvision transforms, a DataLoader and the unmodified network, in float32
- bare: the network with folded batch normalisation, in the precision of ours, on batches in memory: no
  decoding, no writing

Each round times all three, and the medians of the rounds' ratios are printed, so that a temporary load on the
machine affects all of them. Without --cohort, random JPEG images are used.
"""

import argparse
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
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.core.devices import DTYPES, pick_device, pick_precision, use_available_cores
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.extract import BATCH_SIZE, extract
from mil_toolkit.features.pixels import prepare

PLAIN_BATCH_SIZE = 32


def main() -> None:
    """Measure, and print the figures."""
    arguments = _arguments()
    use_available_cores()
    backbone = build_backbone(arguments.backbone, arguments.weights)
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
    return {
        "images_per_second": statistics.median(ours),
        "plain_images_per_second": statistics.median(plains),
        "bare_images_per_second": statistics.median(bares),
        "speedup_plain": median_ratio(ours, plains),
        "fraction_bare": median_ratio(ours, bares),
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
    """Return a loop of only the folded network, on normalised batches in its memory layout and precision."""
    device = pick_device("auto")
    dtype = DTYPES[pick_precision("auto", device)]
    network = Embedder(backbone, device, dtype).network
    batch = torch.randn(BATCH_SIZE, 3, 224, 224).to(device, dtype, memory_format=torch.channels_last)

    def loop() -> None:
        with torch.inference_mode():
            for _ in range(count // BATCH_SIZE):
                network(batch).cpu()

    return loop


def worst_cosine(paths: Sequence[Path], backbone: Backbone) -> dict[str, float | int]:
    """Return the smallest cosine between an image's embeddings in our precision and in float32."""
    device = pick_device("auto")
    half = Embedder(backbone, device, DTYPES[pick_precision("auto", device)])
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
