"""The search space where a study has several feature folders."""

import pytest
from optuna.trial import FixedTrial

from mil_toolkit.config import HeadConfig, tunables
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
