"""`MILEstimator`: fit and prediction as all estimators share them."""

import logging
from dataclasses import replace
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.device_memory import explain_out_of_memory
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.seeds import FINAL, derive_seed, inner_folds_path, members_path, trial_path
from mil_toolkit.core.text import count_of
from mil_toolkit.estimator.parameters import check_for_outcome, read_parameters
from mil_toolkit.evaluation.scoring import Predictions
from mil_toolkit.evaluation.splits import Split, make_splits
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.training.arrays import BagError, Data, patients_of_arrays
from mil_toolkit.training.curves import decide
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.new_columns import column_problems, unseen_lines
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial

logger = logging.getLogger(__name__)


class MILEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator of bags; a subclass has the parameters, and says what `y` holds."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "head_")

    def fit(self, X: Data, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit on B bags with outcomes y (B,).

        groups: (B,), bags of the same group always stay in the same inner fold, and count as one where a
            confidence bound of the sensitivity is required

        Raises BagError for bags, outcomes or parameters that cannot be used, and if every fold cannot have
        bags of each class, or of both sides of the horizon; UsageError for a device that does not exist.
        """
        config, study = read_parameters(self.get_params(deep=False))
        outcome, targets = self._read_outcomes(y)
        check_for_outcome(config, study, outcome.kind)
        patients = replace(patients_of_arrays(X, targets), outcome=outcome)
        if groups is not None:
            patients = replace(patients, groups=_groups(groups, len(targets)))
        self._remember(X, patients)
        with explain_out_of_memory("Use a smaller batch_size, or device='cpu'."):
            self._fit(patients, config, study)
        return self

    def _read_outcomes(self, y: ArrayLike) -> tuple[Outcome, np.ndarray]:
        """Return the outcome and its targets (B, ...); raises BagError for values that cannot be used."""
        raise NotImplementedError

    def _fit(self, patients: Patients, config: HeadConfig, study: StudyConfig) -> None:
        """Choose the number of epochs, fit the decision rule, and fit the members."""
        device = pick_device(self.device)
        dtype = training_dtype(device)
        inputs = Inputs(patients, [split.train for split in _inner_splits(patients, study)], device, dtype)
        trial_seed, member_seed = trial_path(study.seed, FINAL, 0), members_path(study.seed, FINAL)
        self.n_epochs_ = run_trial(inputs, config, study.objective, trial_seed).epoch
        curves = cross_fit_members(inputs, config, self.n_epochs_, study.members, member_seed)
        self.decision_ = decide(curves, study.threshold_rule)
        self.head_ = refit(patients, config, self.n_epochs_, study.members, member_seed, device, dtype)

    def spread(self, X: Data) -> np.ndarray:
        """Return the standard deviation of the members' predictions: how far they disagree.

        Shapes: (B,), of several classes (B, C) in the order of `classes_`
        Raises as `predict`.
        """
        return np.asarray(self._values(self._logits(X)).std(0))

    def attention(self, X: Data) -> list[np.ndarray]:
        """Return the mean attention over members, one array (n,) per bag, which sums to one.

        With `attention_heads="classes"`, the arrays are (n, C): a column, which sums to one, for each of
        `classes_`.

        Raises BagError if the model uses no bags, and as `predict`.
        """
        patients = self._new_patients(X)
        attention = self.head_.apply(patients).attention
        if attention is None or patients.bags is None:
            raise BagError("This model uses only metadata: there is no attention.")
        return np.split(attention, patients.bags.offsets[1:-1].numpy())

    def _values(self, outputs: np.ndarray) -> np.ndarray:
        """Return what is predicted from outputs of the head: (..., B) or (..., B, C)."""
        return np.asarray(self.decision_.predict(outputs).values)

    def _remember(self, X: Data, patients: Patients) -> None:
        """Set the attributes by which scikit-learn compares new data with those of `fit`."""
        self.n_features_in_ = _feature_count(patients)
        if isinstance(X, pd.DataFrame):
            self.feature_names_in_ = X.columns.to_numpy(dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _predictions(self, X: Data) -> Predictions:
        """Return the calibrated predictions, from the mean output of the members."""
        logits = self._logits(X).mean(0)  # checked first, since there is no decision_ before fit
        predictions: Predictions = self.decision_.predict(logits)
        return predictions

    def _logits(self, X: Data) -> np.ndarray:
        """Return the members' outputs (K, B) or (K, B, C)."""
        patients = self._new_patients(X)  # checked first, since there is no head_ before fit
        return np.asarray(self.head_.apply(patients).logits)

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
            expected = f"{type(self).__name__} is expecting {self.n_features_in_} features."
            problems = [f"X has {width} features, but {expected}"]
        if problems:
            raise BagError(sorted(problems))
        for line in unseen_lines(self.head_.encoder, patients.metadata):
            logger.warning("%s", line)
        return patients


def _groups(groups: ArrayLike, count: int) -> np.ndarray:
    """Return the group of each bag, (B,); raises BagError unless there is one for each of `count` bags."""
    values = np.asarray(groups)
    if values.shape != (count,):
        size = f"an array {values.shape}" if values.ndim != 1 else count_of(len(values), "value")
        raise BagError(f"groups holds {size}, X {count_of(count, 'bag')}.")
    return values


def _inner_splits(patients: Patients, study: StudyConfig) -> list[Split]:
    """Return the inner folds; raises BagError where the bags lack what the outcome needs."""
    outcome, targets = patients.outcome, patients.labels
    if len(targets) == 1:
        raise BagError("fit needs more than one bag, but n_samples = 1.")
    lack = outcome.lack(targets)
    if lack is not None:
        raise BagError(f"y has {lack.what}. {lack.need} the bags.")
    seed = derive_seed(*inner_folds_path(study.seed, FINAL))
    strata, names = outcome.strata(targets), outcome.stratum_names
    try:
        return make_splits(strata, study.folds, seed, groups=patients.groups, names=names)[0]
    except DataError as error:
        raise BagError(error.problems) from None


def _feature_count(patients: Patients) -> int:
    """Return the width of the embeddings, or the number of metadata columns without bags."""
    return patients.metadata.shape[1] if patients.bags is None else patients.bags.width
