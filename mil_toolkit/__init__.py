"""Multiple instance learning on bags of images with patient metadata, for blood smears.

The folders are the stages that data pass through; each one imports only from itself and those before it:

core          files, locks, processes, devices, seeds, text and cells of tables; it knows no patients
config        every setting: a field holds its default, its help text and its search range
evaluation    metrics, intervals, comparisons, calibration and splits
outcomes      what is predicted: its targets, and how they are declared, learned, scored and written
cohort        the patients: cohort.toml, the table, the metadata and the image files
backbones     pretrained networks, their weights, and how they embed images
model         the head: pooling, metadata branch and classifier; it imports only torch
features      embeddings on disk: the cache, and the extraction that fills it
training      training of heads: inputs, losses, the training loop and fine-tuning
search        everything that uses Optuna: search space, storage, trials and samplers
study         a run of mil-tune and its folder: nested cross-validation, scores, audit, ablation
bundle        the fitted model: fit, save, describe, predict and export to ONNX
report        the HTML page of a study
validation    external validation of a bundle: scores, refits, and the HTML page
estimator     the scikit-learn estimators
demo          the demonstration on a synthetic cohort
cli           the commands
"""

TYPE_CHECKING = False  # type checkers take it for true; importing typing would slow every command down
if TYPE_CHECKING:
    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.bundle.onnx import export_onnx
    from mil_toolkit.cohort.cohort import Cohort, read_cohort
    from mil_toolkit.config.extraction import ExtractionConfig
    from mil_toolkit.estimator import MILClassifier, MILRegressor, MILSurvival, load_patients
    from mil_toolkit.features.cache import FeatureCache
    from mil_toolkit.features.extract import extract

from mil_toolkit.core.version import __version__ as __version__

_HOMES = {
    "Cohort": "cohort.cohort",
    "ExtractionConfig": "config.extraction",
    "FeatureCache": "features.cache",
    "MILClassifier": "estimator.classifier",
    "MILRegressor": "estimator.regressor",
    "MILSurvival": "estimator.survival",
    "ModelBundle": "bundle.bundle",
    "export_onnx": "bundle.onnx",
    "extract": "features.extract",
    "load_patients": "estimator.cohorts",
    "read_cohort": "cohort.cohort",
}
__all__ = [
    "Cohort",
    "ExtractionConfig",
    "FeatureCache",
    "MILClassifier",
    "MILRegressor",
    "MILSurvival",
    "ModelBundle",
    "export_onnx",
    "extract",
    "load_patients",
    "read_cohort",
]


def __getattr__(name: str) -> object:
    """Import a public name's module when the name is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
