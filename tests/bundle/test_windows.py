"""A bundle shows its network the windows that it was trained with."""

import pytest
from support.stored_bags import SPEC

from mil_toolkit.backbones.encoders import ENCODERS
from mil_toolkit.backbones.requests import check_available, identity_of
from mil_toolkit.bundle.checks import _spec_problems as _checks
from mil_toolkit.bundle.predict import _spec_problems, extraction_config
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features.spec import Spec, cell_rule, make_spec

RULE = cell_rule("cell-mask")
assert RULE is not None
PIXELS: Spec = {**SPEC, "preprocess": "cell-mask", "crop": 80, "cell": RULE}
MICROMETRES: Spec = {**PIXELS, "crop_um": 20.0}


def test_windows_in_pixels_are_cut_alike_from_all_cohorts() -> None:
    config = extraction_config(PIXELS, None)
    assert (config.crop, config.crop_um, config.preprocess) == (80, None, "cell-mask")
    assert _spec_problems(PIXELS, PIXELS) == []
    assert _spec_problems({**PIXELS, "crop": 64}, PIXELS) == ["crop: 64 instead of 80."]


def test_images_are_sampled_alike_in_all_cohorts() -> None:
    """Also where a newer timm samples for this network in another way."""
    sampled: Spec = {**SPEC, "sampling": {"interpolation": "bicubic", "mode": "centre", "crop_pct": 0.9}}
    for spec in (SPEC, sampled):
        made = make_spec(extraction_config(spec, None), identity_of(spec))
        assert made.get("sampling") == spec.get("sampling")
    assert _spec_problems(SPEC, sampled) == [f"sampling: None instead of {sampled['sampling']!r}."]


def test_a_repository_of_the_hub_is_only_read_from_carried_files() -> None:
    """A bundle must not choose what is downloaded."""
    for weights, count in (("random", 1), ("imagenet", 1), ("pretrained", 0), ("file", 0)):
        spec: Spec = {**SPEC, "backbone": "timm:hf-hub:org/net", "weights": weights}
        assert len([*_checks(spec)]) == count
        with pytest.raises(UsageError, match="--weights PATH"):
            check_available(spec, False)
        check_available(spec, True)


def test_encoders_may_be_in_a_bundle() -> None:
    for name in ENCODERS:
        assert not [*_checks({**SPEC, "backbone": name, "weights": "pretrained"})]


def test_windows_in_micrometres_follow_the_resolution_of_the_other_cohort() -> None:
    config = extraction_config(MICROMETRES, None)
    assert config == ExtractionConfig(
        SPEC["backbone"], SPEC["weights"], SPEC["image_size"], 0, "cell-mask", 20.0
    )
    assert _spec_problems({**MICROMETRES, "crop": 160}, MICROMETRES) == []
    assert _spec_problems({**MICROMETRES, "crop_um": 10.0, "crop": 40}, MICROMETRES)
    assert _spec_problems({**PIXELS, "crop": 160}, MICROMETRES)
