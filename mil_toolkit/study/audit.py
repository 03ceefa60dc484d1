"""`audit`: find images and patients that occur twice, shortcuts to the label, and defects of the metadata."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.text import count_of
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import StoredBag
from mil_toolkit.study.by_outcome import check_shortcuts
from mil_toolkit.study.image_copies import CopyCheck
from mil_toolkit.study.records import Finding
from mil_toolkit.study.similar_patients import check_similar_patients

# Two images are near-identical if their whitened embeddings have at least this cosine. Measured on 7,781
# blood-smear images of 96 patients, whole and on subsets down to 6 patients, with a pretrained and with a
# random network. A threshold on cosines of embeddings that are only centred does not suit every network:
# the nearest neighbours of different patients reach 0.84 with the first network and 0.996 with the second,
# where a few directions common to all images dominate. With as many whitened components as a tenth of the
# images, 256 at most, the nearest neighbours of different patients stay below 0.67 with both networks, and a
# copy that was saved again as JPEG of quality 90, brightened by 5 % or cropped by two pixels reaches 0.75 or
# more in 19 of 20 images.
NEAR = 0.75
COMPONENTS = 256
IMAGES_PER_COMPONENT = 10
FEWEST_IMAGES = 400  # with fewer than 40 components, different images are nearly as similar as copies
MOST_IMAGES = 50_000  # to compare; of more, an even share of each patient's images is compared
MOST_PAIRS = 10_000  # to report; where thousands of images are alike, such as empty ones, more add nothing
MOST_LISTED = 1000  # patients, images or columns in one finding
MOST_SHOWN = 5  # findings in a summary
LEVELS = ("leak", "shortcut", "note", "unchecked")  # of a finding, the gravest first
_BLOCK = 512  # images

Check = Callable[[Cohort, FeatureCache | None], Iterator[Finding]]


class Pair(NamedTuple):
    """Two images of different patients; similarity: a cosine, 1 for identical files."""

    patients: tuple[str, str]
    names: tuple[str, str]
    similarity: float

    def __str__(self) -> str:
        one, other = (f"{patient}/{name}" for patient, name in zip(self.patients, self.names, strict=True))
        return f"{one} = {other}" if self.similarity == 1 else f"{one} ~ {other} ({self.similarity:.3f})"


def audit(cohort: Cohort, cache: FeatureCache | None) -> list[Finding]:
    """Return everything in the patients and images that could distort a score, the gravest finding first.

    Images and metadata of all patients are checked, including those without a label; shortcuts are checked
    on the labelled patients. Checks that need a cache, both classes or more images than there are result in
    a finding "unchecked".
    """
    findings = [finding for check in CHECKS for finding in check(cohort, cache)]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def worth_telling(findings: Sequence[Finding]) -> list[str]:
    """Return one line for each of the first leaks and shortcuts, and the number of all other findings."""
    grave = [finding for finding in findings if finding.level in ("leak", "shortcut")]
    lines = [f"{finding.level}: {finding.text} {finding.advice}" for finding in grave[:MOST_SHOWN]]
    rest = len(findings) - len(lines)
    return [*lines, f"{count_of(rest, 'more finding')}."] if rest else lines


# Images.


def _check_images(cohort: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    """Find identical and near-identical images of different patients."""
    if cache is None:
        yield Finding("images", "unchecked", "images were not compared: there are no features.")
        return
    groups = _groups(cohort)
    patients = [patient for patient in cohort.patient_ids if cache.versions(patient)]
    yield from _duplicates("identical images", identical_images(cache, patients), groups)
    bags = _share(cache.bags(patients))
    count = len(bags.instances)
    if count < FEWEST_IMAGES:
        text = f"near-identical images were not searched: this requires {FEWEST_IMAGES} images, not {count}."
        yield Finding("near-identical images", "unchecked", text)
        return
    pairs = _without_identical(cache, near_images(bags))
    yield from _near_identical(pairs, cohort, cache, groups)


def _near_identical(
    pairs: Sequence[Pair], cohort: Cohort, cache: FeatureCache, groups: Mapping[str, str]
) -> Iterator[Finding]:
    """Report pairs of similar embeddings: as near-identical images if their files are copies.

    Where files cannot be read, embeddings of whole, unmasked images are enough.
    """
    if not pairs:
        return
    check, is_whole = CopyCheck(cohort, cache), not cache.spec["crop"] and cache.spec["preprocess"] == "none"
    copies: list[Pair] = []
    others: dict[bool, list[Pair]] = {True: [], False: []}  # by whether both files were compared
    for pair in pairs:
        is_copy = check.is_copy(*zip(pair.patients, pair.names, strict=True))
        if is_copy or (is_copy is None and is_whole):
            copies.append(pair)
        else:
            others[is_copy is not None].append(pair)
    yield from _duplicates("near-identical images", copies, groups)
    for compared, similar in others.items():
        if similar:
            yield _similar(similar, compared)


def _similar(pairs: Sequence[Pair], compared: bool) -> Finding:
    """Return a hint at pairs of images that are not known to be copies."""
    text = f"{_count(pairs)} of images of different patients ({_patients(pairs)}) have similar embeddings"
    if compared:
        text, advice = (
            f"{text}, but the image files differ.",
            "They are not copies: nothing needs to be done.",
        )
    else:
        text = f"{text}, and their files cannot be read to tell whether they are copies."
        advice = "Of crops and masks, different images can have similar embeddings. Look at these images."
    return Finding("similar embeddings", "note", text, advice, len(pairs), _listed(pairs))


def _groups(cohort: Cohort) -> dict[str, str]:
    """Return the declared group of each patient; empty if none is declared."""
    return {} if cohort.groups is None else dict(zip(cohort.patient_ids, cohort.groups, strict=True))


def _without_identical(cache: FeatureCache, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs whose files differ; `identical_images` reports the others."""
    patients = {patient for pair in pairs for patient in pair.patients}
    digests = {
        (patient, image.name): image.digest
        for patient in patients
        for image in cache.winners([patient])[0].read_images()
    }
    pairs_of_digests = (
        [digests[image] for image in zip(pair.patients, pair.names, strict=True)] for pair in pairs
    )
    return [pair for pair, (one, other) in zip(pairs, pairs_of_digests, strict=True) if one != other]


