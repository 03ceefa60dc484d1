"""`embed_in_memory`: embeddings of a few patients' images that are not stored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mil_toolkit.backbones.backbones import Backbone
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.devices import architecture, pick_extraction_device, pick_precision
from mil_toolkit.core.launchers import own_cores
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.batch_sizes import default_batch_size
from mil_toolkit.features.colour import Colour
from mil_toolkit.features.extract import check_crop, check_options
from mil_toolkit.features.opening import DECODER
from mil_toolkit.features.pipeline import BatchEmbedder, Pipeline
from mil_toolkit.features.plan import Plan, wanted_images
from mil_toolkit.features.resolution import in_pixels
from mil_toolkit.features.shards import EmbeddedBag, Recorded
from mil_toolkit.features.spec import for_backbone
from mil_toolkit.features.stored_orientations import HeldOrientations


@dataclass(frozen=True)
class Embedded:
    """Bags in memory.

    digests: SHA-256 of each patient's image files; recorded: how the embeddings were computed
    """

    bags: Bags
    digests: tuple[frozenset[bytes], ...]
    recorded: str


def embed_in_memory(
    cohort: Cohort,
    config: ExtractionConfig,
    backbone: Backbone,
    colour: Colour | None,
    device: str = "auto",
    batch_size: int | None = None,
) -> Embedded:
    """Embed the images of all patients of a small cohort as `extract` does, to the same bits; store nothing.

    colour: `srgb` to apply colour profiles, None to ignore them

    Raises DataError that names every image that cannot be read; UsageError for options that cannot work.
    """
    check_options(config, batch_size, None, None, "fail")
    config = for_backbone(in_pixels(config, cohort), backbone.identity.preprocessing)
    wanted = [wanted_images(cohort, patient, config.scale is not None) for patient in cohort.patient_ids]
    if config.crop:
        check_crop(config.crop, wanted, config.scale)
    place = pick_extraction_device(device)
    recorded = Recorded(pick_precision("auto", place), DECODER, architecture(place))
    size = batch_size or default_batch_size(place)
    embed = BatchEmbedder(backbone, place, recorded.precision, size, config.side)
    readers = torch.get_num_threads() if place.type == "cpu" else own_cores()
    pipeline = Pipeline.of(config, colour, embed, readers)
    plans = [Plan(patient, [None] * len(patient.images)) for patient in wanted]
    bags = _finished(pipeline, plans)
    pipeline.notes.log(sum(len(patient.images) for patient in wanted))
    if pipeline.failures:
        raise pipeline.failures.plain_error(wanted)
    ordered = [bags[patient] for patient in cohort.patient_ids]
    digests = tuple(frozenset(image.digest for image in bag.images) for bag in ordered)
    return Embedded(_packed(ordered), digests, str(recorded))


def _finished(pipeline: Pipeline, plans: Sequence[Plan]) -> dict[str, EmbeddedBag]:
    """Return the bags with any readable image, by patient."""
    pipeline.embed.prepare()
    images = sum(len(plan.missing) for plan in plans)
    with (
        explain_out_of_memory(f"Use a --batch-size below {pipeline.embed.batch_size}."),
        ProgressBar(images, "image", "embedding") as bar,
    ):
        bags = (builder.bag() for builder in pipeline.finish_bags(plans, bar.update))
        return {bag.patient_id: bag for bag in bags if bag is not None}


def _packed(bags: Sequence[EmbeddedBag]) -> Bags:
    packed = Bags.pack(
        [torch.from_numpy(bag.embeddings) for bag in bags],
        [bag.patient_id for bag in bags],
        [image.name for bag in bags for image in bag.images],
    )
    stacks = [
        np.concatenate([bag.embeddings[:, None], bag.augmented], 1)
        for bag in bags
        if bag.augmented is not None
    ]
    if not stacks:
        return packed
    orientations = HeldOrientations(torch.from_numpy(np.concatenate(stacks)))
    return Bags(packed.instances, packed.offsets, packed.patient_ids, packed.image_names, orientations)
