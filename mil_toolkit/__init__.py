# Floor 0: the package's name, version and public names, nothing that takes time to import.
"""Bags of images with patient metadata: from a folder of blood smears to a classifier."""

TYPE_CHECKING = False  # a type checker takes it for true; typing itself would take a while to import
if TYPE_CHECKING:
    from mil_toolkit.bundle import ModelBundle
    from mil_toolkit.cohort import Cohort, read_cohort
    from mil_toolkit.estimator import MILClassifier, load_patients
    from mil_toolkit.extraction import extract
    from mil_toolkit.features import FeatureCache
    from mil_toolkit.hparams import ExtractionConfig
    from mil_toolkit.onnx import export_onnx

__version__ = "0.1.0"
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

_HOMES = {
    "Cohort": "cohort",
    "ExtractionConfig": "hparams",
    "FeatureCache": "features",
    "MILClassifier": "estimator",
    "ModelBundle": "bundle",
    "export_onnx": "onnx",
    "extract": "extraction",
    "load_patients": "estimator",
    "read_cohort": "cohort",
}


def __getattr__(name: str) -> object:
    """A public name, its module imported when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
