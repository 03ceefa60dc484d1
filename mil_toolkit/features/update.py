"""`CacheUpdate`: embed and publish until a cache matches the cohort's images."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.run_log import stage
from mil_toolkit.core.text import printable
from mil_toolkit.features.assembly import BagBuilder
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.pipeline import Pipeline
from mil_toolkit.features.plan import Outdated, Plan, Wanted, find_outdated
from mil_toolkit.features.publishing import Background, ShardLimits, publish_in_shards
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.shards import EmbeddedBag, Recorded

SHARD_LIMITS = ShardLimits(patients=64, images=1024, seconds=30.0)
ROUNDS = 3


@dataclass(frozen=True)
class CacheUpdate:
    """Brings a cache up to date.

    recorded: how `pipeline` computes embeddings
    skip: whether bags are published without the images that cannot be embedded
    """

    cache: FeatureCache
    recorded: Recorded
    pipeline: Pipeline
    skip: bool

    def run(self, wanted: Sequence[Wanted], outdated: Sequence[Outdated], rehashes: Rehashes) -> float:
        """Publish until every patient's bag matches the wanted images; return the seconds it took.

        The last comparison, which finds nothing outdated, is the final check. More than one round is needed
        if another process publishes older content, or if images change while they are read.

        outdated: the patients whose bags do not match now

        Raises DataError if images cannot be embedded and are not skipped, or keep changing; OutOfMemory if
        the device lacks memory for a batch.
        """
        failures, seconds = self.pipeline.failures, 0.0
        for _ in range(ROUNDS):
            with explain_out_of_memory(f"Use a --batch-size below {self.pipeline.embed.batch_size}."):
                seconds += self.carry_out([patient.plan(self.recorded) for patient in outdated])
            if failures and not self.skip:
                raise failures.error(wanted, self.cache.folder)
            self.cache.refresh()
            readable = [patient for patient in map(failures.without, wanted) if patient.images]
            outdated = find_outdated(self.cache, readable, rehashes, rehash=False)
            rehashes.save()
            if not outdated:
                return seconds
        patients = ", ".join(printable(patient.wanted.patient_id) for patient in outdated)
        raise DataError(f"Images changed while they were read, in {ROUNDS} attempts: patients {patients}.")

    @stage("Embedding")
    def carry_out(self, plans: Sequence[Plan]) -> float:
        """Embed what is missing and publish the bags; return the seconds since the network was prepared."""
        missing = sum(len(plan.missing) for plan in plans)
        if missing:
            self.pipeline.embed.prepare()
        start = time.monotonic()
        with (
            ProgressBar(missing, "image", "embedding") as bar,
            Background(self.cache.publish) as publish,
            closing(self.pipeline.finish_bags(plans, bar.update)) as finished,
        ):
            bags = (bag for builder in finished if (bag := self._new_bag(builder)))
            publish_in_shards(publish, bags, self.recorded, SHARD_LIMITS)
        return time.monotonic() - start

    def _new_bag(self, builder: BagBuilder) -> EmbeddedBag | None:
        """Return the bag to publish, None if it is stored already or lacks images that may not be missing."""
        if not builder.is_complete and not self.skip:
            return None
        bag, versions = builder.bag(), self.cache.versions(builder.wanted.patient_id)
        is_stored = bag and versions and bag.digest == versions[0].digest
        is_stored = is_stored and builder.wanted.microns_per_pixel == versions[0].microns_per_pixel
        return None if is_stored else bag
