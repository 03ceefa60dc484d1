"""Bags of images with patient metadata: from a folder of blood smears to a classifier.

The folders are the stages of the data's way; each imports only from those before it:

core          files, locks, processes, devices, seeds, text; knows no patients
config        every setting: a field is its default, its help and its search range
evaluation    what predictions are worth: metrics, intervals, calibration, splits
cohort        who the patients are: cohort.toml, the table, metadata, image files
backbones     pretrained networks, their weights, and how they embed images
model         the head: pooling, metadata branch, classifier; torch alone
features      from an image to an embedding on disk: the cache and what fills it
training      how heads learn: inputs, losses, training loop, fine-tuning
search        everything that knows Optuna: search space, storage, trials, samplers
study         an experiment and its folder: nested search, scores, audit, ablation
bundle        the model that leaves: fit, save, describe, predict, ONNX
report        the HTML page of a study
estimator, demo, cli   the faces: a scikit-learn estimator, the demo, the commands
"""

TYPE_CHECKING = False  # a type checker takes it for true; importing typing would take a while
if TYPE_CHECKING:
    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.bundle.onnx import export_onnx
    from mil_toolkit.cohort.cohort import Cohort, read_cohort
    from mil_toolkit.config import ExtractionConfig
    from mil_toolkit.estimator import MILClassifier, load_patients
    from mil_toolkit.features.cache import FeatureCache
    from mil_toolkit.features.extract import extract

from mil_toolkit.core.version import __version__ as __version__

_HOMES = {
    "Cohort": "cohort.cohort",
    "ExtractionConfig": "config",
    "FeatureCache": "features.cache",
    "MILClassifier": "estimator",
    "ModelBundle": "bundle.bundle",
    "export_onnx": "bundle.onnx",
    "extract": "features.extract",
    "load_patients": "estimator",
    "read_cohort": "cohort.cohort",
}
__all__ = [
    "Cohort",
    "ExtractionConfig",
    "FeatureCache",
    "MILClassifier",
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
