"""One patient of the tiny cohort, and bundles with random heads for every kind of outcome."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.one_patient import OnePatient
from mil_toolkit.evaluation.class_calibration import ClassDecision
from mil_toolkit.model.head import MILModel
from mil_toolkit.outcomes.kinds import OutcomeRecord
from mil_toolkit.outcomes.number import NumberRule
from mil_toolkit.outcomes.ordered import OrderedDecision
from mil_toolkit.outcomes.outcome import DecisionRule
from mil_toolkit.outcomes.survival import SurvivalRule
from support.studies import Tiny

TODAY = date(2020, 12, 31)
NAMES = ("AML", "ALL", "CML")
SHARES = (0.5, 0.3, 0.2)
KINDS: dict[str, tuple[int, dict[str, object], DecisionRule | None]] = {
    "binary": (1, {}, None),
    "classes": (
        3,
        {"label": "T", "classes": NAMES},
        ClassDecision(1.2, (0.1, -0.1, 0.0), SHARES, NAMES),
    ),
    "ordered": (
        2,
        {"label": "T", "classes": NAMES, "ordered": True},
        OrderedDecision(1.2, (0.1, -0.1, 0.0), SHARES, NAMES),
    ),
    "number": (1, {"target": "BLASTS", "unit": "%"}, NumberRule(3.0, 10.0, 4.0)),
    "survival": (
        10,
        {"time": "T", "event": "E", "horizon": 5},
        SurvivalRule(5.0, tuple(map(float, np.linspace(0.5, 5, 10)))),
    ),
}


def with_outcome(bundle: ModelBundle, kind: str, fusion: str) -> ModelBundle:
    """Return the bundle with random heads for another outcome."""
    outputs, declared, rule = KINDS[kind]
    old = bundle.head
    assert old.projection is not None
    config = replace(old.model.config, fusion=fusion, zero_start=False, metadata_branch="mlp")
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    model = MILModel(config, old.projection.width, len(old.encoder.columns), generators, outputs=outputs)
    head = replace(old, model=model.eval().requires_grad_(False))
    if kind == "binary":
        return replace(bundle, head=head)
    names = NAMES if kind in ("classes", "ordered") else ()
    about = replace(
        bundle.about,
        outcome=OutcomeRecord(kind, declared),
        class_names=names,
        class_counts=(12, 8, 4) if names else (),
        decision=rule,
        calibration=None,
    )
    return replace(bundle, head=head, about=about)


def patient_of(tiny: Tiny, folder: Path, **texts: str) -> OnePatient:
    """Return a patient with one image."""
    source = min((tiny.cohort_toml.parent / "images" / "P003").iterdir())
    (folder / "one").mkdir(exist_ok=True)
    (folder / "one" / source.name).write_bytes(source.read_bytes())
    given = {"age": "67", "sex": "F", "lymphocyte_count": "12.3", **texts}
    return OnePatient(given, folder / "one", TODAY)
