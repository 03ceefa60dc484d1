"""`Reading`: what was taken off, left out and resampled when a checkpoint was read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mil_toolkit.core.text import count_of, printable, some


@dataclass(frozen=True)
class Reading:
    """How the tensors of a checkpoint became those of a network; JSON-compatible with `asdict`.

    wrappers: keys under which the tensors were, from the outermost
    prefix: that was taken off the names
    dropped: first parts of the names of tensors that are not part of the network, with their number
    resampled: names of tensors that were resampled for the size of the images
    """

    wrappers: tuple[str, ...] = ()
    prefix: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    resampled: tuple[str, ...] = ()

    @property
    def says(self) -> str:
        """A description of the changes; empty if the tensors were used as they are."""
        parts = []
        if self.wrappers:
            parts.append(f"read the tensors under {printable('/'.join(self.wrappers))}")
        if self.prefix:
            parts.append(f"took the prefix {printable(self.prefix)} off their names")
        if self.dropped:
            listed = [f"{printable(name)} ({count_of(n, 'tensor')})" for name, n in self.dropped.items()]
            parts.append(f"left out {some(listed)}")
        if self.resampled:
            parts.append(f"resampled {some([*map(printable, self.resampled)])} for the size of the images")
        return "; ".join(parts)
