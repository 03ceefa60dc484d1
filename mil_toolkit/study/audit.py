"""`audit`: duplicates across patients, what predicts the label without being medicine, what is missing."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import fisher_exact
from torch import Tensor

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.intervals import draw_patients, percentile_interval
from mil_toolkit.evaluation.metrics import METRICS, Predicted
from mil_toolkit.evaluation.splits import make_splits
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.records import Finding

# Measured on 7,781 blood-smear images of 96 patients, whole and on subsets down to 6 patients, with a pretrained
# and with a random network. Cosines of centred embeddings alone are no measure that holds for every network:
# strangers' nearest neighbours reach 0.84 with the first and 0.996 with the second, where directions common to
# all images rule. On as many whitened components as a tenth of the images, 256 at most, the nearest strangers
# of different patients stay below 0.67 with both, and a copy saved again as JPEG of quality 90, with 5 % more
# light or with two pixels cut off reaches 0.75 or more in 19 of 20 images.
NEAR = 0.75
COMPONENTS = 256
IMAGES_PER_COMPONENT = 10
FEWEST_IMAGES = 400  # with fewer than 40 components, strangers come near to copies
MOST_IMAGES = 50_000  # compared with one another; of more, an even share of each patient's
MOST_PAIRS = 10_000  # where images resemble each other by the thousand, such as empty ones, more say no more
MOST_LISTED = 1000  # places of one finding
MOST_TOLD = 5  # findings
SUSPICIOUS = 0.95  # AUC of one column, above which it may have been written down after the diagnosis
LEVEL = 0.05  # of the test whether missing values go with the label
LEVELS = ("leak", "shortcut", "note", "unchecked")
_BLOCK = 512  # images


class Pair(NamedTuple):
    """Two images of different patients, by patient and name, and how alike they are (1 for identical files)."""

    patients: tuple[str, str]
    names: tuple[str, str]
    likeness: float

    def __str__(self) -> str:
        one, other = (f"{patient}/{name}" for patient, name in zip(self.patients, self.names, strict=True))
        return f"{one} = {other}" if self.likeness == 1 else f"{one} ~ {other} ({self.likeness:.3f})"


def audit(cohort: Cohort, cache: FeatureCache | None) -> list[Finding]:
    """What in these patients and their images could make a score lie, the gravest first.

    All patients of the cohort are compared, those without a label too; what concerns labels looks at the labelled
    ones. Without a cache, without both classes or with too few images, it says what it could not check.
    """
    labelled = cohort.labelled()
    found = [*_images(cohort, cache), *_metadata(cohort)]
    if len(np.unique(labelled.labels)) == 2:
        found += [*_bag_size(labelled, cache), *_predictive_columns(labelled), *_missingness(labelled)]
    else:
        text = "shortcuts were not looked for: the labelled patients are not of both classes."
        found.append(Finding("shortcuts", "unchecked", text))
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


# Images.


def _images(cohort: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    if cache is None:
        yield Finding("images", "unchecked", "images were not compared: there are no features.")
        return
    groups = _groups(cohort)
    patients = [patient for patient in cohort.patient_ids if cache.versions(patient)]
    identical = identical_images(cache, patients)
    yield from _duplicates("identical images", identical, groups)
    bags = _share(cache.bags(patients))
    if len(bags.instances) < FEWEST_IMAGES:
        text = f"near-identical images were not looked for: that takes {FEWEST_IMAGES} images, not {len(bags.instances)}."
        yield Finding("near-identical images", "unchecked", text)
        return
    yield from _duplicates("near-identical images", _other_than(cache, near_images(bags)), groups)


def _groups(cohort: Cohort) -> Mapping[str, str]:
    """The declared group of each patient; empty where none is declared."""
    return {} if cohort.groups is None else dict(zip(cohort.patient_ids, cohort.groups, strict=True))


def _other_than(cache: FeatureCache, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that are not of the same content, which `identical_images` tells."""
    patients = {patient for pair in pairs for patient in pair.patients}
    contents = {
        (each, image.name): image.digest for each in patients for image in cache.winners([each])[0].images
    }
    of_pairs = ([contents[image] for image in zip(pair.patients, pair.names, strict=True)] for pair in pairs)
    return [pair for pair, (one, other) in zip(pairs, of_pairs, strict=True) if one != other]


def identical_images(cache: FeatureCache, patients: Sequence[str]) -> list[Pair]:
    """Files of one content under different patients; of several alike, each with the first."""
    first: dict[bytes, tuple[str, str]] = {}
    pairs = []
    for patient, bag in zip(patients, cache.winners(patients), strict=True):
        for image in bag.images:
            other, name = first.setdefault(image.digest, (patient, image.name))
            if other != patient:
                pairs.append(Pair((other, patient), (name, image.name), 1.0))
    return pairs


