"""Many comparisons at once: the max-T test over the trials of a search, and Holm's adjusted p-values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mil_toolkit.evaluation.intervals import draw_patients
from mil_toolkit.evaluation.metrics import Metric, Predicted

LEVEL = 0.98  # of the max-T test: a sampler that learns from the trials adds to its error probability
FEWEST_UNITS = 10  # patients or groups, below which a bootstrap says too little about them
_AT_ONCE = 2_000_000  # weights that are scored in one call


@dataclass(frozen=True)
class MaxT:
    """The leads of T candidates over one reference, and how many standard errors a lead must exceed.

    leads: (T,) how much better each candidate is; NaN where its score is undefined
    errors: (T,) standard errors of the leads
    critical: quantile of the largest studentised lead if no candidate is better than the reference; infinite
        where there are too few patients or groups to tell
    """

    leads: np.ndarray
    errors: np.ndarray
    critical: float

    @property
    def surpasses(self) -> np.ndarray:
        """Whether each candidate is better than the reference, (T,) bool."""
        return (self.leads > 0) & (self.leads > self.critical * self.errors)


@dataclass(frozen=True)
class Units:
    """What is resampled: n patients, or the U groups that they belong to.

    places: (n,) the unit of each patient
    strata: (U,) the stratum of each unit, within which units are drawn
    """

    places: np.ndarray
    strata: np.ndarray

    @classmethod
    def of(cls, strata: np.ndarray, groups: np.ndarray | None = None) -> "Units":
        """Return patients or groups in strata of their class, or in one stratum if a group has several.

        strata: (n,) the class of each patient, or the stratum if the outcome has no classes

        >>> Units.of(np.array([1, 1, 0]), np.array(["a", "a", "b"])).strata.tolist()
        [1.0, 0.0]
        """
        if groups is None:
            return cls(np.arange(len(strata)), strata)
        names, places = np.unique(groups, return_inverse=True)
        means = np.bincount(places, strata) / np.bincount(places)
        return cls(places, means if np.array_equal(means[places], strata) else np.zeros(len(names)))


def max_t(
    metric: Metric,
    reference: Predicted,
    candidates: Sequence[Predicted],
    groups: np.ndarray | None = None,
    level: float = LEVEL,
    strata: np.ndarray | None = None,
) -> MaxT:
    """Test which candidates are better than the reference, with one error probability for all of them.

    reference, candidates: predictions for the same n patients
    groups: (n,), patients of a group are resampled together; None resamples patients
    level: probability that no candidate surpasses the reference if none is better
    strata: (n,), within which patients are resampled; None for those of the labels

    The test for superior predictive ability of Hansen 2005 (Journal of Business & Economic Statistics 23),
    after the reality check of White 2000: patients are resampled, paired between all candidates. The
    studentised leads in the resamples, centred at the observed ones, give the distribution of their maximum.
    As in Hansen's consistent estimate, a candidate that is worse than the reference by more than sqrt(2 log
    log U) standard errors is not recentred, so that poor candidates do not cost power. The metric is
    linearised by leaving out each of the U patients or groups in turn (the jackknife).

    The predictions are taken as given: the test does not know how much other seeds would change them.
    """
    units = Units.of(reference.labels if strata is None else strata, groups)
    sign = 1 if metric.higher_is_better else -1
    value, share = metric.value(reference), _shares(metric, reference, units)
    leads = sign * np.array([metric.value(candidate) - value for candidate in candidates])
    shares = sign * np.stack([_shares(metric, candidate, units) - share for candidate in candidates])
    errors = np.sqrt((shares**2).sum(1))
    if len(units.strata) < FEWEST_UNITS:
        return MaxT(leads, errors, np.inf)
    return MaxT(leads, errors, _critical(leads, errors, shares @ draw_patients(units.strata).T, units, level))


def _shares(metric: Metric, predicted: Predicted, units: Units) -> np.ndarray:
    """Return the part of each unit in the score, (U,): the change without it, centred in its stratum."""
    blocks = np.array_split(
        np.arange(len(units.strata)), 1 + units.strata.size * units.places.size // _AT_ONCE
    )
    without = [metric.of(predicted, (units.places != block[:, None]).astype(float)) for block in blocks]
    changes = metric.value(predicted) - np.concatenate(without)
    for stratum in np.unique(units.strata):
        changes[units.strata == stratum] -= changes[units.strata == stratum].mean()
    return changes


def _critical(leads: np.ndarray, errors: np.ndarray, drawn: np.ndarray, units: Units, level: float) -> float:
    """Return the quantile of the largest studentised lead under the null hypothesis; drawn: (T, draws)."""
    poor = leads < -errors * np.sqrt(2 * np.log(np.log(len(units.strata))))
    with np.errstate(invalid="ignore", divide="ignore"):
        studentised = (drawn + np.where(poor, leads, 0)[:, None]) / errors[:, None]
    return float(np.quantile(np.nan_to_num(studentised, posinf=0, neginf=0).max(0, initial=0), level))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the p-values adjusted for their number (Holm 1979); None stays None and does not count.

    An adjusted p-value below 0.05 is significant at 5 % for the whole family.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    {'a': 0.03, 'b': 0.06, 'c': 0.06, 'd': None}
    """
    known = sorted((value, name) for name, value in p_values.items() if value is not None)
    adjusted, largest = dict[str, float | None].fromkeys(p_values), 0.0
    for place, (value, name) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - place)))
        adjusted[name] = largest
    return adjusted
