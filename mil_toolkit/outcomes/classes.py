"""`Classes`: an outcome of several classes without an order."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np

from mil_toolkit.config.study import ThresholdRule
from mil_toolkit.core.cells import canonical_word
from mil_toolkit.core.records import Json
from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.class_calibration import (
    ClassDecision,
    SoftmaxDecision,
    fit_class_decision,
    last_largest,
)
from mil_toolkit.evaluation.class_scoring import class_scoring
from mil_toolkit.evaluation.metrics import Predicted
from mil_toolkit.evaluation.scoring import Scoring
from mil_toolkit.outcomes.classes_text import ClassesText
from mil_toolkit.outcomes.labels import Labels
from mil_toolkit.outcomes.outcome import UNLABELLED, Lack, OutcomeRow, Parsed
from mil_toolkit.outcomes.sets import ClassSets
from mil_toolkit.outcomes.words import Words, WordsByKey, parse_words, words_by_key

FEWEST, MOST = 2, 100  # classes


def _nonconformity(probabilities: np.ndarray) -> np.ndarray:
    """Return one minus the predicted probability of each class, (..., C)."""
    return 1 - probabilities


@dataclass(frozen=True)
class Classes(Labels):
    """A label of C classes; targets: (n,) of 0 to C - 1 in the declared order, -1 for unlabelled patients.

    label: the column; classes: a word for each class, or the words of each class by its name
    unlabelled, exclude: words of the column
    """

    kind: ClassVar[str] = "classes"
    own_keys: ClassVar[frozenset[str]] = frozenset({"classes"})

    label: str | None = None
    classes: Words | dict[str, Words] | None = None
    unlabelled: Words | None = None
    exclude: Words | None = None

    def _declared(self) -> list[tuple[str, tuple[str | int, ...]]]:
        """Return name and words of each class."""
        if isinstance(self.classes, dict):
            return list(words_by_key(**self.classes).items())
        return [(str(word), (word,)) for word in words_by_key(classes=self.classes).get("classes", ())]

    def _words(self) -> WordsByKey:
        """Return the declared words of the classes, and those of other rows, by what messages call them."""
        named = {f"class {name}": words for name, words in self._declared()}
        return named | words_by_key(unlabelled=self.unlabelled, exclude=self.exclude)

    def missing_keys(self, given: Collection[str]) -> list[str]:
        """Return `label` if `[cohort]` lacks it."""
        return [key for key in ("label",) if key not in given]

    def declaration_problems(self, given: Collection[str]) -> Iterator[str]:
        """Yield whether the classes are too few or too many, lack a name, or share words."""
        declared = self._declared()
        if not FEWEST <= len(declared) <= MOST and self.classes is not None:
            names = ", ".join(repr(name) for name, _ in declared[:MOST]) or "none"
            yield f"classes must name {FEWEST} to {MOST} classes, but the declared ones are: {names}."
        if any(not name.strip() for name, _ in declared):
            yield "classes: every class needs a name that is not blank."
        yield from self._shared_word_problems()

    def _shared_word_problems(self) -> Iterator[str]:
        uses: dict[str, list[str]] = defaultdict(list)  # what declares a word, by its canonical form
        others = words_by_key(unlabelled=self.unlabelled, exclude=self.exclude)
        named = [(f"the class {name!r}", words) for name, words in self._declared()]
        for owner, words in [*named, *others.items()]:
            for word in words:
                uses[canonical_word(word)].append(owner)
        for word, owners in uses.items():
            if len(owners) > 1:
                yield f"the word {word!r} is declared more than once, by {' and '.join(owners)}. Keep one."

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the declared order."""
        return tuple(name for name, _ in self._declared())

    @property
    def class_words(self) -> tuple[tuple[str, ...], ...]:
        """All words of each class."""
        return tuple(tuple(map(str, words)) for _, words in self._declared())

    def parse(self, rows: Sequence[OutcomeRow], decimal: str) -> Parsed:
        """Return the class of each row; without a label column, all are unlabelled."""
        if self.label is None:
            return Parsed(np.full(len(rows), UNLABELLED, dtype=np.int8), [])
        numbers = {f"class {name}": number for number, (name, _) in enumerate(self._declared()[:MOST])}
        return parse_words(rows, self.label, self._words(), numbers | {"unlabelled": UNLABELLED})

    @property
    def stratum_names(self) -> dict[int, str]:
        """All classes."""
        return dict(enumerate(map(printable, self.class_names)))

    def lack(self, targets: np.ndarray) -> Lack | None:
        """Return which classes are missing, or None if all are there."""
        missing = [name for number, name in self.stratum_names.items() if number not in targets]
        if not missing:
            return None
        return Lack(f"no patients of the class {' and '.join(missing)}", "All classes must be among")

    @property
    def outputs(self) -> int:
        """A logit for each class."""
        return len(self._declared())

    @property
    def has_class_logits(self) -> bool:
        """True: each output is the logit of a class."""
        return True

    def linear_start(self, x: np.ndarray, targets: np.ndarray, balanced: bool) -> np.ndarray:
        """Return the weights and the intercepts of a multinomial logistic regression, (M + 1, C)."""
        from sklearn.linear_model import LogisticRegression  # to apply a model, it is not needed

        regression = LogisticRegression(class_weight="balanced" if balanced else None).fit(x, targets)
        return symmetric(np.vstack([regression.coef_.T, regression.intercept_]))

    @property
    def scoring(self) -> Scoring:
        """Labels, probabilities of all classes, and decisions."""
        return class_scoring(self.class_names)

    def predicted(self, outputs: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Predicted:
        """Return probabilities without calibration, of which the largest decides."""
        from scipy.special import softmax  # a report that is up to date does without scipy

        probabilities = softmax(outputs, axis=-1)
        return Predicted(targets, probabilities, last_largest(probabilities), folds)

    def decide(
        self, outputs: np.ndarray, targets: np.ndarray, rule: ThresholdRule, groups: np.ndarray | None
    ) -> SoftmaxDecision:
        """Fit calibration and priors to out-of-fold logits (n, C)."""
        return fit_class_decision(outputs, targets, self.class_names)

    @property
    def sets(self) -> ClassSets:
        """The sets of the classes' names."""
        return ClassSets(tuple(map(printable, self.class_names)), _nonconformity)

    @property
    def text(self) -> ClassesText:
        """Sentences about the classes."""
        return ClassesText()

    @classmethod
    def parse_decision(cls, value: Json) -> SoftmaxDecision:
        """Return calibration and priors from JSON."""
        return msgspec.convert(value, ClassDecision)


def symmetric(logits: np.ndarray) -> np.ndarray:
    """Return scikit-learn's logits for C classes, (..., C): of two classes, it has only that of the second.

    >>> symmetric(np.array([[3.0]])).tolist()
    [[-1.5, 1.5]]
    """
    return logits if logits.shape[-1] > 1 else np.concatenate([-logits, logits], axis=-1) / 2
