"""Which backbone is asked for, without torch, which only building it needs."""

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mil_toolkit.backbones.checkpoint_kinds import check_file
from mil_toolkit.backbones.encoders import ENCODERS, Encoder
from mil_toolkit.backbones.identity import BackboneIdentity
from mil_toolkit.backbones.spec import BackboneSpec, SizedBackboneSpec, sampling_of
from mil_toolkit.config.extraction import BACKBONE_NAMES, WEIGHT_WORDS
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.text import some

HUB_PREFIX = "timm:hf-hub:"
HUB_NAME = f"{HUB_PREFIX}ORG/NAME"
NAMES = (*BACKBONE_NAMES, HUB_NAME, *ENCODERS)
"""The values of --backbone."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
_OTHER_PREFIX = "timm:hf_hub:"


def backbone_kind(name: str, known: Collection[str] = NAMES) -> str:
    """Return which of the known kinds of backbones has this name; raises UsageError if none has."""
    if name.startswith(_OTHER_PREFIX):
        raise UsageError(f"--backbone {name!r}: write {HUB_PREFIX}{name.removeprefix(_OTHER_PREFIX)}.")
    if name.startswith(HUB_PREFIX):
        _check_repository(name)
        return HUB_NAME
    kind = "timm:NAME" if name.startswith("timm:") else name
    if kind not in known:
        raise UsageError(f"--backbone {name!r} is not one of {', '.join(known)}.")
    return kind


def _check_repository(name: str) -> None:
    if not _REPOSITORY.fullmatch(name.removeprefix(HUB_PREFIX)):
        raise UsageError(
            f"--backbone {name!r}: expected {HUB_NAME}, the owner and the name of a repository of the Hugging"
            " Face hub, such as timm:hf-hub:timm/resnet18.a1_in1k."
        )


def encoder_of(name: str) -> Encoder | None:
    """Return the row of the table that a backbone's name, or its repository on the hub, stands for.

    Raises UsageError for a repository that holds several encoders.
    """
    if name in ENCODERS or not name.startswith(HUB_PREFIX):
        return ENCODERS.get(name)
    repository = name.removeprefix(HUB_PREFIX)
    wanted = repository.partition("@")[0].casefold()
    rows = [row for row, encoder in ENCODERS.items() if encoder.repository.casefold() == wanted]
    if len(rows) > 1:
        raise UsageError(f"--backbone {name}: the repository holds several encoders. Choose {some(rows)}.")
    return replace(ENCODERS[rows[0]], repository=repository) if rows else None


def encoder_scale(name: str) -> float:
    """Return the micrometres per pixel of the images that an encoder was trained on.

    Raises UsageError for an unknown backbone, and for one whose authors do not publish a single number.
    """
    backbone_kind(name)
    encoder = encoder_of(name)
    if encoder is not None and encoder.microns_per_pixel is not None:
        return encoder.microns_per_pixel
    known = (f"{row} ({of.microns_per_pixel:g})" for row, of in ENCODERS.items() if of.microns_per_pixel)
    raise UsageError(
        f"--scale encoder: the micrometres per pixel that {name} was trained at are not known. Give a number,"
        f" such as --scale 0.25. They are known of {', '.join(known)}."
    )


def check_backbone(name: str, weights: str) -> None:
    """Raise UsageError for an unknown backbone, and unless `weights` is a word or a checkpoint."""
    backbone_kind(name)
    if weights not in WEIGHT_WORDS:
        check_file(Path(weights))


def weights_word(name: str, weights: str) -> str:
    """Return how the spec of a cache names the weights: `imagenet`, `pretrained`, `random` or `file`.

    The published weights are `imagenet` for the networks that were trained on photographs and for all models
    of timm, whatever the user called them.
    """
    if weights not in WEIGHT_WORDS:
        return "file"
    if weights == "random":
        return weights
    return "pretrained" if name in ENCODERS or name.startswith(HUB_PREFIX) else "imagenet"


def check_available(spec: BackboneSpec, given: bool) -> None:
    """Raise UsageError if the backbone of a cache cannot be built.

    given: whether its weights are at hand, from a file or from a fine-tuned model
    """
    if spec["weight_digest"] is None:
        raise UsageError(
            f"These features were imported ({spec['backbone']}, {spec['weights']}): only the tool that made"
            " them has the backbone. Embed the images with that tool, run mil-cache import, and name the"
            " resulting folder with --features."
        )
    if not given and spec["backbone"].startswith(HUB_PREFIX):
        raise UsageError(
            f"The backbone is {spec['backbone']}, and no repository that a file names is downloaded. Download"
            " its config.json and its weights into one folder, and name the weights with --weights PATH."
        )
    if not given and spec["weights"] == "file":
        raise UsageError(
            "The weights of the backbone came from a file: name it with --weights PATH. The digest of its"
            f" tensors begins with {spec['weight_digest'][:8]}."
        )


def identity_of(spec: SizedBackboneSpec) -> BackboneIdentity:
    """Return the backbone that a spec records; the spec must not be that of imported features."""
    digest, mean, std = spec["weight_digest"], spec["mean"], spec["std"]
    assert digest is not None and mean is not None and std is not None
    (red, green, blue), (red_std, green_std, blue_std) = mean, std
    channels = (red, green, blue), (red_std, green_std, blue_std)
    return BackboneIdentity(digest, spec["width"], *channels, spec["image_size"], sampling_of(spec))


def check_identity(identity: BackboneIdentity, spec: BackboneSpec) -> None:
    """Raise DataError that names every value in which a backbone differs from the spec of a cache."""
    compared = (
        ("weight_digest", identity.weight_digest, spec["weight_digest"]),
        ("width", identity.width, spec["width"]),
        ("mean", list(identity.mean), spec["mean"]),
        ("std", list(identity.std), spec["std"]),
    )
    problems = [
        f"{name}: {actual!r} instead of {expected!r}."
        for name, actual, expected in compared
        if actual != expected
    ]
    if problems:
        raise DataError([f"This {spec['backbone']} is not the network that made the features:", *problems])
