"""The spec of a cache: reading it, and the folder's name."""

import json
from pathlib import Path

import pytest
from support.stored_bags import SPEC

from mil_toolkit.backbones.identity import BackboneIdentity
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.backbones.requests import identity_of
from mil_toolkit.backbones.spec import sampling_of
from mil_toolkit.config.extraction import ExtractionConfig, Sampling
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.spec import (
    Spec,
    cell_rule,
    check_spec,
    folder_name,
    make_spec,
    read_reading,
    read_spec,
)


def test_folders_that_are_not_caches_are_refused(tmp_path: Path) -> None:
    """No folder, no spec, or the spec of something else."""
    for folder, why in ((tmp_path / "absent", "it does not exist"), (tmp_path, r"it has no spec\.json")):
        with pytest.raises(DataError, match=f"not a feature cache: {why}"):
            FeatureCache.open(folder)
    for text, message in (
        ("[]", "not the spec of a cache"),
        ('{"schema": 99}', "schema 99, written by a newer mil_tool"),
    ):
        (tmp_path / "spec.json").write_text(text)
        with pytest.raises(DataError, match=message):
            FeatureCache.open(tmp_path)
    (tmp_path / "spec.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        FeatureCache.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width is 0, not between 1 and"),
        ({"width": 10**12}, "width is 1000000000000, not between"),
        ({"width": -3}, "width is -3"),
        ({"width": "3"}, "Expected `int`, got `str` - at `\\$.width`"),
        ({"width": 3.5}, "Expected `int`, got `float`"),
        ({"width": None}, "Expected `int`, got `null`"),
        ({"width": True}, "Expected `int`, got `bool`"),
        ({"width": [3]}, "Expected `int`, got `array`"),
        ({"backbone": 1}, "Expected `str`, got `int` - at `\\$.backbone`"),
        ({"schema": "1"}, "has schema 1; this version"),
        ({"schema": None}, "has schema None"),
        ({"crop": -1}, "crop is -1"),
        ({"image_size": 10**9}, "image_size is 1000000000"),
        ({"preprocess": "other"}, "preprocess is 'other', not one of none"),
        ({"preprocess": "cell-crop", "crop": 80}, "cell is None; for preprocess 'cell-crop' this version"),
        ({"cell": {"finder": "nuclear-stain-1"}}, "missing required field `none`"),
        ({"crop_um": 0.0}, "crop_um is 0.0, not a positive number"),
        ({"mean": [0.5]}, "mean has 1 values instead of 3"),
        ({"std": [0.5, 0, 0.5]}, "std is not positive"),
        ({"std": "0.5"}, "Expected `array . null`"),
        ({"colour": "cmyk"}, "Invalid enum value 'cmyk'"),
        ({"tile": {"size_um": "x"}}, "Expected `float`, got `str`"),
        ({"more\x1b": {"deep": []}}, r"unknown keys: more\\x1b"),
        (dict.fromkeys(map(str, range(200_000)), 0), "unknown keys: 0, 1, 10, 100, 1000 and 199995 more"),
    ],
)
def test_specs_of_other_types_and_ranges_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    """The error names the file."""
    (tmp_path / "spec.json").write_text(json.dumps({**SPEC, **change}))
    with pytest.raises(DataError, match=message) as caught:
        FeatureCache.open(tmp_path)
    assert str(tmp_path / "spec.json") in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("key", SPEC)
def test_a_spec_without_a_key_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "spec.json").write_text(
        json.dumps({name: value for name, value in SPEC.items() if name != key})
    )
    with pytest.raises(DataError, match=key):
        FeatureCache.open(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"schema": 1, "width": NaN}', '{"schema": 1e999}', "null", "1", '"spec"', "\x00", ""],
)
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(DataError, match=r"spec\.json"):
        FeatureCache.open(tmp_path)


def test_different_specs_have_different_folder_names() -> None:
    """They differ in the main settings, and in the digest."""
    spec: Spec = {**SPEC, "backbone": "timm:hf/net", "weights": "imagenet", "image_size": 224}
    assert folder_name(spec).startswith("timm_hf_net-imagenet-224-")
    masked = folder_name(spec | {"crop": 100, "preprocess": "saturation-mask"})
    assert masked.startswith("timm_hf_net-imagenet-224-crop100-saturation-mask-")
    assert folder_name(spec)[-8:] != folder_name(spec | {"width": 4})[-8:]


@pytest.mark.parametrize("preprocess", ["cell-crop", "cell-mask"])
def test_the_rule_for_cells_is_part_of_the_spec(preprocess: str) -> None:
    """Windows that another version found in another way are refused instead of mixed."""
    spec: Spec = {**SPEC, "preprocess": preprocess, "crop": 80, "cell": cell_rule(preprocess)}  # type: ignore[typeddict-item]
    assert ("rim" in spec["cell"]) == (preprocess == "cell-mask")
    assert check_spec(json.loads(json.dumps(spec)), Path("spec.json")) == spec
    assert f"-crop80-{preprocess}-" in folder_name(spec)
    newer = {**spec, "cell": {**spec["cell"], "finder": "nuclear-stain-2"}}
    with pytest.raises(DataError, match=r"cell is .*nuclear-stain-2.*this version of mil_toolkit applies"):
        check_spec(newer, Path("spec.json"))
    with pytest.raises(DataError, match=r"crop is 0, but preprocess .* needs the side of a window"):
        check_spec({**spec, "crop": 0}, Path("spec.json"))


