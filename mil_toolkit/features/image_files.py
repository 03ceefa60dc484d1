"""`ImageFiles`: the images that a cache was made of, as pixels; what is no longer the same is told."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.core.devices import available_cores
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest, shown
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.pixels import Pixels, decode, load_all, prepare

_ADVICE = "Run mil-extract and mil-tune again, or put back the images that they were run on."


class ImageFile(NamedTuple):
    """An image's file, and the SHA-256 of the content that was embedded."""

    path: Path
    digest: bytes


class ImageFiles:
    """The files of the images that a cache holds of a cohort's patients.

    Raises DataError with every image that only the cohort or only the cache has.
    """

    def __init__(self, cohort: Cohort, cache: FeatureCache):
        self.cohort, self.spec = cohort, cache.spec
        self._files: dict[str, list[ImageFile]] = {}
        problems: list[str] = []
        for patient, bag in zip(cohort.patient_ids, cache.winners(cohort.patient_ids), strict=True):
            paths = dict(zip(cohort.image_names[patient], cohort.images[patient], strict=True))
            problems += _differences(patient, set(paths), set(bag.image_names))
            known = [image for image in bag.images if image.name in paths]
            self._files[patient] = [ImageFile(paths[image.name], image.digest) for image in known]
        _refuse(problems)

    def of(self, patient_ids: Sequence[str]) -> list[ImageFile]:
        """The files of these patients, in the order of their embeddings."""
        return [file for patient in patient_ids for file in self._files[patient]]

    def check(self) -> None:
        """Raise DataError with every image that has appeared or vanished since the cohort was read."""
        now = read_cohort(self.cohort.source).image_names
        problems: list[str] = []
        for patient in self.cohort.patient_ids:
            before = set(self.cohort.image_names[patient])
            problems += _differences(patient, set(now.get(patient, ())), before)
        _refuse(problems)

    def chunks(self, files: Sequence[ImageFile], size: int, device: torch.device) -> Iterator[Tensor]:
        """Pixels (n, S, S, 3) uint8 on the device, `size` images at a time.

        Raises DataError where a file has vanished, changed or cannot be decoded.
        """
        # On the CPU, threads that decode while the network computes would take its cores.
        ahead = device.type == "cuda"
        window = size * (2 if ahead else 1)
        pixels = load_all(iter(files), self._read, available_cores(), window, ahead)
        while chunk := list(islice(pixels, size)):
            stacked = torch.from_numpy(np.stack(chunk))
            yield stacked.pin_memory().to(device, non_blocking=True) if ahead else stacked

    def _read(self, file: ImageFile) -> Pixels:
        try:
            content = file.path.read_bytes()
        except OSError as error:
            raise DataError([f"{shown(file.path)} has vanished ({error.strerror}).", _ADVICE]) from None
        if digest(content) != file.digest.hex():
            raise DataError([f"{shown(file.path)} has changed since it was embedded.", _ADVICE])
        spec = self.spec
        return prepare(decode(content), spec["image_size"], spec["crop"], spec["preprocess"])


def _differences(patient: str, found: set[str], expected: set[str]) -> list[str]:
    appeared = [f"patient {patient}: image {shown(name)} has appeared." for name in sorted(found - expected)]
    return appeared + [
        f"patient {patient}: image {shown(name)} has vanished." for name in sorted(expected - found)
    ]


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise DataError([*problems, _ADVICE])
