"""`doubtful_of`: images in which the search for nuclei found none, several or one that the border cuts."""

from collections.abc import Sequence

from mil_toolkit.features.sights import SIGHTS, choose_doubtful
from mil_toolkit.report.gallery import Case
from mil_toolkit.report.pictures import Pictures, Sample, sample_of

MOST = 12  # images
BYTES = MOST * 40_000  # of the page that are kept free for them


def doubtful_of(pictures: Pictures, cases: Sequence[Case]) -> list[Sample]:
    """Return up to MOST of the images in doubt that the page shows, of each kind in turn.

    pictures: with the results of the search in all images that the page shows
    """
    names = {
        (case.stored, image.stored): f"{case.name}, {image.name}"
        for case in cases
        for image in case.shown_images
    }
    found = ((sight, key) for key, sight in list(pictures.sights.items()) if key in names)
    chosen = choose_doubtful(found, MOST)
    samples = (sample_of(pictures, key, f"{names[key]}: {SIGHTS[pictures.sights[key]]}") for key in chosen)
    return [sample for sample in samples if sample is not None]
