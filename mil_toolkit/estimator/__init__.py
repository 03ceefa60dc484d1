"""The scikit-learn estimators, and a cohort as their `X` and `y`."""

from mil_toolkit.estimator.classifier import MILClassifier as MILClassifier
from mil_toolkit.estimator.cohorts import load_patients as load_patients
from mil_toolkit.estimator.regressor import MILRegressor as MILRegressor
from mil_toolkit.estimator.survival import MILSurvival as MILSurvival
from mil_toolkit.training.arrays import BagError as BagError
