"""`Canary`: the result of the small studies on shuffled labels, and what it does and does not show."""

from dataclasses import dataclass, field

import numpy as np

from mil_toolkit.core.records import ABSENT_IF_NONE
from mil_toolkit.evaluation.words import metric_words

LEVEL = 0.01  # of the test: one sound procedure in a hundred fails
POWER = 0.8  # with which the smallest mean AUC that is named would fail
UNSEEN = (
    "A pass does not show that the patients are independent: where a patient was entered twice under two ids,"
    " the copies get different labels in a shuffle, and the canary passes although the scores are too high."
    " Only the audit and you can find such patients. Nor does it show that no column was recorded after the"
    " diagnosis: shuffling breaks that link too."
)


@dataclass(frozen=True)
class Canary:
    """The result of the canary (canary.json).

    aucs: the outer AUC of each run; mean, deviation: their mean and standard deviation
    p_value: two-sided one-sample t-test of the mean against 0.5; None if all AUCs are equal
    passed: whether the p-value is not below `level`
    low, high: 95 % t-interval of the mean; None in files of older versions
    detectable: the smallest mean above 0.5 that fails with a probability of 0.8, given the deviation of these
        runs; None in files of older versions
    metric: name of the score, whose key is `aucs` for all outcomes; None for the AUC
    """

    aucs: list[float]
    mean: float
    deviation: float
    p_value: float | None
    level: float
    passed: bool
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    metric: str | None = field(default=None, metadata=ABSENT_IF_NONE)

    @classmethod
    def of(cls, aucs: list[float], metric: str | None = None) -> "Canary":
        """Test the scores of independent runs."""
        from scipy.stats import t, ttest_1samp  # takes long, and most studies have no canary

        mean, deviation = float(np.mean(aucs)), float(np.std(aucs, ddof=1))
        error, freedom = deviation / np.sqrt(len(aucs)), len(aucs) - 1
        margin = float(t.ppf(0.975, freedom) * error)
        detectable = min(1.0, 0.5 + float((t.ppf(1 - LEVEL / 2, freedom) + t.ppf(POWER, freedom)) * error))
        p_value = None if np.ptp(aucs) == 0 else float(ttest_1samp(aucs, 0.5).pvalue)
        passed = mean == 0.5 if p_value is None else p_value >= LEVEL
        return cls(
            aucs, mean, deviation, p_value, LEVEL, passed, mean - margin, mean + margin, detectable, metric
        )

    @property
    def score(self) -> str:
        """The name of the score."""
        return "AUC" if self.metric is None else metric_words(self.metric)

    @property
    def _target(self) -> str:
        return "labels" if self.metric is None else "outcomes"

    @property
    def figures(self) -> str:
        """The mean score with its interval, and the test, in a sentence."""
        p_value = "-" if self.p_value is None else f"{self.p_value:.3f}"
        return (
            f"{len(self.aucs)} runs on shuffled {self._target}: outer {self.score} {self.mean:.3f}, 95 %"
            f" interval {self.low:.3f} to {self.high:.3f}, standard deviation {self.deviation:.3f}; two-sided"
            f" t-test against 0.5: p = {p_value}, level {self.level}."
        )

    @property
    def meaning(self) -> str:
        """What a failure means, or what a pass does not show."""
        if not self.passed:
            return (
                f"The models predicted meaningless {self._target}: information leaks between patients, or the"
                " folds are not exchangeable. Do not trust the scores of this study. Read audit.json first."
            )
        if self.p_value is None:
            return UNSEEN
        return (
            f"A leak that raises the mean {self.score} to {self.detectable:.2f} would have failed with a"
            f" probability of {100 * POWER:.0f} %; a smaller one is easily missed. {UNSEEN}"
        )

    def __str__(self) -> str:
        return f"{'Canary passed.' if self.passed else 'CANARY FAILED.'} {self.figures} {self.meaning}"
