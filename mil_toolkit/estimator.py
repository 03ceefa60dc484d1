"""`MILClassifier`: `fit` and `predict_proba` on bags; `load_patients` turns a cohort and its features into such bags."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from inspect import Parameter, Signature
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, column_or_1d

from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config import HeadConfig, StudyConfig, head_config, tunables
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.seeds import MEMBERS, derive_seeds
from mil_toolkit.core.text import some
from mil_toolkit.evaluation.calibration import THRESHOLDS
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.splits import make_splits
from mil_toolkit.features.bags import Bags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study.plan import FINAL
from mil_toolkit.training.curves import decide
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import refit, run_again, run_trial

BAG = "bag"  # the column of bags in a table of patients
# The parameters are the fields of HeadConfig, those of StudyConfig that concern one configuration, and these.
_OF_STUDY = ("folds", "members", "objective", "threshold", "sensitivity", "seed")
_OWN: dict[str, Any] = {"positive": None, "device": "auto"}
_DEFAULTS = {
    **asdict(HeadConfig()),
    **{name: getattr(StudyConfig(), name) for name in _OF_STUDY},
    **_OWN,
}


class BagError(DataError, ValueError):
    """Bags, labels or parameters that cannot be used; also a ValueError, as scikit-learn's own checks raise."""


