"""The search space where a study has several feature folders."""

import dataclasses

import pytest
from optuna.trial import FixedTrial

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.presets import PRESETS, STARTS
from mil_toolkit.config.tunable import Settings, tunables
from mil_toolkit.search.space import Space

CHOICE, TOGETHER = ("whole", "crop"), ("whole+crop",)


def suggested(settings: dict[str, tuple[str, ...]], **values: object) -> tuple[HeadConfig, dict[str, object]]:
    """Return the configuration of a trial with these values, and what the search suggested about views."""
    space = Space(settings)
    trial = FixedTrial({**space.defaults(), **values})
    config = space.suggest(trial)
    return config, {name: trial.params[name] for name in ("features", "view_fusion") if name in trial.params}


def test_one_folder_suggests_nothing_about_views() -> None:
    for settings in ({}, {"view_fusion": ("early",)}, {"features": ("whole",)}):
        config, names = suggested(settings)
        assert names == {} and config.view_fusion == "late"
    assert "features" not in Space({}).described() and "view_fusion" not in Space({}).described()


def test_a_search_chooses_among_folders_as_among_other_categories() -> None:
    assert suggested({"features": CHOICE}, features="crop")[1] == {"features": "crop"}
    assert suggested({"features": CHOICE})[0].features == "whole"  # the first trial
    assert Space({"features": CHOICE}).described()["features"] == list(CHOICE)


def test_views_that_are_used_together_are_joined_early_or_late() -> None:
    config, names = suggested({"features": TOGETHER}, view_fusion="early")
    assert names == {"view_fusion": "early"} and config.features == "whole+crop"
    fixed = {"features": TOGETHER, "view_fusion": ("early",)}
    assert suggested(fixed)[1] == {} and suggested(fixed)[0].view_fusion == "early"


@pytest.mark.parametrize(("features", "asked"), [("whole", False), ("whole+crop", True)])
def test_the_fusion_of_views_is_only_suggested_for_several(features: str, asked: bool) -> None:
    _, names = suggested({"features": (*CHOICE, *TOGETHER)}, features=features, view_fusion="early")
    assert ("view_fusion" in names) == asked


def test_without_images_there_are_no_views() -> None:
    config, names = suggested({"features": (*CHOICE, *TOGETHER), "image_branch": (False,)})  # type: ignore[dict-item]
    assert names == {} and config.features == ""


def test_a_grid_holds_each_fusion_only_for_views_together() -> None:
    fixed = {name: (getattr(HeadConfig(), name),) for name in tunables(HeadConfig)}
    settings = {**fixed, "features": (*CHOICE, *TOGETHER), "view_fusion": ("early", "late")}
    points = Space(settings).grid()
    assert len(points) == 4
    assert {Space(settings).config_of(point).features for point in points} == {*CHOICE, *TOGETHER}


def test_a_plain_search_tries_only_the_defaults_first() -> None:
    assert Space({}).planned("tpe") == [Space({}).defaults()]


def test_a_wide_search_tries_the_starting_points_after_the_defaults() -> None:
    space = Space(PRESETS["wide"])
    first, *others = map(space.config_of, space.planned("tpe"))
    assert first == HeadConfig() and len(others) == len(STARTS) > 0
    for config, start in zip(others, STARTS.values(), strict=True):
        assert config == dataclasses.replace(HeadConfig(), **start)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"zero_start": (True,)}, 0),
        ({"zero_start": (False,), "weight_decay": (0.01,)}, 2),  # also where a setting fixes the value
        ({"instance_layers": (0, 1)}, 1),
        ({"image_branch": (False,)}, 0),
    ],
    ids=str,
)
def test_starting_points_lie_in_the_space(settings: Settings, left: int) -> None:
    space = Space({**PRESETS["wide"], **settings})
    assert len(space.starts()) == left
    assert all(space.contains(name, value) for start in space.starts() for name, value in start.items())


def test_without_images_there_are_no_starting_points() -> None:
    assert Space(PRESETS["wide"], images=False).starts() == []


def test_the_description_of_a_plain_study_is_that_of_older_versions() -> None:
    """Otherwise a study that was begun before could not go on."""
    fields = tunables(HeadConfig)
    later = {name for name, field in fields.items() if field.is_later and not field.of_classes}
    assert all(field.is_later for field in fields.values() if field.of_classes)
    assert not any(field.of_classes for name, field in fields.items() if name in Space({}).described())
    assert "instance_layers" in later and not later & Space({}).described().keys()
    wide = Space(PRESETS["wide"]).described()
    assert later <= wide.keys() and wide["instance_layers"] == [0, 1, 2]
    fixed = Space({"instance_layers": (1,), "pooling": ("clam",)}).described()
    assert later <= fixed.keys() and fixed["instance_layers"] == [1]
