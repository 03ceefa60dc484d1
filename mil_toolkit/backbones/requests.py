"""Checks of which backbone is asked for, without torch, which only building it needs."""

from collections.abc import Collection
from pathlib import Path

from mil_toolkit.backbones.checkpoint_kinds import check_file
from mil_toolkit.backbones.identity import BackboneIdentity
from mil_toolkit.backbones.spec import BackboneSpec
from mil_toolkit.config import BACKBONE_NAMES
from mil_toolkit.core.errors import DataError, UsageError


def backbone_kind(name: str, known: Collection[str] = BACKBONE_NAMES) -> str:
    """Return which of the known kinds of backbones has this name; raises UsageError if none has."""
    kind = "timm:NAME" if name.startswith("timm:") else name
    if kind not in known:
        raise UsageError(f"--backbone {name!r} is not one of {', '.join(known)}.")
    return kind


def check_backbone(name: str, weights: str) -> None:
    """Raise UsageError for an unknown backbone, and unless `weights` is imagenet, random or a checkpoint."""
    backbone_kind(name)
    if weights not in ("imagenet", "random"):
        check_file(Path(weights))


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
    if not given and spec["weights"] == "file":
        raise UsageError(
            "The weights of the backbone came from a file: name it with --weights PATH. The digest of its"
            f" tensors begins with {spec['weight_digest'][:8]}."
        )


def identity_of(spec: BackboneSpec) -> BackboneIdentity:
    """Return the backbone that a spec records; the spec must not be that of imported features."""
    digest, mean, std = spec["weight_digest"], spec["mean"], spec["std"]
    assert digest is not None and mean is not None and std is not None
    (red, green, blue), (red_std, green_std, blue_std) = mean, std
    return BackboneIdentity(digest, spec["width"], (red, green, blue), (red_std, green_std, blue_std))


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
