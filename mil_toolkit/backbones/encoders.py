"""`ENCODERS`: the table of encoders that were trained on blood cells or tissue, one row an encoder.

The networks are models of timm; the weights come from their authors, on the Hugging Face hub or in a file. A
cell is None where the authors' pages do not state the value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mil_toolkit.backbones.identity import Triple
from mil_toolkit.config.extraction import SQUASHED, Sampling

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUB = "https://huggingface.co"
Output = Literal["class token", "class token and mean of patches"]
_CENTRE = Sampling(mode="centre")  # torchvision's Resize(S), CenterCrop(S)


@dataclass(frozen=True)
class Encoder:
    """A network and everything that it was trained with.

    model: name of its architecture in timm; options: with which that is built, beside the size of the images
    width: D of the embeddings
    repository, file: of the weights on the Hugging Face hub
    gated: whether the authors grant access on request
    licence: of the weights
    source: where the authors state how to load it and how to prepare images
    also: where else the weights are
    size: side of its images in pixels
    mean, std: per channel of the pixels divided by 255
    output: which output is the embedding
    microns_per_pixel: of the images that it was trained on; None also where there were several
    """

    model: str
    width: int
    repository: str
    file: str
    licence: str
    source: str
    options: Mapping[str, float] = field(default_factory=dict)
    gated: bool = False
    also: str | None = None
    size: int = 224
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    sampling: Sampling = SQUASHED
    output: Output = "class token"
    microns_per_pixel: float | None = None


def _dinobloom(size: str, model: str, width: int) -> Encoder:
    # dinov2/eval/models/return_model.py: Resize((224, 224)), ImageNet statistics, output of the class token.
    # The files of Zenodo hold {"teacher": {"backbone. ...", "dino_head. ..."}}, those of the hub the tensors.
    return Encoder(
        model,
        width,
        repository="MarrLab/DinoBloom",
        file=f"pytorch_model_{size.lower()}.bin",
        licence="Apache-2.0",
        source="https://github.com/marrlab/DinoBloom",
        also=f"https://zenodo.org/records/10908163/files/DinoBloom-{size}.pth",
    )


def _reddino(size: str, model: str, width: int) -> Encoder:
    # usage_example.ipynb: Resize((224, 224)), ImageNet statistics; huggingface/to_hub.ipynb: the class token.
    return Encoder(
        model,
        width,
        repository=f"Snarcy/RedDino-{size}",
        file="model.safetensors",
        licence="Apache-2.0",
        source="https://github.com/Snarci/RedDino",
    )


def _virchow(version: str, licence: str, registers: int) -> Encoder:
    # Loaded as in trident/patch_encoder_models/load.py of https://github.com/mahmoodlab/TRIDENT: SwiGLU,
    # Resize(224, bicubic), ImageNet statistics, class token beside the mean of the patches' tokens.
    return Encoder(
        "vit_giant_patch14_dinov2",
        2560,
        repository=f"paige-ai/{version}",
        file="pytorch_model.bin",
        licence=licence,
        source=f"https://huggingface.co/paige-ai/{version}",
        options={
            "embed_dim": 1280,
            "depth": 32,
            "num_heads": 16,
            "mlp_ratio": 5.3375,
            "reg_tokens": registers,
        },
        gated=True,
        sampling=Sampling("bicubic", "centre"),
        output="class token and mean of patches",
    )


ENCODERS: dict[str, Encoder] = {
    "dinobloom-s": _dinobloom("S", "vit_small_patch14_dinov2", 384),
    "dinobloom-b": _dinobloom("B", "vit_base_patch14_dinov2", 768),
    "dinobloom-l": _dinobloom("L", "vit_large_patch14_dinov2", 1024),
    "dinobloom-g": _dinobloom("G", "vit_giant_patch14_dinov2", 1536),
    "reddino-s": _reddino("small", "vit_small_patch14_dinov2", 384),
    "reddino-b": _reddino("base", "vit_base_patch14_dinov2", 768),
    "reddino-l": _reddino("large", "vit_large_patch14_dinov2", 1024),
    "uni": Encoder(  # README.md: Resize(224), CenterCrop(224), ImageNet statistics, init_values=1e-5
        "vit_large_patch16_224",
        1024,
        repository="MahmoodLab/UNI",
        file="pytorch_model.bin",
        licence="CC-BY-NC-ND-4.0",
        source="https://github.com/mahmoodlab/UNI",
        options={"init_values": 1e-5},
        gated=True,
        sampling=_CENTRE,
    ),
    "uni2-h": Encoder(  # README.md: as UNI, with SwiGLU and 8 register tokens
        "vit_giant_patch14_reg4_dinov2",
        1536,
        repository="MahmoodLab/UNI2-h",
        file="pytorch_model.bin",
        licence="CC-BY-NC-ND-4.0",
        source="https://github.com/mahmoodlab/UNI",
        options={"depth": 24, "reg_tokens": 8},
        gated=True,
        sampling=_CENTRE,
    ),
    "h-optimus-0": Encoder(  # the card expects tiles of 224 pixels; others are resized as for UNI
        "vit_giant_patch14_reg4_dinov2",
        1536,
        repository="bioptimus/H-optimus-0",
        file="pytorch_model.bin",
        licence="Apache-2.0",
        source="https://huggingface.co/bioptimus/H-optimus-0",
        gated=True,
        mean=(0.707223, 0.578729, 0.703617),
        std=(0.211883, 0.230117, 0.177517),
        sampling=_CENTRE,
        microns_per_pixel=0.5,
    ),
    "gigapath": Encoder(  # README.md: Resize(256, bicubic), CenterCrop(224), ImageNet statistics
        "vit_giant_patch14_dinov2",
        1536,
        repository="prov-gigapath/prov-gigapath",
        file="pytorch_model.bin",
        licence="Apache-2.0",
        source="https://github.com/prov-gigapath/prov-gigapath",
        options={"patch_size": 16},
        gated=True,
        sampling=Sampling("bicubic", "centre", 224 / 256),
    ),
    "virchow": _virchow("Virchow", "Apache-2.0", registers=0),
    "virchow2": _virchow("Virchow2", "CC-BY-NC-ND-4.0", registers=4),
    "phikon-v2": Encoder(  # tensors named as in transformers; Resize(224), CenterCrop(224) as in TRIDENT
        "vit_large_patch14_dinov2",
        1024,
        repository="owkin/phikon-v2",
        file="model.safetensors",
        licence="Owkin non-commercial licence",
        source="https://huggingface.co/owkin/phikon-v2",
        options={"patch_size": 16},
        sampling=_CENTRE,
    ),
}
