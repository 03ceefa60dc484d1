"""`BackboneSource`: a backbone that is known before it is built, so that it is only built when needed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.backbones.identity import BackboneIdentity
from mil_toolkit.backbones.memory import BackboneMemory
from mil_toolkit.backbones.requests import check_identity, identity_of
from mil_toolkit.backbones.spec import SizedBackboneSpec

if TYPE_CHECKING:
    from mil_toolkit.backbones.backbones import Backbone


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class BackboneSource:
    """A backbone.

    identity: what the spec of a cache records of it
    build: returns the network; raises as `build_backbone` does
    remember: keeps the identity for the next run, once there is a cache
    """

    identity: BackboneIdentity
    build: Callable[[], "Backbone"]
    remember: Callable[[], None] = nothing

    def built(self) -> "BackboneSource":
        """Return the backbone after it was built; raises as `build` does."""
        backbone = self.build()
        return replace(self, build=lambda: backbone)


class MisrememberedError(Exception):
    """A backbone is not the one that was remembered, but `source`."""

    def __init__(self, source: BackboneSource):
        super().__init__()
        self.source = source


def source_of(backbone: "Backbone") -> BackboneSource:
    """Return a backbone that is built already."""
    return BackboneSource(backbone.identity, lambda: backbone)


def find_backbone(name: str, weights: str, image_size: int | None, memory: BackboneMemory) -> BackboneSource:
    """Return the backbone of this name and weights; it is built now unless the memory knows it.

    image_size: None for the size that the network was made for

    A network that turns out to be another one than was remembered makes `build` raise MisrememberedError, so
    that the memory never decides what is written.
    """
    identity = memory.find(name, weights, image_size)
    if identity is None:
        return _built(name, weights, image_size, memory)
    return BackboneSource(identity, partial(_build_as, identity, name, weights, image_size, memory))


def find_backbone_of(spec: SizedBackboneSpec, weights: Path, memory: BackboneMemory) -> BackboneSource:
    """Return the backbone of a cache from the checkpoint `weights`.

    Raises DataError, at the latest when it is built, if it is not the network that the spec records.
    """
    source = find_backbone(spec["backbone"], str(weights), spec["image_size"], memory)
    recorded = identity_of(spec)
    if not source.identity.is_same_network(recorded):
        source = source_of(_build_checked(source, spec))  # since the memory may be wrong
        return replace(source, identity=recorded)
    return replace(source, identity=recorded, build=partial(_build_checked, source, spec))


def _build_checked(source: BackboneSource, spec: SizedBackboneSpec) -> "Backbone":
    try:
        backbone = source.build()
    except MisrememberedError as error:
        backbone = error.source.build()
    check_identity(backbone.identity, spec)
    return backbone


def _built(name: str, weights: str, image_size: int | None, memory: BackboneMemory) -> BackboneSource:
    """Build a backbone now."""
    from mil_toolkit.backbones.backbones import build_backbone  # imports torch

    begun_ns = time.time_ns()
    backbone = build_backbone(name, weights, image_size)
    identity, files = backbone.identity, backbone.files
    remember = partial(memory.remember, name, weights, image_size, identity, files, begun_ns)
    return BackboneSource(identity, lambda: backbone, remember)


def _build_as(
    identity: BackboneIdentity, name: str, weights: str, image_size: int | None, memory: BackboneMemory
) -> "Backbone":
    """Build a backbone, and compare it with what was remembered."""
    source = _built(name, weights, image_size, memory)
    if source.identity != identity:
        raise MisrememberedError(source)
    return source.build()
