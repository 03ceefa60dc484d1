"""`checkpoints_of`: which of the checkpoints that a user names belongs to which view of a bundle."""

from collections.abc import Sequence
from pathlib import Path

from mil_toolkit.bundle.records import BundleFeatures
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable

Checkpoints = Path | Sequence[Path] | None  # one for all views, one for each, or none


def checkpoints_of(weights: Checkpoints, views: Sequence[BundleFeatures]) -> list[Path | None]:
    """Return the checkpoint of each view's backbone, None where it is not needed or was not named.

    A single checkpoint is that of all views whose weights came from a file or, without such views, of all.
    Several are those of all views, or of the views whose weights came from a file, in order. Raises
    UsageError where they are as many as neither.
    """
    paths = [weights] if isinstance(weights, Path) else list(weights or [])
    if not paths:
        return [None] * len(views)
    from_file = [view.spec["weights"] == "file" for view in views]
    if len(paths) == 1:
        return [paths[0] if wanted or not any(from_file) else None for wanted in from_file]
    if len(paths) == len(views):
        return [*paths]
    if len(paths) == sum(from_file):
        remaining = iter(paths)
        return [next(remaining) if wanted else None for wanted in from_file]
    raise UsageError(
        f"--weights: expected one checkpoint, or one for each of the {len(views)} views in this order:"
        f" {_names(views)}{_names_from_file(views, from_file)}; got {len(paths)}."
    )


def _names(views: Sequence[BundleFeatures]) -> str:
    return ", ".join(printable(view.name) for view in views)


def _names_from_file(views: Sequence[BundleFeatures], from_file: Sequence[bool]) -> str:
    """Return the views that need a checkpoint, for the message, where these are several and not all."""
    needed = [view for view, wanted in zip(views, from_file, strict=True) if wanted]
    return f", or only for {_names(needed)}" if 1 < len(needed) < len(views) else ""