def identical_images(cache: FeatureCache, patients: Sequence[str]) -> list[Pair]:
    """Return files with the same content under different patients; of several copies, each with the first.

    Memory holds eight bytes of each image's digest, and all about the images of which these occur twice.
    """
    first: dict[bytes, tuple[str, str]] = {}
    pairs, bags = [], cache.winners(patients)
    keys = [_keys(bag) for bag in bags]
    values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *keys]), return_counts=True)
    repeated = values[counts > 1]
    for patient, bag, own_keys in zip(patients, bags, keys, strict=True):
        copied = np.flatnonzero(np.isin(own_keys, repeated))
        images = bag.read_images() if len(copied) else ()
        for image in (images[place] for place in copied):
            other, name = first.setdefault(image.digest, (patient, image.name))
            if other != patient:
                pairs.append(Pair((other, patient), (name, image.name), 1.0))
    return pairs


def _keys(bag: StoredBag) -> NDArray[np.uint64]:
    """Return the first eight bytes of the digest of each image, (n,)."""
    return np.ascontiguousarray(bag.read_digests()[:, :8]).view(np.uint64).ravel()


def near_images(bags: Bags) -> list[Pair]:
    """Return images of different patients whose whitened embeddings have a cosine of NEAR or more.

    At most MOST_PAIRS are returned. The images are compared in blocks: memory holds only some rows of
    the matrix of cosines at a time.
    """
    unit = whitened(bags.instances.float())
    bag_of = bags.bag_of_instance
    pairs: list[Pair] = []
    for start in range(0, len(unit), _BLOCK):
        rows, others = unit[start : start + _BLOCK], unit[start:]
        cosines = rows @ others.T  # (block, N - start)
        cosines[bag_of[start : start + _BLOCK, None] == bag_of[None, start:]] = -1
        for row, column in (cosines.triu() >= NEAR).nonzero()[: MOST_PAIRS - len(pairs)].tolist():
            pairs.append(_pair(bags, start + row, start + column, float(cosines[row, column])))
    return pairs


def _pair(bags: Bags, one: int, other: int, similarity: float) -> Pair:
    first, second = (bags.patient_ids[int(bags.bag_of_instance[row])] for row in (one, other))
    return Pair((first, second), (bags.image_names[one], bags.image_names[other]), similarity)


