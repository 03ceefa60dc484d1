"""`Failures`: the images that an extraction could not embed, and the error that reports them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import count_of, each_or_most, printable
from mil_toolkit.features.plan import Wanted


class Failure(NamedTuple):
    """An image that cannot be embedded."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Failures:
    """The images that could not be embedded so far, by patient and image name."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str], Failure] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def add(self, patient_id: str, name: str, path: Path, reason: str) -> None:
        """Record an image."""
        self._failures[patient_id, name] = Failure(printable(path), reason)

    def without(self, wanted: Wanted) -> Wanted:
        """Return a patient's wanted images without those that failed."""
        images = (image for image in wanted.images if (wanted.patient_id, image[0]) not in self._failures)
        return wanted._replace(images=tuple(images))

    def lines(self) -> tuple[str, ...]:
        """Return one line for each image: its path and the reason."""
        return tuple(map(str, self._failures.values()))

    def error(self, wanted: Sequence[Wanted], folder: Path) -> DataError:
        """Return the error that ends an extraction of all wanted images into the cache in `folder`."""
        return DataError([*self._causes(wanted), self._advice(wanted, folder)])

    def plain_error(self, wanted: Sequence[Wanted]) -> DataError:
        """Return the error that ends an embedding of all wanted images without a cache."""
        advice = f"{count_of(len(self), 'image')} cannot be used. Repair or remove these images."
        return DataError([*self._causes(wanted), advice])

    def _causes(self, wanted: Sequence[Wanted]) -> list[str]:
        """Return one line for each image, or one line in all for a reason that most images share."""
        by_reason: dict[str, list[Failure]] = defaultdict(list)
        for failure in self._failures.values():
            by_reason[failure.reason].append(failure)
        images = sum(len(patient.images) for patient in wanted)
        lines: list[str] = []
        for reason, failures in by_reason.items():
            paths = [failure.path for failure in failures]
            summary = f"images cannot be used: {reason} They are"
            lines += each_or_most(paths, images, map(str, failures), summary)
        return lines

    def _advice(self, wanted: Sequence[Wanted], folder: Path) -> str:
        failed = {patient for patient, _ in self._failures}
        any_complete = any(patient.patient_id not in failed for patient in wanted)
        published = f" The other patients are in {printable(folder)}." if any_complete else ""
        any_left = any(self.without(patient).images for patient in wanted)
        skip = ", or leave them out with --on-error skip" if any_left else ""
        return (
            f"{count_of(len(self), 'image')} cannot be used.{published} Repair or remove these images{skip}."
        )
