"""The configuration of an extraction: everything that changes an embedding."""

from dataclasses import dataclass
from typing import Literal

CELL_NAMES = ("cell-crop", "cell-mask")
"""The preprocessing that searches each image for a nucleus and shows a window around it."""

BACKBONE_NAMES = ("resnet18", "resnet34", "resnet50", "efficientnet_lite0", "timm:NAME")

WEIGHT_WORDS = ("imagenet", "pretrained", "random")
"""Values of --weights that do not name a file; the first two mean the weights that the authors published."""

INTERPOLATION_NAMES = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

PREPROCESS_NAMES = ("none", "saturation-mask", "reinhard", *CELL_NAMES)

STAIN_TARGETS = {"reinhard": "drawn-smears-1"}
"""The target of the stain normalisation, by preprocessing. Another target needs another name."""

PRECISION_NAMES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Sampling:
    """How an image is resized to the square that a network sees.

    interpolation: a name in INTERPOLATION_NAMES; shrinking averages pixels with any of them but `nearest`
    mode: `squash` resizes the whole image to a square and ignores its aspect ratio; `centre` resizes the
        shorter side and keeps the central square
    crop_pct: side of what is kept, as a share of that of the resized image, as in the configurations of timm
    """

    interpolation: str = "bilinear"
    mode: Literal["squash", "centre"] = "squash"
    crop_pct: float = 1.0


SQUASHED = Sampling()
"""The whole image, resized bilinearly."""


@dataclass(frozen=True)
class ExtractionConfig:
    """The user's part of a cache's spec: everything that changes an embedding.

    weights: `imagenet` or `pretrained` (the published weights), `random` or the path of a checkpoint
    image_size: side in pixels of the image that the backbone gets; None for the size that it was made for
    crop: side in pixels of the part that is shown: the centre, or a window around the nucleus if `preprocess`
        is one of CELL_NAMES; 0 for the whole image, or the central square if `sampling` is `centre`
    crop_um: that side in micrometres; the cohort's resolution then determines `crop`
    scale: micrometres per pixel to which images are resampled before they are cropped; None: as they are
    sampling: None for that of the backbone
    augment: number of other orientations in which each image is embedded besides, 0 to 7
    """

    backbone: str = "resnet34"
    weights: str = "imagenet"
    image_size: int | None = None
    crop: int = 0
    preprocess: str = "none"
    crop_um: float | None = None
    scale: float | None = None
    sampling: Sampling | None = None
    augment: int = 0

    @property
    def side(self) -> int:
        """The side of the images, once it is decided."""
        assert self.image_size is not None
        return self.image_size