def load_patients(cohort: Cohort, cache: FeatureCache | None) -> tuple[pd.DataFrame, np.ndarray]:
    """A cohort and its features as `X, y` for `MILClassifier` and everything in scikit-learn that takes estimators.

    X: a row a patient, with its id as index; the metadata columns, numbers in the declared unit (where the cohort
        declares a logarithm, that of the number, as `log NAME`); and `bag`, each patient's embeddings (n, D)
        float16 in the order of its images; without a cache no `bag`
    y: (B,) the table's words for the labels, None where unlabelled: for these take `cohort.labelled()`

    Raises DataError for patients without embeddings, and where a metadata column is called `bag`.
    """
    patients = Patients.of(cohort, cache)
    if BAG in patients.metadata:
        raise DataError(
            f"{cohort.source}: [metadata.{BAG}] needs another name here, where {BAG} are the embeddings."
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
    """A multiple instance head with metadata, as an estimator of scikit-learn; two classes.

    `X` is one of

    - a sequence of B bags, each an array (n, D) of n embeddings, n differing from bag to bag;
    - a pandas table of B rows, whose column `bag` holds such arrays and whose other columns are metadata: numbers
      (NaN where missing) or categories (None where missing). Without a column `bag` it is metadata alone. This is
      what `load_patients` gives.

    `fit` does what `mil-tune` does with one configuration and `mil-fit` with the best: `folds` inner folds of the
    training bags choose the number of epochs, then calibration and threshold on their out-of-fold predictions; then
    `members` heads are fitted on all training bags, and their logits averaged. So nothing that `cross_val_score`
    scores was used to choose anything, and everything fitted (scaler, components, imputation) is fitted on training
    bags alone. To choose other parameters too, put it into GridSearchCV, and that into cross_val_score.

    Parameters of the procedure:

    - folds: inner folds, stratified by class; 1 for a single 80/20 split
    - members: seeds that are averaged
    - objective: the metric that chooses the number of epochs
    - threshold: the rule that chooses the threshold of `predict`: `share` (as many positives as there are), `balanced`
      (the highest balanced accuracy) or `half`
    - sensitivity: required of the threshold instead, between 0 and 1
    - seed: everything random derives from it
    - positive: the class that is looked for (sensitivity); by default the last of `classes_`
    - device: auto, cpu, cuda or cuda:i

    Attributes after `fit`:

    - classes_: (2,) the classes, sorted; n_features_in_: D, or the number of columns without bags
    - feature_names_in_: the metadata columns, where X is a table
    - n_epochs_: epochs that were chosen; decision_: calibration and threshold (`Decision`)
    - head_: the fitted members (`FittedHead`)

    A fitted estimator can be pickled, as all of scikit-learn's; a pickle runs whatever its author wrote, so a model
    to hand over comes from `mil-fit` instead. Attention pooling follows Ilse et al. 2018; the procedure is described
    in the README.

    Parameters of the head:
    """

    def __init__(self, **parameters: Any) -> None:
        unknown = parameters.keys() - _DEFAULTS.keys()
        if unknown:
            raise TypeError(f"MILClassifier has no parameter {', '.join(sorted(unknown))}.")
        for name, value in {**_DEFAULTS, **parameters}.items():
            setattr(self, name, value)

    # scikit-learn, and a notebook's help, read the parameters off here.
    __init__.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter("self", Parameter.POSITIONAL_OR_KEYWORD),
            *(Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in _DEFAULTS.items()),
        ]
    )
    __doc__ += "".join(f"\n    - {name}: {about.help}" for name, about in tunables(HeadConfig).items())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, X: Any, y: Any, groups: Any = None) -> "MILClassifier":
        """Fit on B bags with their labels y (B,), of two classes.

        groups: (B,), bags that share one are never divided by an inner fold
        Raises BagError for bags, labels or parameters that cannot be used, DataError where a class has fewer bags than
        folds, UsageError for a device that is not there.
        """
        config = self._checked()
        labels = _labels(y)
        patients = _patients(X, self._numbered(labels))
        self._remember(X, patients)
        place = pick_device(self.device)
        dtype = training_dtype(place)
        seeds = self.seed, *FINAL
        shared = None if groups is None else np.asarray(groups)
        splits, _ = make_splits(patients.labels, self.folds, derive_seeds(1, *seeds)[0], groups=shared)
        inputs = Inputs(patients, [split.train for split in splits], place, dtype)
        self.n_epochs_ = run_trial(inputs, config, self.objective, (*seeds, 0)).epoch
        again = run_again(inputs, config, self.n_epochs_, self.members, (*seeds, MEMBERS))
        self.decision_ = decide(again, self.threshold, self.sensitivity)
        self.head_ = refit(patients, config, self.n_epochs_, self.members, (*seeds, MEMBERS), place, dtype)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities (B, 2) in the order of `classes_`; raises BagError as `fit`, or NotFittedError."""
        positive = self._probabilities(X)
        both = np.stack([1 - positive, positive], axis=1)
        return both if self._place() == 1 else both[:, ::-1]

    def predict(self, X: Any) -> np.ndarray:
        """Classes (B,) by the fitted threshold, which need not lie at one half; raises as `predict_proba`."""
        positive = self._probabilities(X) >= self.decision_.threshold
        return self.classes_[np.where(positive, self._place(), 1 - self._place())]

    def spread(self, X: Any) -> np.ndarray:
        """Standard deviation (B,) of the members' own probabilities: how far they disagree. Raises as
        `predict_proba`."""
        logits = self._logits(X)
        return self.decision_.probabilities(logits).std(0)

    def attention(self, X: Any) -> list[np.ndarray]:
        """What each instance weighed, one array (n,) a bag that sums to one, the mean over members.

        Raises BagError where the model looks at no bags, and as `predict_proba`.
        """
        patients = self._new_patients(X)
        attention = self.head_.apply(patients).attention
        if attention is None or patients.bags is None:
            raise BagError("This model looks at metadata alone: there is no attention.")
        return np.split(attention, patients.bags.offsets[1:-1].numpy())

    def _checked(self) -> HeadConfig:
        """The head's configuration; raises BagError that names every parameter that cannot be."""
        problems = [
            f"{name}={getattr(self, name)!r} is no whole number."
            for name in ("folds", "members", "seed")
            if not isinstance(getattr(self, name), Integral)
        ]
        try:
            if not problems:
                StudyConfig(**{name: getattr(self, name) for name in _OF_STUDY})
        except UsageError as error:
            problems.append(str(error).replace("--", ""))
        for name, known in (("objective", METRICS), ("threshold", THRESHOLDS)):
            if getattr(self, name) not in known:
                problems.append(f"{name}={getattr(self, name)!r} is none of {', '.join(known)}.")
        try:
            config = head_config({field.name: getattr(self, field.name) for field in fields(HeadConfig)})
        except UsageError as error:
            problems.append(str(error))
        if problems:
            raise BagError(problems)
        return config

    def _numbered(self, labels: np.ndarray) -> np.ndarray:
        """1 for the positive class, 0 for the other (B,); learns `classes_`."""
        self.classes_ = np.unique(labels)
        if len(self.classes_) != 2 or (self.positive is not None and self.positive not in self.classes_):
            wanted = "" if self.positive is None else f", one of them {self.positive!r}"
            found = ", ".join(map(repr, self.classes_.tolist()[:9]))
            raise BagError(f"Expected labels of two classes{wanted}; y holds {found}.")
        return (labels == self.classes_[self._place()]).astype(np.int64)

    def _place(self) -> int:
        """Of the positive class in `classes_`."""
        return 1 if self.positive is None else int(np.flatnonzero(self.classes_ == self.positive)[0])

    def _remember(self, X: Any, patients: Patients) -> None:
        self.n_features_in_ = _width(patients)
        if isinstance(X, pd.DataFrame):
            self.feature_names_in_ = X.columns.to_numpy(dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _probabilities(self, X: Any) -> np.ndarray:
        """(B,) of the positive class."""
        logits = self._logits(X).mean(0)
        return self.decision_.probabilities(logits)

    def _logits(self, X: Any) -> np.ndarray:
        """(K, B)"""
        patients = self._new_patients(X)  # which says NotFittedError where there is no head yet
        return self.head_.apply(patients).logits

    def _new_patients(self, X: Any) -> Patients:
        """Bags to predict; raises BagError where they are not such as those of `fit`."""
        check_is_fitted(self)
        patients = _patients(X)
        known = {each.name for each in self.head_.encoder.encoders}
        problems = [f"X has no column {name!r}, which fit saw." for name in known - set(patients.metadata)]
        problems += [
            f"X has a column {name!r}, which fit did not see." for name in set(patients.metadata) - known
        ]
        if (found := _width(patients)) != self.n_features_in_ and not problems:
            problems = [
                f"X has {found} features, but MILClassifier is expecting {self.n_features_in_} features."
            ]
        if problems:
            raise BagError(sorted(problems))
        return patients


def _width(patients: Patients) -> int:
    return patients.metadata.shape[1] if patients.bags is None else patients.bags.instances.shape[1]


def _labels(y: Any) -> np.ndarray:
    labels = column_or_1d(y)
    missing = np.flatnonzero(pd.isna(labels)).tolist()
    if missing:
        raise BagError(f"y has no label at {some(missing)}: leave these bags out.")
    return np.asarray(labels)


def _patients(X: Any, labels: np.ndarray | None = None) -> Patients:
    """B patients, called by their places; raises BagError that names every bag and column that cannot be used."""
    problems: list[str] = []
    table = X.reset_index(drop=True) if isinstance(X, pd.DataFrame) else _table(X)
    if not len(table) or (labels is not None and len(labels) != len(table)):
        raise BagError(f"X holds {len(table)} bags, y {'none' if labels is None else len(labels)}.")
    table.index = table.index.map(str)
    bags = _bags(list(table[BAG]), problems) if BAG in table else None
    columns = {str(name): _column(table[name], problems) for name in table if name != BAG}
    if problems:
        raise BagError(problems)
    unlabelled = np.full(len(table), -1)
    return Patients(bags, unlabelled if labels is None else labels, pd.DataFrame(columns, table.index))


def _table(bags: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame({BAG: pd.Series(list(bags), dtype=object)})


def _bags(values: Sequence[Any], problems: list[str]) -> Bags | None:
    arrays = [np.asarray(value) for value in values]
    shapes = [array.shape for array in arrays]
    wrong = [f"{shape} at {place}" for place, shape in enumerate(shapes) if len(shape) != 2 or not shape[0]]
    if wrong:
        problems.append(f"Expected bags (n, D) of one embedding or more; of another shape: {some(wrong)}.")
        return None
    widths = {shape[1] for shape in shapes}
    if len(widths) > 1:
        problems.append(f"Expected bags (n, D) of one width D, got the widths {some(sorted(widths))}.")
        return None
    unusable = [place for place, array in enumerate(arrays) if not _finite(array)]
    if unusable:
        problems.append(f"Expected embeddings of finite numbers, got others in the bags at {some(unusable)}.")
        return None
    kind = np.float16 if all(array.dtype == np.float16 for array in arrays) else np.float32
    tensors = [torch.from_numpy(np.ascontiguousarray(array, dtype=kind)) for array in arrays]
    names = [str(place) for shape in shapes for place in range(shape[0])]
    return Bags.pack(tensors, [str(place) for place in range(len(arrays))], names)


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind in "fiu" and bool(np.isfinite(array).all())


def _column(values: pd.Series, problems: list[str]) -> pd.Series:
    """A metadata column as `MetadataEncoder` takes it: float with NaN, or object with text and None."""
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.astype(float)
        infinite = np.flatnonzero(np.isinf(numbers)).tolist()
        if infinite:
            problems.append(f"Column {values.name!r} is infinite at {some(infinite)}.")
        return numbers
    if pd.api.types.is_datetime64_any_dtype(values):
        problems.append(f"Column {values.name!r} holds dates. Make numbers of them, such as an age in years.")
    return pd.Series([None if pd.isna(each) else str(each) for each in values], values.index, dtype=object)
