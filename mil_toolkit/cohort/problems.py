"""`Problems` collects everything that is wrong with a cohort, so that one error reports it all."""

from collections.abc import Iterable

from mil_toolkit.core.errors import DataError, MilError, UsageError


class Problems:
    """The problems of a cohort, one line each, in the order in which they were noticed.

    Every function that reads a part of a cohort takes the same `Problems`, adds to it and continues with what
    it could read.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._refused = False  # whether permission to read is missing, and nobody knows what else is wrong

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, text: str, place: str = "") -> None:
        """Add one problem; `place` names the section, row or patient that has it."""
        self.lines.append(f"{place}: {text}" if place else text)

    def extend(self, texts: Iterable[str]) -> None:
        """Add several problems."""
        self.lines.extend(texts)

    def add_error(self, error: MilError) -> None:
        """Add a file or folder that cannot be read; of a UsageError, permission to read it is missing."""
        self.add(str(error))
        self._refused |= isinstance(error, UsageError)

    def raise_if_any(self) -> None:
        """Raise an error with all problems, if there are any: UsageError if permission to read is missing."""
        if self._refused:
            raise UsageError("\n".join(self.lines))
        if self.lines:
            raise DataError(self.lines)
