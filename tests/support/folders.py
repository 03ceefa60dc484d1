"""What a folder holds."""

from pathlib import Path


def names(folder: Path) -> set[str]:
    """Return the names of the entries of a folder."""
    return {path.name for path in folder.iterdir()}
