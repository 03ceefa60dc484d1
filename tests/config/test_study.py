"""The configuration of a study: what is refused, and the options that give it back."""

import pytest

from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.metrics import METRIC_NAMES, PRIMARY_NAMES
from mil_toolkit.config.options import study_options
from mil_toolkit.config.presets import PRESETS
from mil_toolkit.config.settings import head_config, parse_settings
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import UsageError


@pytest.mark.parametrize(
    "config",
    [
        StudyConfig(),
        StudyConfig(trials=7, outer_folds="groups", settings={"hidden": (32, 64), "class_weights": (False,)}),
        StudyConfig(objective="auc", settings={**PRESETS["founding"], "epochs": (3,)}),
    ],
)
def test_the_options_of_a_study_give_its_settings_back(config: StudyConfig) -> None:
    words = iter(study_options(config))
    options = list(zip(words, words, strict=True))
    preset = dict(options).get("--preset", "default")
    settings = {**PRESETS[preset], **parse_settings([value for name, value in options if name == "--set"])}
    assert settings == config.settings
    assert ("--trials", "7") in options or config.trials == 50


def test_the_epochs_of_a_study_are_those_of_its_settings_or_the_default() -> None:
    assert StudyConfig(settings={"epochs": (20, 40)}).epochs == (20, 40)
    assert StudyConfig().epochs == (HeadConfig().epochs,)


def test_every_invalid_value_of_a_configuration_is_named() -> None:
    with pytest.raises(UsageError, match="epochs=0: must be at least 1, not 0") as caught:
        head_config({"epochs": 0, "hidden": 64, "pooling": "median"})
    assert "pooling='median'" in str(caught.value) and "hidden" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        FinetuneConfig(epochs=0, jitter=1.0)
    assert str(caught.value).splitlines() == [
        "--epochs must be at least 1, not 0.",
        "--jitter must be at least 0 and below 1, not 1.0.",
    ]
    with pytest.raises(UsageError) as caught:
        StudyConfig(trials=0, outer_folds=1, prevalence=1.0)
    assert str(caught.value).splitlines() == [
        "--trials must be at least 1, not 0.",
        "--outer-folds must be 0 (none), at least 2, groups or official, not 1.",
        "--prevalence must lie between 0 and 1, not 1.0.",
    ]


def test_the_primary_metric_needs_a_direction_and_an_interval() -> None:
    assert set(PRIMARY_NAMES) < set(METRIC_NAMES)
    for name in ("calibration_error", "referred", "x"):
        with pytest.raises(UsageError, match=f"--primary-metric must be one of .*, not {name}"):
            StudyConfig(primary_metric=name)
    assert StudyConfig(primary_metric="auc").primary_metric == "auc"


@pytest.mark.parametrize("confidence", [0, 1, 1.5, -0.1])
def test_a_confidence_lies_between_0_and_1(confidence: float) -> None:
    with pytest.raises(UsageError, match="--sensitivity-confidence must lie between 0 and 1"):
        StudyConfig(sensitivity=0.9, sensitivity_confidence=confidence)
