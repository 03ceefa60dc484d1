"""`ImageFiles`: the image files behind a cache's embeddings, as pixels, as long as they have not changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mil_toolkit.backbones.spec import sampling_of
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.files import digest
from mil_toolkit.core.text import printable
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.decoding import decode_noting
from mil_toolkit.features.kept_pixels import KeptPixels
from mil_toolkit.features.loading import load_batches, stack_on
from mil_toolkit.features.opening import read_image_file
from mil_toolkit.features.orientations import symmetries_of
from mil_toolkit.features.pixels import prepare
from mil_toolkit.features.scale import to_scale
from mil_toolkit.features.spec import augmented, scale_of
from mil_toolkit.features.stain import Pixels

_ADVICE = "Run mil-extract and mil-tune again, or restore the images that they were run on."


class ImageFile(NamedTuple):
    """An image's file, and the SHA-256 of the content that was embedded.

    microns_per_pixel: of the file, if the image was resampled
    """

    path: Path
    digest: bytes
    microns_per_pixel: float | None = None


class ImageFiles:
    """The files of the images of a cohort's patients whose embeddings are in a cache.

    kept: keeps pixels, since training reads each image in every epoch

    Raises DataError that names every image that only the cohort or only the cache has.
    """

    def __init__(self, cohort: Cohort, cache: FeatureCache):
        self.cohort, self.spec, self.kept = cohort, cache.spec, KeptPixels()
        self._files: dict[str, list[ImageFile]] = {}
        problems: list[str] = []
        for patient, bag in zip(cohort.patient_ids, cache.winners(cohort.patient_ids), strict=True):
            paths = dict(zip(cohort.image_names[patient], cohort.images[patient], strict=True))
            images = bag.read_images()
            problems += _differences(patient, set(paths), {image.name for image in images})
            known = [image for image in images if image.name in paths]
            self._files[patient] = [
                ImageFile(paths[image.name], image.digest, bag.microns_per_pixel) for image in known
            ]
        _refuse(problems)

    def of(self, patient_ids: Sequence[str]) -> list[ImageFile]:
        """Return the files of these patients, in the order of their embeddings."""
        return [file for patient in patient_ids for file in self._files[patient]]

    def check(self) -> None:
        """Raise DataError that names every image that appeared or vanished since the cohort was read."""
        now = read_cohort(self.cohort.source, log=False).image_names
        problems: list[str] = []
        for patient in self.cohort.patient_ids:
            before = set(self.cohort.image_names[patient])
            problems += _differences(patient, set(now.get(patient, ())), before)
        _refuse(problems)

    def chunks(self, files: Sequence[ImageFile], size: int, device: torch.device) -> Iterator[Tensor]:
        """Yield the files' pixels (n, S, S, 3) uint8 on the device, `size` images at a time.

        Raises DataError if a file has vanished, has changed or cannot be decoded.
        """
        for chunk in load_batches(iter(files), self._read, size, available_cores(), device):
            yield stack_on(device, chunk)

    def symmetries(self, file: ImageFile) -> tuple[int, ...]:
        """Return the orientations in which an image was embedded."""
        return symmetries_of(file.digest, augmented(self.spec))

    def _read(self, file: ImageFile) -> Pixels:
        pixels = self.kept.get(file.path)
        return self._decoded(file) if pixels is None else pixels

    def _decoded(self, file: ImageFile) -> Pixels:
        try:
            content, status = read_image_file(file.path)
        except FileNotFoundError as error:
            raise DataError([f"{printable(file.path)} has vanished ({error.strerror}).", _ADVICE]) from None
        if digest(content) != file.digest.hex():
            raise DataError([f"{printable(file.path)} has changed since it was embedded.", _ADVICE])
        spec = self.spec
        try:
            image = decode_noting(content, spec.get("colour")).image
        except DataError as error:  # an earlier version embedded some damaged images
            raise DataError([f"{printable(file.path)}: {error}", _ADVICE]) from None
        image = to_scale(image, file.microns_per_pixel, scale_of(spec))
        pixels = prepare(image, spec["image_size"], spec["crop"], spec["preprocess"], sampling_of(spec))
        self.kept.keep(file.path, status, pixels)
        return pixels


def _differences(patient: str, current: set[str], expected: set[str]) -> list[str]:
    """Return one line for each image name that only one of the two sets has."""
    place = f"patient {printable(patient)}: image"
    appeared = [f"{place} {printable(name)} has appeared." for name in sorted(current - expected)]
    return appeared + [f"{place} {printable(name)} has vanished." for name in sorted(expected - current)]


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise DataError([*problems, _ADVICE])
