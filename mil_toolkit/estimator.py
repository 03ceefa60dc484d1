"""`MILClassifier`, a scikit-learn estimator, and `load_patients`, which returns a cohort as `X` and `y`."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from inspect import Parameter, Signature
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.settings import head_config
from mil_toolkit.config.study import StudyConfig, ThresholdRule
from mil_toolkit.config.tunable import tunables
from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.seeds import FINAL, derive_seed, inner_folds_path, members_path, trial_path
from mil_toolkit.core.text import count_of, some
from mil_toolkit.evaluation.calibration import THRESHOLDS
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.scoring import Predictions
from mil_toolkit.evaluation.splits import make_splits
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.training.arrays import BAG, BagError, Data, patients_of_arrays
from mil_toolkit.training.curves import decide
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.new_columns import column_problems, unseen_lines
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial

if TYPE_CHECKING:
    from sklearn.utils import Tags  # scikit-learn 1.5 does not have it yet

logger = logging.getLogger(__name__)
ParameterValue = bool | int | float | str | None
# The parameters are the fields of HeadConfig, the fields of StudyConfig that concern a single configuration,
# and two that only the estimator has.
_STUDY_PARAMETERS = (
    "folds",
    "members",
    "objective",
    "threshold",
    "sensitivity",
    "sensitivity_confidence",
    "seed",
)
_DEFAULTS: Mapping[str, ParameterValue] = {
    **asdict(HeadConfig()),
    **{name: getattr(StudyConfig(), name) for name in _STUDY_PARAMETERS},
    "positive": None,
    "device": "auto",
}


def load_patients(cohort: Cohort, cache: FeatureCache | None) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a cohort and its features as `X, y` for `MILClassifier` and tools of scikit-learn.

    X: one row per patient, indexed by patient id. It has the metadata columns, with numbers in the declared
        unit; where the cohort declares a logarithm, the column is called `log NAME` and holds the logarithm.
        The column `bag` holds each patient's embeddings (n, D) float16 in the order of its images; it is
        absent without a cache.
    y: (B,) the table's words for the labels, None where unlabelled; `cohort.labelled()` leaves these patients
        out

    Raises DataError for patients without embeddings, and if a metadata column is called `bag`; UsageError for
    an outcome without classes.
    """
    if not cohort.class_names:
        kind = cohort.outcome.kind
        raise UsageError(f"scikit-learn's y holds classes here, and the outcome {kind} has none.")
    patients = Patients.of(cohort, cache)
    if BAG in patients.metadata:
        raise DataError(
            f"{cohort.source}: rename [metadata.{BAG}]; the column {BAG} is reserved for the embeddings here."
        )
    table = patients.metadata.copy()
    for name in patients.log_columns:
        table[name] = np.log(table[name])
    table = table.rename(columns={name: f"log {name}" for name in patients.log_columns})
    if patients.bags is not None:
        bags = patients.bags.instances.split(patients.bags.sizes.tolist())
        table[BAG] = pd.Series([bag.numpy() for bag in bags], table.index, dtype=object)
    words = np.array([*cohort.class_names, None], dtype=object)
    return table, words[patients.labels]


class MILClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Multiple instance classifier of two classes, with metadata, as a scikit-learn estimator.

    `X` is either

    - a sequence of B bags, each an array (n, D) of n embeddings, where n may differ between bags; or
    - a pandas table of B rows, as returned by `load_patients`. Its column `bag` holds such arrays, and all
      other columns are metadata: numbers (NaN where missing) or categories (None where missing). Without a
      column `bag`, the model uses metadata only.

    `fit` does what `mil-tune` does for a single configuration, and then what `mil-fit` does: inner
    cross-validation with `folds` folds of the training bags chooses the number of epochs, and calibration and
    threshold are fitted to its out-of-fold predictions. Then `members` heads are fitted on all training bags;
    their logits are averaged. Everything that is fitted (scaling, components, imputation) uses training bags
    only, so the scores of `cross_val_score` are those of held-out bags that had no part in these choices. To
    choose other parameters as well, wrap the estimator in GridSearchCV, and pass that to cross_val_score.

    Parameters of the procedure:

    - folds: number of inner folds, stratified by class; 1 for a single 80/20 split
    - members: number of seeds whose logits are averaged
    - objective: the metric that chooses the number of epochs
    - threshold: the rule for the threshold of `predict`: `share` (the share of positives), `balanced` (the
      highest balanced accuracy) or `half` (0.5)
    - sensitivity: sensitivity that the threshold has to reach, between 0 and 1; replaces `threshold`
    - sensitivity_confidence: if given, the lower bound of the sensitivity at this confidence must reach it
    - seed: all random numbers derive from it
    - positive: the positive class, to which sensitivity refers; by default the last one of `classes_`
    - device: auto, cpu, cuda or cuda:i

    Attributes after `fit`:

    - classes_: (2,) the classes, sorted
    - n_features_in_: D, or the number of columns without bags
    - feature_names_in_: the columns of X, if X is a table
    - n_epochs_: the chosen number of epochs
    - decision_: calibration and threshold (`Decision`)
    - head_: the fitted members (`FittedHead`)

    A fitted estimator can be pickled like any other of scikit-learn. Loading a pickle can run arbitrary code,
    so use `mil-fit` for models that are passed on. Attention pooling follows Ilse et al. 2018; the README
    describes the procedure.

    Parameters of the head:
    """

    def __init__(self, **parameters: ParameterValue) -> None:
        unknown = parameters.keys() - _DEFAULTS.keys()
        if unknown:
            raise TypeError(f"MILClassifier has no parameter {', '.join(sorted(unknown))}.")
        for name, value in {**_DEFAULTS, **parameters}.items():
            setattr(self, name, value)

    # scikit-learn, and the help of a notebook, read the parameters from this signature.
    __init__.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter("self", Parameter.POSITIONAL_OR_KEYWORD),
            *(Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in _DEFAULTS.items()),
        ]
    )
    __doc__ += "".join(f"\n    - {name}: {setting.help}" for name, setting in tunables(HeadConfig).items())

    def __sklearn_tags__(self) -> "Tags":
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, X: Data, y: ArrayLike, groups: ArrayLike | None = None) -> "MILClassifier":
        """Fit on B bags with labels y (B,) of two classes.

        groups: (B,), bags of the same group always stay in the same inner fold, and count as one where a
            confidence bound of the sensitivity is required

        Raises BagError for bags, labels or parameters that cannot be used, DataError if a class has fewer
        bags than there are folds, and UsageError for a device that does not exist.
        """
        config = self._head_config()
        rule = ThresholdRule(self.threshold, self.sensitivity, self.sensitivity_confidence)
        labels = _class_labels(y)
        patients = patients_of_arrays(X, self._encode_labels(labels))
        self._remember(X, patients)
        device = pick_device(self.device)
        dtype = training_dtype(device)
        groups = None if groups is None else np.asarray(groups)
        seed = derive_seed(*inner_folds_path(self.seed, FINAL))
        splits, _ = make_splits(patients.labels, self.folds, seed, groups=groups)
        inputs = Inputs(replace(patients, groups=groups), [split.train for split in splits], device, dtype)
        trial_seed, member_seed = trial_path(self.seed, FINAL, 0), members_path(self.seed, FINAL)
        with explain_out_of_memory("Use a smaller batch_size, or device='cpu'."):
            self.n_epochs_ = run_trial(inputs, config, self.objective, trial_seed).epoch
            curves = cross_fit_members(inputs, config, self.n_epochs_, self.members, member_seed)
            self.decision_ = decide(curves, rule)
            self.head_ = refit(patients, config, self.n_epochs_, self.members, member_seed, device, dtype)
        return self

    def predict_proba(self, X: Data) -> np.ndarray:
        """Return calibrated probabilities (B, 2) in the order of `classes_`.

        Raises NotFittedError before `fit`, and BagError for bags that cannot be used or differ from those of
        `fit`, also where a word differs in its spelling only. Warns of words that `fit` never saw, which
        count as missing.
        """
        positive = self._predictions(X).values
        both = np.stack([1 - positive, positive], axis=1)
        return both if self._positive_index() == 1 else both[:, ::-1]

    def predict(self, X: Data) -> np.ndarray:
        """Return classes (B,) by the fitted threshold, which may not be 0.5; raises as `predict_proba`."""
        positive = self._predictions(X).decisions
        return self.classes_[np.where(positive, self._positive_index(), 1 - self._positive_index())]

    def spread(self, X: Data) -> np.ndarray:
        """Return the standard deviation (B,) of the members' probabilities: how far they disagree.

        Raises as `predict_proba`.
        """
        logits = self._logits(X)
        return self.decision_.predict(logits).values.std(0)

    def attention(self, X: Data) -> list[np.ndarray]:
        """Return the mean attention over members, one array (n,) per bag, which sums to one.

        Raises BagError if the model uses no bags, and as `predict_proba`.
        """
        patients = self._new_patients(X)
        attention = self.head_.apply(patients).attention
        if attention is None or patients.bags is None:
            raise BagError("This model uses only metadata: there is no attention.")
        return np.split(attention, patients.bags.offsets[1:-1].numpy())

    def _head_config(self) -> HeadConfig:
        """Return the configuration of the head; raises BagError that lists every invalid parameter."""
        problems = self._procedure_problems()
        if self.features != HeadConfig().features:
            problems.append(
                f"features={self.features!r}: there is one view, the bags of X. Put the columns of several"
                " views side by side."
            )
        try:
            config = head_config({field.name: getattr(self, field.name) for field in fields(HeadConfig)})
        except UsageError as error:
            problems.append(str(error))
        if problems:
            raise BagError(problems)
        return config

    def _procedure_problems(self) -> list[str]:
        """Return a message for every invalid parameter of the procedure."""
        problems = [
            f"{name}={getattr(self, name)!r} is not an integer."
            for name in ("folds", "members", "seed")
            if not isinstance(getattr(self, name), Integral)
        ]
        try:
            if not problems:
                StudyConfig(**{name: getattr(self, name) for name in _STUDY_PARAMETERS})
        except UsageError as error:
            problems.append(str(error).replace("--", ""))
        for name, known in (("objective", METRICS), ("threshold", THRESHOLDS)):
            if getattr(self, name) not in known:
                problems.append(f"{name}={getattr(self, name)!r} is not one of {', '.join(known)}.")
        return problems

    def _encode_labels(self, labels: np.ndarray) -> np.ndarray:
        """Set `classes_`, and return 1 for the positive class and 0 for the negative class, (B,)."""
        self.classes_ = np.unique(labels)
        if len(self.classes_) != 2 or (self.positive is not None and self.positive not in self.classes_):
            wanted = "" if self.positive is None else f", one of them {self.positive!r}"
            classes = ", ".join(map(repr, self.classes_.tolist()[:9]))
            raise BagError(
                f"Expected labels of two classes{wanted}; y holds {classes}"
                f" ({count_of(len(self.classes_), 'class', 'classes')}, {type_of_target(labels)})."
                " Only binary classification is supported."
            )
        return (labels == self.classes_[self._positive_index()]).astype(np.int64)

    def _positive_index(self) -> int:
        """Return the position of the positive class in `classes_`."""
        return 1 if self.positive is None else int(np.flatnonzero(self.classes_ == self.positive)[0])

    def _remember(self, X: Data, patients: Patients) -> None:
        """Set the attributes by which scikit-learn compares new data with those of `fit`."""
        self.n_features_in_ = _feature_count(patients)
        if isinstance(X, pd.DataFrame):
            self.feature_names_in_ = X.columns.to_numpy(dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _predictions(self, X: Data) -> Predictions:
        """Return the calibrated probabilities (B,) of the positive class, and whether it is predicted."""
        logits = self._logits(X).mean(0)  # checked first, since there is no decision_ before fit
        return self.decision_.predict(logits)

    def _logits(self, X: Data) -> np.ndarray:
        """Return the members' logits (K, B)."""
        patients = self._new_patients(X)  # checked first, since there is no head_ before fit
        return self.head_.apply(patients).logits

    def _new_patients(self, X: Data) -> Patients:
        """Return the patients to predict; raises BagError where their columns differ from those of `fit`."""
        check_is_fitted(self)
        patients = patients_of_arrays(X)
        fitted = {encoder.name for encoder in self.head_.encoder.encoders}
        given = set(patients.metadata)
        problems = [f"X has no column {name!r}, which fit saw." for name in fitted - given]
        problems += [f"X has a column {name!r}, which fit did not see." for name in given - fitted]
        if not problems:
            problems = column_problems(self.head_.encoder, patients.metadata)
        width = _feature_count(patients)
        if width != self.n_features_in_ and not problems:
            problems = [
                f"X has {width} features, but MILClassifier is expecting {self.n_features_in_} features."
            ]
        if problems:
            raise BagError(sorted(problems))
        for line in unseen_lines(self.head_.encoder, patients.metadata):
            logger.warning("%s", line)
        return patients


def _feature_count(patients: Patients) -> int:
    """Return the width of the embeddings, or the number of metadata columns without bags."""
    return patients.metadata.shape[1] if patients.bags is None else patients.bags.width


def _class_labels(y: ArrayLike) -> np.ndarray:
    """Return y as an array (B,); raises BagError for missing labels, and for numbers among words."""
    values = np.asarray(column_or_1d(np.asarray(y, dtype=object)), dtype=object)
    missing = np.flatnonzero(pd.isna(values)).tolist()
    if missing:
        raise BagError(f"y has no label at {some(missing)}: leave these bags out.")
    kinds = {isinstance(value, str) for value in values}
    if len(kinds) > 1:
        examples = sorted({repr(value) for value in values})
        raise BagError(f"Expected labels of one kind; y holds numbers and words: {some(examples)}.")
    return np.asarray(column_or_1d(y))
