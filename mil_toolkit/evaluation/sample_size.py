"""The number of patients that a regression on few clinical values needs (Riley et al. 2020, BMJ 368:m441)."""

import math
from dataclasses import dataclass

SHRINKAGE = 0.9  # expected slope on new patients, criterion 2
OPTIMISM = 0.05  # largest expected optimism of Nagelkerke's R2, criterion 3
MARGIN = 0.05  # half width of the interval of the overall share of positives, criterion 1
_Z = 1.96
_USUAL_SHARE = 0.15  # of the largest R2, where nothing better is known (Riley et al. 2020, figure 2)


@dataclass(frozen=True)
class SampleSize:
    """Patients needed by each criterion of Riley et al. 2020; the largest is the answer.

    overall_risk: to estimate the share of positives with a margin of 0.05
    shrinkage: for an expected calibration slope of at least 0.9 on new patients
    optimism: for an optimism of Nagelkerke's R2 of at most 0.05
    r2: Cox-Snell's R2 that the calculation rests on; assumed: whether it is 15 % of the largest possible one
    """

    overall_risk: int
    shrinkage: int
    optimism: int
    r2: float
    assumed: bool

    @property
    def patients(self) -> int:
        """The number of patients that meets all criteria."""
        return max(self.overall_risk, self.shrinkage, self.optimism)


def sample_size(parameters: int, prevalence: float, log_loss: float | None) -> SampleSize:
    """Return the patients needed by a regression.

    parameters: coefficients without the intercept; prevalence: share of positives
    log_loss: of the regression on held-out patients, in nats; where it is None or not better than that of the
        share of positives, 15 % of the largest R2 are assumed

    >>> sample_size(24, 0.174, None).overall_risk
    221
    """
    null = -prevalence * math.log(prevalence) - (1 - prevalence) * math.log(1 - prevalence)
    largest = 1 - math.exp(-2 * null)
    r2 = 0.0 if log_loss is None else 1 - math.exp(-2 * (null - log_loss))
    assumed = r2 <= 0
    r2 = _USUAL_SHARE * largest if assumed else r2
    return SampleSize(
        overall_risk=math.ceil((_Z / MARGIN) ** 2 * prevalence * (1 - prevalence)),
        shrinkage=_patients(parameters, r2, SHRINKAGE),
        optimism=_patients(parameters, r2, r2 / (r2 + OPTIMISM * largest)),
        r2=r2,
        assumed=assumed,
    )


def _patients(parameters: int, r2: float, shrinkage: float) -> int:
    """Return the patients for an expected shrinkage (Riley et al. 2019, Stat Med 38:1276, eq. 11)."""
    return math.ceil(parameters / ((shrinkage - 1) * math.log(1 - r2 / shrinkage)))
