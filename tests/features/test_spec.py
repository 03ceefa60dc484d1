"""The spec of a cache: reading it, and the folder's name."""

from pathlib import Path

import pytest
from support.stored_bags import SPEC

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.spec import Spec, folder_name


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


def test_different_specs_have_different_folder_names() -> None:
    """They differ in the main settings, and in the digest."""
    spec: Spec = {**SPEC, "backbone": "timm:hf/net", "weights": "imagenet", "image_size": 224}
    assert folder_name(spec).startswith("timm_hf_net-imagenet-224-")
    masked = folder_name(spec | {"crop": 100, "preprocess": "saturation-mask"})
    assert masked.startswith("timm_hf_net-imagenet-224-crop100-saturation-mask-")
    assert folder_name(spec)[-8:] != folder_name(spec | {"width": 4})[-8:]