def near_images(bags: Bags) -> list[Pair]:
    """Images of different patients whose whitened embeddings have a cosine of NEAR or more, MOST_PAIRS at most.

    Compared in blocks: the memory is that of some rows of the table of cosines, never all of it.
    """
    unit = whitened(bags.instances.float())
    bag_of = bags.bag_of_instance
    pairs: list[Pair] = []
    for start in range(0, len(unit), _BLOCK):
        rows, others = unit[start : start + _BLOCK], unit[start:]
        near = rows @ others.T  # (block, N - start)
        near[bag_of[start : start + _BLOCK, None] == bag_of[None, start:]] = -1
        for row, column in (near.triu() >= NEAR).nonzero()[: MOST_PAIRS - len(pairs)].tolist():
            pairs.append(_pair(bags, start + row, start + column, float(near[row, column])))
    return pairs


def _pair(bags: Bags, one: int, other: int, likeness: float) -> Pair:
    patients = (bags.patient_ids[int(bags.bag_of_instance[row])] for row in (one, other))
    return Pair((next(patients), next(patients)), (bags.image_names[one], bags.image_names[other]), likeness)


def whitened(x: Tensor) -> Tensor:
    """Rows of length 1 on the leading principal components, each brought to variance 1: (N, D) -> (N, k)."""
    centred = x - x.mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(x))  # ascending
    kept = min(COMPONENTS, len(x) // IMAGES_PER_COMPONENT)
    kept = min(kept, int((variances > 1e-6 * variances[-1]).sum()))
    scaled = centred @ (axes[:, -kept:] / variances[-kept:].sqrt())
    return torch.nn.functional.normalize(scaled, dim=1)


def _share(bags: Bags) -> Bags:
    """All images, or of more than MOST_IMAGES an even share of each patient's."""
    step = -(-len(bags.instances) // MOST_IMAGES)
    if step == 1:
        return bags
    rows = torch.cat([torch.arange(a, b, step) for a, b in bags.offsets.unfold(0, 2, 1).tolist()])
    sizes = torch.tensor([0, *(-(-size // step) for size in bags.sizes.tolist())])
    names = tuple(bags.image_names[row] for row in rows.tolist())
    return Bags(bags.instances[rows], sizes.cumsum(0), bags.patient_ids, names)


def _duplicates(kind: str, pairs: Sequence[Pair], groups: Mapping[str, str]) -> Iterator[Finding]:
    """Pairs that a split may tear apart are leaks; those of patients of one group are not."""
    held: list[Pair] = []
    torn: list[Pair] = []
    for pair in pairs:
        one, other = (groups.get(patient, patient) for patient in pair.patients)
        (held if one == other else torn).append(pair)
    if torn:
        across = " of different groups" if groups else ""
        text = f"{_counted(torn)} of {kind} lie under different patients{across} ({_patients(torn)})."
        advice = "Remove the copies, or give these patients one group: what trains must not be tested on."
        yield Finding(kind, "leak", text, advice, len(torn), _listed(torn))
    if held:
        text = f"{_counted(held)} of {kind} lie under different patients of one group ({_patients(held)})."
        yield Finding(kind, "note", text, "No split tears them apart.", len(held), _listed(held))


def _counted(pairs: Sequence[Pair]) -> str:
    return f"{len(pairs)} pairs" + (" or more" if len(pairs) == MOST_PAIRS else "")


def _patients(pairs: Sequence[Pair]) -> str:
    return f"{len({patient for pair in pairs for patient in pair.patients})} patients"


def _listed(places: Sequence[object]) -> tuple[str, ...]:
    return tuple(str(place) for place in places[:MOST_LISTED])


# Shortcuts.


def area(values: np.ndarray, labels: np.ndarray, folds: np.ndarray | None = None) -> dict[str, float]:
    """AUC of some values (n,), within folds (n,) where they are given, with its 95 % interval over patients."""
    folds = np.zeros(len(labels)) if folds is None else folds
    predicted = Predicted(labels, values, values > 0, folds)
    metric = METRICS["auc"]
    low, high = percentile_interval(metric.of(predicted, draw_patients(labels)))
    return {"value": float(metric.of(predicted, np.ones(len(labels)))), "low": low, "high": high}


def _words(figures: Mapping[str, float]) -> str:
    return "AUC {value:.3f}, 95 % interval {low:.3f} to {high:.3f}".format(**figures)


def _is_chance(figures: Mapping[str, float]) -> bool:
    return figures["low"] <= 0.5 <= figures["high"]


def _bag_size(labelled: Cohort, cache: FeatureCache | None) -> Iterator[Finding]:
    counted = [] if cache is None else [bool(cache.versions(patient)) for patient in labelled.patient_ids]
    labels = labelled.labels[np.array(counted, dtype=bool)] if counted else np.zeros(0)
    if cache is None or len(np.unique(labels)) < 2:
        return
    patients = [patient for patient, has in zip(labelled.patient_ids, counted, strict=True) if has]
    sizes = np.array([len(bag.image_names) for bag in cache.winners(patients)], dtype=float)
    figures = area(sizes, labels)
    if not _is_chance(figures):
        text = f"the number of images alone predicts the label ({_words(figures)})."
        advice = "Compare with the rival bag_size, and ask how many images were taken of whom, and why."
        yield Finding("bag size", "shortcut", text, advice, 1, figures=figures)


def _predictive_columns(labelled: Cohort) -> Iterator[Finding]:
    for column in labelled.columns:
        figures = column_area(labelled.metadata[column.name], labelled.labels)
        if figures is None or _is_chance(figures):
            continue
        text = f"{column.name} alone predicts the label ({_words(figures)})."
        advice = "Compare with the rival metadata_logistic: it has no image."
        if max(figures["value"], 1 - figures["value"]) >= SUSPICIOUS:
            advice = "Make sure that it was known before the diagnosis. " + advice
        yield Finding("predictive column", "shortcut", text, advice, 1, (column.name,), figures)


def column_area(values: pd.Series, labels: np.ndarray) -> dict[str, float] | None:
    """How well one column alone predicts the label, over the patients (n,) that have a value; None if not defined.

    Numbers as they are (below 0.5: the smaller ones are positive). Categories by their share of positives, counted
    on other patients than it is applied to, since rare ones would otherwise name their own patients.
    """
    known = values.notna().to_numpy()
    values, labels = values[known], labels[known].astype(int)
    smaller = min((labels == 1).sum(), (labels == 0).sum())
    if values.nunique() < 2 or smaller < 2:
        return None
    if pd.api.types.is_numeric_dtype(values):
        return area(values.to_numpy(float), labels)
    splits, _ = make_splits(labels, int(min(5, smaller)), seed=0)
    shares, folds = np.zeros(len(labels)), np.zeros(len(labels))
    for fold, split in enumerate(splits):
        of_category = pd.Series(labels[split.train]).groupby(values.to_numpy()[split.train]).mean()
        shares[split.test] = values.iloc[split.test].map(of_category).fillna(labels[split.train].mean())
        folds[split.test] = fold
    return area(shares, labels, folds)


def _missingness(labelled: Cohort) -> Iterator[Finding]:
    positive = labelled.labels == 1
    for column in labelled.columns:
        missing = labelled.metadata[column.name].isna().to_numpy()
        table = [
            [int((missing[of] == state).sum()) for state in (True, False)] for of in (positive, ~positive)
        ]
        p_value = float(fisher_exact(np.array(table)).pvalue)
        if p_value >= LEVEL:
            continue
        shares = {"positive": float(missing[positive].mean()), "negative": float(missing[~positive].mean())}
        text = (
            f"that {column.name} is missing goes with the label: in {shares['positive']:.0%} of the positive and"
            f" {shares['negative']:.0%} of the negative patients (p = {p_value:.2g}, Fisher's exact test)."
        )
        advice = "The model sees what is missing. Ask why it is, or leave the column out."
        figures = shares | {"p_value": p_value}
        yield Finding("missingness", "shortcut", text, advice, int(missing.sum()), (column.name,), figures)


# The table.


def _metadata(cohort: Cohort) -> Iterator[Finding]:
    for column in cohort.columns:
        values = cohort.metadata[column.name]
        absent = list(values.index[values.isna()])
        if absent:
            text = f"{column.name} is missing for {len(absent)} of {len(cohort)} patients."
            advice = "The training median, or an own column of the category, stands in for it."
            yield Finding("missing values", "note", text, advice, len(absent), _listed(absent))
        if values.nunique() < 2:
            text = (
                f"{column.name} has one value alone." if values.nunique() else f"{column.name} has no value."
            )
            advice = f"It says nothing: take [metadata.{column.name}] out of {cohort.source.name}."
            yield Finding("constant column", "note", text, advice, 1, (column.name,))
    yield from _same_metadata(cohort)


def _same_metadata(cohort: Cohort) -> Iterator[Finding]:
    """Patients whose values are all known and all the same, where a number is among them: may be one person.

    Where groups are declared, what lies within one of them is no matter.
    """
    known = cohort.metadata.dropna()
    if known.select_dtypes("number").empty or len(known.columns) < 2:
        return
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for patient, values in zip(known.index, known.itertuples(index=False, name=None), strict=True):
        alike[values].append(patient)
    groups = _groups(cohort)
    apart = [each for each in alike.values() if len({groups.get(patient, patient) for patient in each}) > 1]
    shared = [" = ".join(patients) for patients in apart]
    if shared:
        across = " across groups" if groups else ""
        text = f"{len(shared)} sets of patients share all metadata{across}."
        advice = "Where these are one person each, give them one group."
        yield Finding("same metadata", "note", text, advice, len(shared), _listed(shared))


def worth_telling(findings: Sequence[Finding]) -> list[str]:
    """One line for each leak and shortcut, the first of them; what else there is, as a count."""
    grave = [finding for finding in findings if finding.level in LEVELS[:2]]
    lines = [f"{finding.level}: {finding.text} {finding.advice}" for finding in grave[:MOST_TOLD]]
    rest = len(findings) - len(lines)
    return [*lines, f"{count_of(rest, 'more finding')}."] if rest else lines
