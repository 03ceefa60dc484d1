"""`Binary`: an outcome of two classes, of which class 1 is called positive."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.records import Json
from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.scoring import BINARY, Scoring
from mil_toolkit.outcomes.binary_text import BinaryText
from mil_toolkit.outcomes.labels import Labels
from mil_toolkit.outcomes.outcome import UNLABELLED, Lack, OutcomeRow, Parsed
from mil_toolkit.outcomes.sets import EITHER, SIGNS, ClassSets
from mil_toolkit.outcomes.words import (
    Words,
    parse_words,
    repeated_word_problems,
    words_by_key,
)

CLASSES = {"negative": 0, "positive": 1, "unlabelled": UNLABELLED}  # by the key that declares the words
THRESHOLD = 0.5  # for metrics that need a threshold before one has been fitted


def _nonconformity(probabilities: np.ndarray) -> np.ndarray:
    """Return one minus the predicted probability of each class, (..., 2)."""
    return np.stack([probabilities, 1 - probabilities], -1)


@dataclass(frozen=True)
class Binary(Labels):
    """A label of two classes; targets: (n,) of 1 for positive, 0 for negative and -1 for unlabelled patients.

    label: the column; positive, negative, unlabelled, exclude: its words
    """

    kind: ClassVar[str] = "binary"
    own_keys: ClassVar[frozenset[str]] = frozenset({"positive", "negative"})
    fixed_classes: ClassVar[bool] = True

    label: str | None = None
    positive: Words | None = None
    negative: Words | None = None
    unlabelled: Words | None = None
    exclude: Words | None = None

    def _words(self) -> dict[str, tuple[str | int, ...]]:
        """Return the declared words by their keys, class 0 first."""
        return words_by_key(
            negative=self.negative,
            positive=self.positive,
            unlabelled=self.unlabelled,
            exclude=self.exclude,
        )

    def missing_keys(self, given: Collection[str]) -> list[str]:
        """Return those of `positive` and `negative` that `[cohort]` lacks beside `label`."""
        return [key for key in ("positive", "negative") if "label" in given and key not in given]

    def declaration_problems(self, given: Collection[str]) -> Iterator[str]:
        """Yield whether words are declared without a column, or more than once."""
        if self.exclude is not None and "label" not in given:
            yield "exclude lists words of the label column, but label is missing."
        yield from repeated_word_problems(self._words())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The words for class 0 and class 1; several words of a class are joined with "or"."""
        return tuple(" or ".join(words or (str(number),)) for number, words in enumerate(self.class_words))

    @property
    def class_words(self) -> tuple[tuple[str, ...], ...]:
        """All words for class 0 and for class 1; empty if they are not declared."""
        words = self._words()
        return tuple(tuple(map(str, words.get(key, ()))) for key in ("negative", "positive"))

    def parse(self, rows: Sequence[OutcomeRow], decimal: str) -> Parsed:
        """Return the class of each row; without a label column, all are unlabelled."""
        if self.label is None:
            return Parsed(np.full(len(rows), UNLABELLED, dtype=np.int8), [])
        return parse_words(rows, self.label, self._words(), CLASSES)

    @property
    def stratum_names(self) -> dict[int, str]:
        """Both classes."""
        return {1: "positive", 0: "negative"}

    def lack(self, targets: np.ndarray) -> Lack | None:
        """Return that one class is missing, or None if both are there."""
        labels = np.unique(targets)
        if len(labels) != 1:
            return None
        name = printable(self.class_names[labels[0]])
        return Lack(f"patients of one class only, {name}", "Both classes must be among")

    @property
    def outputs(self) -> int:
        """A single logit, of class 1."""
        return 1

    def linear_start(self, x: np.ndarray, targets: np.ndarray, balanced: bool) -> np.ndarray:
        """Return the weights and the intercept of a logistic regression, (M + 1, 1)."""
        from sklearn.linear_model import LogisticRegression  # to apply a model, it is not needed

        regression = LogisticRegression(class_weight="balanced" if balanced else None).fit(x, targets)
        return np.append(regression.coef_[0], regression.intercept_[0])[:, None]

    @property
    def scoring(self) -> Scoring:
        """Labels, probabilities of class 1 and decisions."""
        return BINARY

    def predicted(self, outputs: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Predicted:
        """Return probabilities without calibration, decided at 0.5."""
        from scipy.special import expit  # a report that is up to date does without scipy

        probabilities = expit(outputs)
        return Predicted(targets, probabilities, probabilities >= THRESHOLD, folds)

    def decide(
        self, outputs: np.ndarray, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None
    ) -> Decision:
        """Fit calibration and threshold to out-of-fold logits (n,); raises as `fit_by_rule`."""
        from mil_toolkit.evaluation.decisions import fit_by_rule  # it imports pandas

        return fit_by_rule(outputs, targets, rule, groups)

    def check_rule(self, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None) -> None:
        """Raise DataError where the positive patients are too few for the confidence of a sensitivity."""
        from mil_toolkit.evaluation.decisions import sensitivity_to_reach  # it imports pandas

        sensitivity_to_reach(rule, targets, groups)

    @property
    def sets(self) -> ClassSets:
        """The sets "negative", "positive" and "either"."""
        return ClassSets(SIGNS, _nonconformity, everything=EITHER)

    @property
    def text(self) -> BinaryText:
        """Sentences about positive and negative patients."""
        return BinaryText()

    @classmethod
    def parse_decision(cls, value: Json) -> Decision:
        """Return calibration and threshold from JSON."""
        return msgspec.convert(value, Decision)
