"""`save_recalibrated`: the model with a refitted decision rule, as a new bundle."""

from dataclasses import replace
from pathlib import Path

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.files import foreign_to_bundle
from mil_toolkit.bundle.membership import ANONYMOUS, TrainingMarks, image_digests
from mil_toolkit.bundle.records import Recalibration
from mil_toolkit.core.outputs import published_folder
from mil_toolkit.validation.records import Refitted
from mil_toolkit.validation.sample import Sample
from mil_toolkit.validation.validate import Validated


def recalibrated(validated: Validated, name: str) -> ModelBundle:
    """Return the model with the refit of this name, which says on which cohort it was recalibrated.

    Its patients are recognised from then on, unless the bundle is anonymous. A bundle whose probabilities
    changed cannot abstain: its scores of held-out patients belong to the former ones.
    """
    bundle, refitted = validated.bundle, validated.record.refits[name]
    step = _step(validated, refitted)
    about = replace(
        bundle.about,
        decision=refitted.rule,
        recalibrations=[*(bundle.about.recalibrations or ()), step],
        calibration=bundle.about.calibration if refitted.steps == ["threshold"] else None,
    )
    return replace(bundle, about=about)


def _step(validated: Validated, refitted: Refitted) -> Recalibration:
    bundle, record, sample = validated.bundle, validated.record, validated.sample
    return Recalibration(
        cohort=record.cohort,
        patients=record.flow.scored,
        refitted=refitted.steps,
        prevalence=record.stated if "prevalence" in refitted.steps else None,
        before=bundle.decision,
        scores=refitted.scores,
        fitted_on=_marks(bundle, sample) or ANONYMOUS,
    )


def _marks(bundle: ModelBundle, sample: Sample) -> TrainingMarks | None:
    """Return how the patients are recognised, with the salt of the training patients."""
    if bundle.about.marks is None:
        return None
    ids = sample.patients.ids
    return TrainingMarks.of(ids, image_digests(sample.cache, ids), bundle.about.marks.salt)


def save_recalibrated(validated: Validated, name: str, folder: Path) -> ModelBundle:
    """Publish the model with the refit of this name as a whole; a former bundle at `folder` is replaced.

    Raises UsageError where `folder` holds anything but a bundle.
    """
    bundle = recalibrated(validated, name)
    with published_folder(folder, "a bundle", foreign_to_bundle) as building:
        bundle.save(building)
    return bundle
