"""`fit_domain`: learn what training patients are like, with a limit that held-out ones seldom exceed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mil_toolkit.bundle.domain.images import Locator
from mil_toolkit.bundle.domain.measures import (
    ImageMeasures,
    Reference,
    bag_sizes,
    measure_images,
    new_gaps,
    new_words,
    number_values,
)
from mil_toolkit.bundle.domain.records import (
    USUAL_EXCESS,
    Domain,
    KnownImages,
    KnownNumber,
    Spread,
    Tail,
)
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.projection import Projection, fit_projection, fold_moments

ALARMS = 0.05  # expected share of patients of the training cohort's kind that are called outside
_FOLDS = 10
_GAPS = None  # stands for the gaps of all columns beside the names of columns with new words
_USUAL_SIZE = 1.0  # distance within which a number of images is usual, even where all training bags are equal
_FOREIGN = 0.95  # quantile of single images' distances beyond which an image counts as foreign
_COLUMNS = 256  # principal components in which embeddings are compared, at most
_LEAST_DEVIATION = 0.1  # of a column, as a share of the mean: rare features differ most between patients
_IMAGES_PER_COLUMN = 3  # at least: of fewer, the last components fit the training images by chance
_NUMBERS = 0.2  # weight of a number beside images, which another stain changes less than a unit changes it
_FOREIGN_SHARE = 0.4  # weight of the share of foreign images, beside the images as a whole
_LEAST_EXCESS = 0.05  # of image measures: the logarithm of a distance, and a share


@dataclass(frozen=True)
class _Rule:
    """How the tail of a measure is fitted, see `Tail.of`."""

    least: float = -np.inf
    smallest: float = USUAL_EXCESS
    weight: float = 1.0

    def tail(self, measures: np.ndarray) -> Tail:
        """Return the tail of the measures (n,) of held-out patients."""
        return Tail.of(measures, self.least, self.smallest, self.weight)


_WHOLE = _Rule(smallest=_LEAST_EXCESS)
_SHARE = _Rule(smallest=_LEAST_EXCESS, weight=_FOREIGN_SHARE)


class HeldOut(NamedTuple):
    """Differences of held-out patients from the training patients of their fold.

    numbers, words: (n,) by column; gaps: (n,) bool, whether a value is missing where none was in training
    sizes: (n,); images: None if embeddings are not compared
    """

    places: np.ndarray
    numbers: dict[str, np.ndarray]
    words: dict[str, np.ndarray]
    gaps: np.ndarray
    sizes: np.ndarray | None
    images: ImageMeasures | None


class FittedDomain(NamedTuple):
    """The domain of the training patients, and the projection in which embeddings are compared, if any."""

    domain: Domain
    projection: Projection | None


def fit_domain(
    patients: Patients, head: FittedHead, seed: int, embeddings: bool = True
) -> FittedDomain | None:
    """Return what the training patients of a head are like; None for fewer than two independent patients.

    seed: of the folds; embeddings: compare them, too, in a projection of their own: to more columns than a
        head needs, because another stain often differs in columns in which training images hardly do

    In each of ten folds (groups never straddle them) everything is fitted on the other patients, the
    projection too, and the held-out patients are measured. Their largest surprises give the limit that the
    share ALARMS of new patients of the same kind is expected to exceed (split conformal prediction, with
    cross-validation in the place of the split).
    """
    looks = head.projection is not None
    embeddings = embeddings and looks
    tests = _folds(patients, seed)
    if len(tests) < 2:
        return None
    everyone = np.arange(len(patients))
    trains = [np.setdiff1d(everyone, test) for test in tests]
    config, locators = head.model.config, list[Locator | None]([None] * (len(tests) + 1))
    if embeddings:
        projections = _projections(patients, config, [*trains, everyone])
        locators = [Locator(config, projection) for projection in projections]
    parts = [
        _held_out(patients, train, test, locator, looks)
        for train, test, locator in zip(trains, tests, locators[:-1], strict=True)
    ]
    reference = Reference.of(patients, everyone, locators[-1], looks)
    domain = _domain(_Pooled.of(parts, len(patients)), reference)
    return FittedDomain(domain, None if locators[-1] is None else locators[-1].projection)


def _folds(patients: Patients, seed: int) -> list[np.ndarray]:
    """Return the held-out patients of each fold; patients of one group are in one fold."""
    ids = np.array(patients.ids) if patients.groups is None else patients.groups
    names, unit = np.unique(ids, return_inverse=True)
    count = min(_FOLDS, len(names))
    fold = np.random.default_rng(seed).permutation(len(names)) % max(1, count)
    return [np.flatnonzero(fold[unit] == number) for number in range(count)]


def _projections(patients: Patients, config: HeadConfig, trains: Sequence[np.ndarray]) -> list[Projection]:
    """Return the projection that is fitted on each of these sets of patients."""
    assert patients.bags is not None
    columns = min(_COLUMNS, max(1, int(patients.bags.sizes.sum()) // _IMAGES_PER_COLUMN))
    bags = patients.seen_views(config).values()
    by_view = [
        [fit_projection(moments, True, columns, _LEAST_DEVIATION) for moments in fold_moments(view, trains)]
        for view in bags
    ]
    return [Projection.side_by_side(views) for views in zip(*by_view, strict=True)]


def _held_out(
    patients: Patients, train: np.ndarray, test: np.ndarray, locator: Locator | None, looks: bool
) -> HeldOut:
    reference, metadata = Reference.of(patients, train, locator, looks), patients.metadata.iloc[test]
    values = number_values(reference.encoder, metadata)
    images, away = None, None
    if locator is not None and reference.space is not None:
        images, away = measure_images(reference.space, locator, patients, test)
    return HeldOut(
        test,
        {name: spread.distances(values[name], away) for name, spread in reference.numbers.items()},
        new_words(reference.encoder, metadata),
        np.any([np.zeros(len(test), dtype=bool), *new_gaps(reference.encoder, metadata).values()], axis=0),
        None if reference.bag_size is None else reference.bag_size.distances(bag_sizes(patients)[test]),
        images,
    )


def _joined(parts: Sequence[dict[str, np.ndarray]], order: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of all parts, one below the other, in this order."""
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


