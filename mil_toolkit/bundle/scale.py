"""The scale of a bundle's training images, and whether a cohort's images have the same."""

from collections.abc import Sequence

from mil_toolkit.bundle.records import About, BundleFeatures, Scales
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.text import each_or_most, printable
from mil_toolkit.features.spec import scale_of

ADVICE = (
    "Cells of another size in pixels may look like other cells to the model. Use images of its scale, or a"
    " model that was fitted with mil-extract --scale; --any-scale predicts these images all the same."
)
TOLERANCE = 0.02  # relative: scanners of one nominal resolution differ by up to 2 %


def training_scales(cohort: Cohort, views: Sequence[BundleFeatures]) -> Scales | None:
    """Return the lowest and the highest micrometres per pixel of the patients' images.

    None where the scale of a patient's images is unknown, and where the model does not depend on it: without
    images or a backbone, and if images are resampled to one scale or cropped to a window in micrometres.
    """
    scales = [cohort.scales.get(patient) for patient in cohort.patient_ids]
    known = [scale for scale in scales if scale is not None]
    if not any(map(_sees_pixels, views)) or len(known) < len(scales) or not known:
        return None
    return Scales(min(known), max(known))


def _sees_pixels(features: BundleFeatures) -> bool:
    """Return whether what the network sees depends on the scale of the image files."""
    spec = features.spec
    return spec["weight_digest"] is not None and scale_of(spec) is None and "crop_um" not in spec


def other_scales(about: About, cohort: Cohort) -> dict[str, float]:
    """Return the micrometres per pixel of patients whose images have another scale than in training."""
    trained = about.microns_per_pixel
    if trained is None:
        return {}
    lowest, highest = trained.lowest * (1 - TOLERANCE), trained.highest * (1 + TOLERANCE)
    return {
        patient: scale
        for patient in cohort.patient_ids
        if (scale := cohort.scales.get(patient)) is not None and not lowest <= scale <= highest
    }


def scale_problems(about: About, cohort: Cohort) -> list[str]:
    """Return a line for each patient whose images have another scale than those of the training patients.

    Empty where either scale is unknown; see `unknown_scale`.
    """
    others, trained = other_scales(about, cohort), about.microns_per_pixel
    if not others or trained is None:
        return []
    reason = f"the model was fitted on images of {scales_words(trained)}"
    listed = [f"{printable(patient)} ({scale:g})" for patient, scale in others.items()]
    lines = (
        f"patient {printable(patient)} has images of {scale:g} micrometres per pixel; {reason}."
        for patient, scale in others.items()
    )
    summary = f"patients have images of other micrometres per pixel; {reason}:"
    return [*each_or_most(listed, len(cohort), lines, summary), ADVICE]


def unknown_scale(about: About, cohort: Cohort) -> str | None:
    """Return a warning if the scale of the training images is known and that of other images is not."""
    unknown = [printable(patient) for patient in cohort.patient_ids if patient not in cohort.scales]
    if about.microns_per_pixel is None or not unknown:
        return None
    whose = "its images" if len(unknown) == len(cohort) else f"the images of {len(unknown)} patients"
    return (
        f"The model was fitted on images of {scales_words(about.microns_per_pixel)}, and"
        f" {printable(cohort.source)} does not state the microns_per_pixel of {whose}. Those of another scale"
        " would be predicted wrongly."
    )


def scales_words(scales: Scales) -> str:
    """Return scales as text.

    >>> scales_words(Scales(0.25, 0.25)), scales_words(Scales(0.25, 0.5))
    ('0.25 micrometres per pixel', '0.25 to 0.5 micrometres per pixel')
    """
    lowest, highest = f"{scales.lowest:g}", f"{scales.highest:g}"
    words = lowest if lowest == highest else f"{lowest} to {highest}"
    return f"{words} micrometres per pixel"
