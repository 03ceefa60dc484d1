"""A bundle shows its network the windows that it was trained with."""

from support.stored_bags import SPEC

from mil_toolkit.bundle.predict import _extraction_config, _spec_problems
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.features.spec import Spec, cell_rule

RULE = cell_rule("cell-mask")
assert RULE is not None
PIXELS: Spec = {**SPEC, "preprocess": "cell-mask", "crop": 80, "cell": RULE}
MICROMETRES: Spec = {**PIXELS, "crop_um": 20.0}


def test_windows_in_pixels_are_cut_alike_from_all_cohorts() -> None:
    config = _extraction_config(PIXELS, None)
    assert (config.crop, config.crop_um, config.preprocess) == (80, None, "cell-mask")
    assert _spec_problems(PIXELS, PIXELS) == []
    assert _spec_problems({**PIXELS, "crop": 64}, PIXELS) == ["crop: 64 instead of 80."]


def test_windows_in_micrometres_follow_the_resolution_of_the_other_cohort() -> None:
    config = _extraction_config(MICROMETRES, None)
    assert config == ExtractionConfig(
        SPEC["backbone"], SPEC["weights"], SPEC["image_size"], 0, "cell-mask", 20.0
    )
    assert _spec_problems({**MICROMETRES, "crop": 160}, MICROMETRES) == []
    assert _spec_problems({**MICROMETRES, "crop_um": 10.0, "crop": 40}, MICROMETRES)
    assert _spec_problems({**PIXELS, "crop": 160}, MICROMETRES)
