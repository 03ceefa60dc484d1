"""Results that many tests need, remembered in a process by patches of the code that computes them.

The results are those of the code itself, to the bit: only equal inputs get a result that is remembered.
"""

import copy
import functools
import io
import pickle
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.transforms import TransformNode
from optuna.storages._rdb.storage import _VersionManager
from sklearn.linear_model import LogisticRegression
from torch import nn

from mil_toolkit.core.files import digest
from mil_toolkit.evaluation import intervals
from mil_toolkit.training import projection

_DRAWING = ("svg.fonttype", "svg.hashsalt", "text.parse_math")  # settings that drawing itself depends on


def remember_results(patch: pytest.MonkeyPatch) -> None:
    """Remember everything that functions of this module remember, except networks and operators."""
    for remember in (
        remember_axes,
        remember_regressions,
        remember_schema_version,
        remember_figures,
        remember_scores,
    ):
        remember(patch)


def remember_axes(patch: pytest.MonkeyPatch) -> None:
    """Keep the principal axes of recent covariances: many tests project the folds of the tiny cohort."""
    compute, known = projection._principal_axes, dict[tuple[str, int], np.ndarray]()

    def principal_axes(covariance: np.ndarray, components: int) -> np.ndarray:
        key = digest(covariance.tobytes()), components
        if key not in known:
            if len(known) == 100:
                known.clear()
            known[key] = compute(covariance, components)
        return known[key].copy()

    patch.setattr(projection, "_principal_axes", principal_axes)


def remember_regressions(patch: pytest.MonkeyPatch) -> None:
    """Keep logistic regressions that converged: studies of the same cohort have the same baselines."""
    fit, known = LogisticRegression.fit, dict[str, dict[str, object]]()

    def fit_once(
        self: LogisticRegression, X: object, y: object, sample_weight: object = None
    ) -> LogisticRegression:
        key = digest(pickle.dumps((self.get_params(), X, y, sample_weight)))
        if key in known:
            vars(self).update(copy.deepcopy(known[key]))
            return self
        fit(self, X, y, sample_weight)
        if (self.n_iter_ < self.max_iter).all():  # the others warn
            known[key] = copy.deepcopy(vars(self))
        return self

    patch.setattr(LogisticRegression, "fit", fit_once)


def remember_schema_version(patch: pytest.MonkeyPatch) -> None:
    """Let Optuna read the version of its tables from its migration scripts once, not for every storage."""
    read, known = _VersionManager.get_head_version, list[str]()

    def get_head_version(self: _VersionManager) -> str:
        if not known:
            known.append(read(self))
        return known[0]

    patch.setattr(_VersionManager, "get_head_version", get_head_version)


def remember_figures(patch: pytest.MonkeyPatch) -> None:
    """Keep the SVG files of figures: reports of the same study, or cohort, have many figures in common."""
    draw, known = Figure.savefig, dict[str, bytes]()

    def savefig(self: Figure, file: io.BytesIO, **options: object) -> None:
        key = _fingerprint((self, options, [rcParams[name] for name in _DRAWING]))
        if key not in known:
            draw(self, file, **options)
            known[key] = file.getvalue()
        else:
            file.write(known[key])

    patch.setattr(Figure, "savefig", savefig)


def remember_scores(patch: pytest.MonkeyPatch) -> None:
    """Keep the scores and comparisons of tables: every command verifies those of the study that it reads."""
    for function in (intervals.compare, intervals.scores_with_intervals):
        once = _computed_once(function)
        for name, module in list(sys.modules.items()):
            if name.startswith("mil_toolkit.") and vars(module).get(function.__name__) is function:
                patch.setattr(module, function.__name__, once)


def _computed_once(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Return `compute` with a memory of its results; arguments are equal where their pickled bytes are."""
    known = dict[str, Any]()

    def computed_once(*arguments: object) -> Any:
        key = _fingerprint(arguments)
        if key not in known:
            known[key] = compute(*arguments)
        return copy.deepcopy(known[key])

    return computed_once


def remember_networks(patch: pytest.MonkeyPatch) -> None:
    """Keep the networks of torchvision that commands and tests build from the same random numbers."""
    import torchvision  # which imports torch's compiler: not every user of this module needs it

    resnet = torchvision.models.ResNet
    for name in ("resnet18", "resnet34", "resnet50"):
        patch.setattr(torchvision.models, name, _built_once(getattr(torchvision.models, name), resnet))


def remember_operators(patch: pytest.MonkeyPatch) -> None:
    """Keep the registry of ONNX operators, for which torch reads all their source code at each export."""
    from torch.onnx._internal.exporter import _registration  # imports onnx: not every user needs it

    build = functools.cache(_registration.ONNXRegistry.from_torchlib)
    patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(build))


def _built_once(build: Callable[[], nn.Module], kind: type[nn.Module]) -> Callable[[], nn.Module]:
    """Return `build` with a memory of one network; kind: its class, of which tests replace methods."""
    known = dict[tuple[object, ...], tuple[nn.Module, torch.Tensor]]()

    def built_once() -> nn.Module:
        state = digest(torch.get_rng_state().numpy().tobytes())
        key = (str(torch.empty(0).device), state, *vars(kind).values())
        if key not in known:
            known.clear()  # nearly all tests use one seed
            known[key] = build(), torch.get_rng_state()
        network, after = known[key]
        torch.set_rng_state(after)
        return copy.deepcopy(network)

    return built_once


class _Pickler(pickle.Pickler):
    """Writes equal bytes for figures that are drawn equally; nothing can be read from them."""

    def reducer_override(self, value: Any) -> Any:
        """Replace what differs between equal figures, and functions that have no name in their module."""
        if isinstance(value, TransformNode):
            state = value.__getstate__()
            return type, (), {**state, "_parents": list(state["_parents"].values())}  # without addresses
        if isinstance(value, FunctionType) and "<" in value.__qualname__:
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return str, (value.__module__, value.__qualname__, value.__code__.co_code, cells)
        return NotImplemented


def _fingerprint(value: object) -> str:
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return digest(file.getvalue())