def test_the_target_of_the_stain_is_part_of_the_spec() -> None:
    spec = make_spec(ExtractionConfig("resnet34", preprocess="reinhard"), IDENTITY)
    assert spec["stain"] == "drawn-smears-1" and "-224-reinhard-" in folder_name(spec)
    assert check_spec(json.loads(json.dumps(spec)), Path("spec.json")) == spec
    with pytest.raises(DataError, match=r"stain is 'drawn-smears-2'.*this version of mil_toolkit applies"):
        check_spec({**spec, "stain": "drawn-smears-2"}, Path("spec.json"))
    with pytest.raises(DataError, match="stain is 'drawn-smears-1'; for preprocess 'none'"):
        check_spec({**spec, "preprocess": "none"}, Path("spec.json"))
    assert "stain" not in make_spec(ExtractionConfig("resnet34", preprocess="saturation-mask"), IDENTITY)


def test_specs_without_cells_have_no_rule() -> None:
    """So the caches of earlier versions keep their names."""
    for preprocess in ("none", "saturation-mask"):
        assert cell_rule(preprocess) is None


IDENTITY = BackboneIdentity("ab" * 32, 512, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OWN = IDENTITY._replace(image_size=518, sampling=Sampling("bicubic", "centre", 0.9))


def test_the_caches_of_earlier_versions_keep_their_names() -> None:
    """Without new keys: the digest is that of the first version."""
    spec = make_spec(ExtractionConfig("resnet34"), IDENTITY)
    assert spec == {
        "schema": 1,
        "backbone": "resnet34",
        "weights": "imagenet",
        "seed": None,
        "weight_digest": "ab" * 32,
        "width": 512,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "image_size": 224,
        "crop": 0,
        "preprocess": "none",
    }
    assert folder_name(spec) == "resnet34-imagenet-224-7cb71f64"
    assert make_spec(ExtractionConfig("resnet34", "pretrained", 224, sampling=Sampling()), IDENTITY) == spec


def test_the_preprocessing_of_the_backbone_is_in_the_spec() -> None:
    spec = make_spec(ExtractionConfig("dinobloom-s"), OWN)
    assert (spec["weights"], spec["image_size"]) == ("pretrained", 518)
    assert spec["sampling"] == {"interpolation": "bicubic", "mode": "centre", "crop_pct": 0.9}
    assert sampling_of(spec) == OWN.sampling and identity_of(spec) == OWN
    assert check_spec(json.loads(json.dumps(spec)), Path("spec.json")) == spec
    config = ExtractionConfig("dinobloom-s", image_size=280, sampling=Sampling())
    assert "sampling" not in (chosen := make_spec(config, OWN)) and chosen["image_size"] == 280


@pytest.mark.parametrize("window", [{"crop": 40}, {"crop_um": 20.0, "crop": 40}])
def test_a_window_is_not_cropped_again_by_the_backbone(window: dict[str, float]) -> None:
    spec = make_spec(ExtractionConfig("dinobloom-s", **window), OWN)
    assert spec["sampling"] == {"interpolation": "bicubic", "mode": "squash", "crop_pct": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "cubic"}, "sampling.interpolation is 'cubic', not one of nearest, bilinear"),
        ({"crop_pct": 0.0}, "sampling.crop_pct is 0.0, not between"),
        ({"crop_pct": 1.5}, "sampling.crop_pct is 1.5"),
        ({"mode": "border"}, "Invalid enum value 'border'"),
        ({"mode": None}, "Expected `str`"),
    ],
)
def test_samplings_that_do_not_exist_are_refused(change: dict[str, object], message: str) -> None:
    sampling = {"interpolation": "bicubic", "mode": "centre", "crop_pct": 0.9, **change}
    with pytest.raises(DataError, match=message):
        check_spec({**SPEC, "sampling": sampling}, Path("spec.json"))


def test_how_a_checkpoint_was_read_lies_beside_the_spec_and_not_in_it(tmp_path: Path) -> None:
    """The same tensors from another container have the same cache."""
    reading = Reading(("teacher",), "backbone.", {"dino_head": 3}, ("pos_embed",))
    cache = FeatureCache.create(tmp_path, "c", SPEC, reading=reading)
    assert json.loads((cache.folder / "spec.json").read_text())["checkpoint"] == {
        "wrappers": ["teacher"],
        "prefix": "backbone.",
        "dropped": {"dino_head": 3},
        "resampled": ["pos_embed"],
    }
    assert read_spec(cache.folder) == cache.spec == SPEC and read_reading(cache.folder) == reading
    again = FeatureCache.create(tmp_path, "c", SPEC)
    assert again.folder == cache.folder and read_reading(again.folder) == reading
    assert read_reading(FeatureCache.create(tmp_path, "d", SPEC).folder) is None
