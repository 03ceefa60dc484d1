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
    Raises UsageError where several checkpoints are not as many as the views.
    """
    paths = [weights] if isinstance(weights, Path) else list(weights or [])
    if not paths:
        return [None] * len(views)
    if len(paths) == 1:
        from_file = [view.spec["weights"] == "file" for view in views]
        return [paths[0] if wanted or not any(from_file) else None for wanted in from_file]
    if len(paths) != len(views):
        names = ", ".join(printable(view.name) for view in views)
        raise UsageError(
            f"--weights: expected one checkpoint, or one for each of the {len(views)} views in this order:"
            f" {names}; got {len(paths)}."
        )
    return [*paths]
