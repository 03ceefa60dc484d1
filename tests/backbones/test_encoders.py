"""One contract for every row of the table of encoders."""

from dataclasses import replace

import pytest
import torch
from support.paths import ROOT

from mil_toolkit.backbones.encoder_models import encoder_architecture
from mil_toolkit.backbones.encoders import ENCODERS, HUB, IMAGENET_MEAN, IMAGENET_STD
from mil_toolkit.backbones.requests import NAMES, backbone_kind, encoder_of, encoder_scale, weights_word
from mil_toolkit.config.extraction import BACKBONE_NAMES, INTERPOLATION_NAMES
from mil_toolkit.core.errors import UsageError

WIDTHS = {
    "dinobloom-s": 384,
    "dinobloom-b": 768,
    "dinobloom-l": 1024,
    "dinobloom-g": 1536,
    "reddino-s": 384,
    "reddino-b": 768,
    "reddino-l": 1024,
    "uni": 1024,
    "uni2-h": 1536,
    "h-optimus-0": 1536,
    "gigapath": 1536,
    "virchow": 2560,
    "virchow2": 2560,
    "phikon-v2": 1024,
}
# Numbers of tensors' values that the authors state, in millions.
PARAMETERS = {
    "dinobloom-s": 22,
    "dinobloom-b": 86,
    "dinobloom-l": 304,
    "dinobloom-g": 1136,
    "uni2-h": 681,
    "h-optimus-0": 1135,
    "virchow": 631,
    "virchow2": 631,
}


def test_the_widths_are_those_that_the_authors_state() -> None:
    assert {name: encoder.width for name, encoder in ENCODERS.items()} == WIDTHS


@pytest.mark.parametrize("name", ENCODERS)
def test_contract(name: str) -> None:
    """Built without memory, the network has the stated width, size and number of values."""
    pytest.importorskip("timm")
    encoder = ENCODERS[name]
    with torch.device("meta"):
        architecture = encoder_architecture(name, encoder)
        shape = architecture.network(torch.zeros(2, 3, encoder.size, encoder.size)).shape
    assert shape == (2, encoder.width)
    count = sum(parameter.numel() for parameter in architecture.network.parameters()) / 1e6
    assert abs(count - PARAMETERS.get(name, count)) <= 0.01 * count + 0.5
    assert architecture.side == encoder.size and architecture.sampling == encoder.sampling
    assert (architecture.mean, architecture.std) == (encoder.mean, encoder.std)
    assert encoder.sampling.interpolation in INTERPOLATION_NAMES and 0.5 < encoder.sampling.crop_pct <= 1
    assert encoder.source.startswith("https://") and encoder.licence
    assert name in NAMES and backbone_kind(name) == name
    assert (weights_word(name, "imagenet"), weights_word(name, "pretrained")) == ("pretrained", "pretrained")


def test_a_repository_of_the_table_is_its_encoder() -> None:
    for name, encoder in ENCODERS.items():
        if not name.startswith("dinobloom"):
            found = encoder_of(f"timm:hf-hub:{encoder.repository.lower()}@main")
            assert found == replace(encoder, repository=f"{encoder.repository.lower()}@main")
    assert encoder_of("timm:hf-hub:org/name") is encoder_of("timm:resnet18") is None
    with pytest.raises(UsageError, match=r"several encoders\. Choose dinobloom-s, dinobloom-b"):
        encoder_of("timm:hf-hub:MarrLab/DinoBloom")


def test_the_scale_is_the_published_one_and_an_error_where_there_is_none() -> None:
    assert encoder_scale("h-optimus-0") == encoder_scale("timm:hf-hub:bioptimus/H-optimus-0") == 0.5
    for name in ("dinobloom-s", "resnet34", "timm:vit_tiny_patch16_224", "timm:hf-hub:org/name"):
        with pytest.raises(UsageError, match=rf"that {name} was trained at .* known of h-optimus-0 \(0\.5\)"):
            encoder_scale(name)
    with pytest.raises(UsageError, match="'resnet' is not one of resnet18"):
        encoder_scale("resnet")


def test_the_names_are_the_networks_the_hub_and_the_table() -> None:
    assert (*BACKBONE_NAMES, "timm:hf-hub:ORG/NAME", *ENCODERS) == NAMES


def test_an_encoder_is_not_built_for_a_size_that_its_patches_do_not_divide() -> None:
    pytest.importorskip("timm")
    with (
        torch.device("meta"),
        pytest.raises(UsageError, match="Use --image-size 224 or another multiple of 14"),
    ):
        encoder_architecture("dinobloom-s", ENCODERS["dinobloom-s"], 230)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dinobloom", "is not one of resnet18"),
        ("dinobloom-S", "is not one of resnet18"),
        ("timm:hf-hub:", "expected timm:hf-hub:ORG/NAME"),
        ("timm:hf-hub:only-a-name", "expected timm:hf-hub:ORG/NAME"),
        ("timm:hf-hub:../../etc/passwd", "expected timm:hf-hub:ORG/NAME"),
        ("timm:hf_hub:org/name", "write timm:hf-hub:org/name"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        backbone_kind(name)


def table_row(name: str) -> str:
    """The row of an encoder in docs/reference/encoders.md."""
    encoder = ENCODERS[name]
    sampling = encoder.sampling
    kept = "" if sampling.crop_pct == 1 else f" {sampling.crop_pct:g}"
    stats = (encoder.mean, encoder.std)
    cells = (
        f"`{name}`",
        f"`{encoder.model}`",
        "ImageNet" if stats == (IMAGENET_MEAN, IMAGENET_STD) else f"{encoder.mean}, {encoder.std}",
        f"{sampling.interpolation}, {'whole' if sampling.mode == 'squash' else 'centre'}{kept}",
        "class" if encoder.output == "class token" else "class + mean",
        str(encoder.width),
        "" if encoder.microns_per_pixel is None else f"{encoder.microns_per_pixel:g}",
        encoder.licence + (", gated" if encoder.gated else ""),
        f"[{encoder.file}]({HUB}/{encoder.repository})"
        + (f", [Zenodo]({encoder.also})" if encoder.also else ""),
        f"[source]({encoder.source})",
    )
    return f"| {' | '.join(cells)} |"


def test_the_documentation_has_the_table() -> None:
    text = (ROOT / "docs" / "reference" / "encoders.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `") and "[source]" in line]
    assert rows == [table_row(name) for name in ENCODERS]
    assert {encoder.size for encoder in ENCODERS.values()} == {224}