def whitened(x: Tensor) -> Tensor:
    """Return rows of length 1 on the leading principal components, scaled to variance 1: (N, D) -> (N, k)."""
    centred = x - x.mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(x))  # ascending
    kept = min(COMPONENTS, len(x) // IMAGES_PER_COMPONENT)
    kept = min(kept, int((variances > 1e-6 * variances[-1]).sum()))
    scaled = centred @ (axes[:, -kept:] / variances[-kept:].sqrt())
    return torch.nn.functional.normalize(scaled, dim=1)


def _share(bags: Bags) -> Bags:
    """Return all images; if there are more than MOST_IMAGES, an even share of each patient's."""
    step = -(-int(bags.sizes.sum()) // MOST_IMAGES)
    if step == 1:
        return bags
    return bags.take_rows([torch.arange(0, size, step) for size in bags.sizes.tolist()])


def _duplicates(kind: str, pairs: Sequence[Pair], groups: Mapping[str, str]) -> Iterator[Finding]:
    """Report pairs that a split can separate as a leak, and pairs of patients of one group as a note."""
    within: list[Pair] = []
    across: list[Pair] = []
    for pair in pairs:
        one, other = (groups.get(patient, patient) for patient in pair.patients)
        (within if one == other else across).append(pair)
    if across:
        where = " of different groups" if groups else ""
        text = f"{_count(across)} of {kind} belong to different patients{where} ({_patients(across)})."
        advice = "Remove the copies, or assign these patients to one group, so that no split separates them."
        yield Finding(kind, "leak", text, advice, len(across), _listed(across))
    if within:
        text = f"{_count(within)} of {kind} belong to different patients of one group ({_patients(within)})."
        yield Finding(kind, "note", text, "No split separates them.", len(within), _listed(within))


def _count(pairs: Sequence[Pair]) -> str:
    return f"{len(pairs)} pairs" + (" or more" if len(pairs) == MOST_PAIRS else "")


def _patients(pairs: Sequence[Pair]) -> str:
    return f"{len({patient for pair in pairs for patient in pair.patients})} patients"


def _listed(places: Sequence[Pair] | Sequence[str]) -> tuple[str, ...]:
    return tuple(str(place) for place in places[:MOST_LISTED])


# Metadata.


def _check_columns(cohort: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    """Find columns with missing values, and columns with a single value or none."""
    for column in cohort.columns:
        values = cohort.metadata[column.name]
        absent = list(values.index[values.isna()])
        if absent:
            text = f"{column.name} is missing for {len(absent)} of {len(cohort)} patients."
            advice = (
                "A missing number is replaced by the median of the training patients; a missing category is"
                " encoded as a category of its own."
            )
            yield Finding("missing values", "note", text, advice, len(absent), _listed(absent))
        if values.nunique() < 2:
            text = f"{column.name} has {'only one value' if values.nunique() else 'no value'}."
            advice = f"It carries no information: remove [metadata.{column.name}] from {cohort.source.name}."
            yield Finding("constant column", "note", text, advice, 1, (column.name,))


def _check_same_metadata(cohort: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    """Find patients with complete and equal metadata that include a number: they may be one person.

    Where groups are declared, patients of the same group are not reported.
    """
    known = cohort.metadata.dropna()
    if known.select_dtypes("number").empty or len(known.columns) < 2:
        return
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for patient, values in zip(known.index, known.itertuples(index=False, name=None), strict=True):
        alike[values].append(patient)
    groups = _groups(cohort)
    across = [
        patients
        for patients in alike.values()
        if len({groups.get(patient, patient) for patient in patients}) > 1
    ]
    sets = [" = ".join(patients) for patients in across]
    if sets:
        where = " across groups" if groups else ""
        text = f"{count_of(len(sets), 'set')} of patients with equal metadata{where}."
        advice = "If the patients of a set are one person, assign them to one group."
        yield Finding("same metadata", "note", text, advice, len(sets), _listed(sets))


CHECKS: tuple[Check, ...] = (
    _check_images,
    check_similar_patients,
    _check_columns,
    _check_same_metadata,
    check_shortcuts,
)