@dataclass(frozen=True)
class _Pooled:
    """The measures of all B patients, each from the fold that holds it out.

    folds: (B,); foreign: distance from which a single image counts as foreign, None without images
    """

    folds: np.ndarray
    numbers: dict[str, np.ndarray]
    words: dict[str, np.ndarray]
    gaps: np.ndarray
    sizes: np.ndarray | None
    images: ImageMeasures | None

    @classmethod
    def of(cls, parts: Sequence[HeldOut], count: int) -> "_Pooled":
        """Put the parts of all folds into the order of the patients."""
        order = np.argsort(np.concatenate([part.places for part in parts]))
        folds = np.repeat(np.arange(len(parts)), [len(part.places) for part in parts])
        sizes = [part.sizes for part in parts if part.sizes is not None]
        images = [part.images for part in parts if part.images is not None]
        single = [distances for part in images for distances in part.single]
        return cls(
            folds[order],
            _joined([part.numbers for part in parts], order),
            _joined([part.words for part in parts], order),
            np.concatenate([part.gaps for part in parts])[order],
            np.concatenate(sizes)[order] if sizes else None,
            ImageMeasures(
                np.concatenate([part.whole for part in images])[order], [single[place] for place in order]
            )
            if images
            else None,
        )

    def surprises(self, measures: np.ndarray, rule: _Rule) -> np.ndarray:
        """Return the surprise of each patient, (B,), by the tail of the patients in other folds."""
        surprises = np.empty(len(measures))
        for fold in np.unique(self.folds):
            inside = self.folds == fold
            surprises[inside] = rule.tail(measures[~inside]).surprise(measures[inside])
        return surprises


def _domain(pooled: _Pooled, reference: Reference) -> Domain:
    count, weight = len(pooled.folds), 1.0 if pooled.images is None else _NUMBERS
    number, size = _Rule(weight=weight), _Rule(_USUAL_SIZE, weight=weight)
    surprises = [pooled.surprises(values, number) for values in pooled.numbers.values()]
    images = None
    if pooled.images is not None and reference.space is not None:
        foreign = _foreign(pooled.images.single)
        whole, shares = pooled.images.whole, pooled.images.shares(foreign)
        surprises += [pooled.surprises(whole, _WHOLE), pooled.surprises(shares, _SHARE)]
        images = KnownImages(reference.space, foreign, _WHOLE.tail(whole), _SHARE.tail(shares), True)
    new: dict[str | None, np.ndarray] = {name: flags for name, flags in pooled.words.items()}
    new[_GAPS] = pooled.gaps
    unreliable = _unreliable(new, count)
    surprises += [] if pooled.sizes is None else [pooled.surprises(pooled.sizes, size)]
    surprises += [np.where(flags, np.inf, 0.0) for kind, flags in new.items() if kind not in unreliable]
    return Domain(
        patients=count,
        numbers={
            name: KnownNumber(spread, number.tail(pooled.numbers[name]))
            for name, spread in reference.numbers.items()
        },
        unreliable=sorted(name for name in unreliable if name is not None),
        bag_size=_known_size(reference.bag_size, pooled.sizes, size),
        images=images,
        limit=_limit(np.max([np.zeros(count), *surprises], axis=0)),
        gaps=_GAPS not in unreliable,
    )


def _known_size(spread: Spread | None, sizes: np.ndarray | None, rule: _Rule) -> KnownNumber | None:
    return None if spread is None or sizes is None else KnownNumber(spread, rule.tail(sizes))


def _foreign(single: Sequence[np.ndarray]) -> float:
    """Return the quantile of the distances of single images, in which each patient has the same weight."""
    distances = np.concatenate(single)
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in single])
    order = np.argsort(distances)
    place = int(np.searchsorted(np.cumsum(weights[order]), _FOREIGN * len(single)))
    return max(float(distances[order][min(place, len(order) - 1)]), 1e-12)


def _unreliable(new: dict[str | None, np.ndarray], count: int) -> list[str | None]:
    """Return the columns in which words are new so often that they tell nothing, such as free text.

    Also returns _GAPS if new gaps are frequent. These are counted over all columns together: columns that
    had a single gap, which is new to the other folds, tell how often columns without any will have one
    (Good 1953, "The population frequencies of species", section 2).

    Without them, novelties cause at most half of the alarms that are allowed, or one.
    """
    allowed = max(1.0, ALARMS / 2 * (count + 1))
    occurrences = Counter({name: int(flags.sum()) for name, flags in new.items()})
    dropped: list[str | None] = []
    for name, _ in occurrences.most_common():
        kept = [np.zeros(count), *(flags for other, flags in new.items() if other not in dropped)]
        if np.any(kept, axis=0).sum() <= allowed:
            break
        dropped.append(name)
    return dropped


def _limit(surprises: np.ndarray) -> float:
    """Return the largest surprise in the domain: the r-th smallest of n.

    A new patient of the same kind exceeds it with probability 1 - r / (n + 1); r is the rank for which this
    is nearest to ALARMS. Of very few patients it is the largest that is finite.
    """
    rank = min(len(surprises), round((1 - ALARMS) * (len(surprises) + 1)))
    finite = surprises[np.isfinite(surprises)]
    return float(np.sort(finite)[min(rank, len(finite)) - 1]) if len(finite) else 0.0
