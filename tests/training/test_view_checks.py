"""Views of other images are refused by patient and folder."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.stored_bags import RECORDED, SPEC, bag

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag
from mil_toolkit.features.spec import Spec
from mil_toolkit.training.view_checks import check_views

IDS = ["a", "b"]
BAGS = {"a": bag("a", 3, 1), "b": bag("b", 2, 2)}


def cache_of(root: Path, bags: Sequence[EmbeddedBag], spec: Spec = SPEC) -> FeatureCache:
    cache = FeatureCache.create(root, "cohort", spec)
    cache.publish(bags, RECORDED)
    cache.refresh()
    return cache


def problems(tmp_path: Path, *bags: EmbeddedBag, **spec: object) -> list[str]:
    """Return what is wrong with these bags beside BAGS, with the folders called ONE and OTHER."""
    one = cache_of(tmp_path / "one", [*BAGS.values()])
    other = cache_of(tmp_path / "other", bags, {**SPEC, **spec})  # type: ignore[typeddict-item]
    try:
        check_views([one, other], IDS)
    except DataError as error:
        return [
            line.replace(str(one.folder), "ONE").replace(str(other.folder), "OTHER")
            for line in error.problems
        ]
    return []


def test_the_same_images_are_views_of_any_extraction(tmp_path: Path) -> None:
    assert problems(tmp_path, *reversed(BAGS.values()), crop=32) == []


def test_a_patient_who_is_missing_in_one_view_is_named_with_the_folder(tmp_path: Path) -> None:
    assert problems(tmp_path, BAGS["a"], bag("c")) == ["patient b has no embeddings in OTHER."]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (["0.png", "1.png"], "hold other images (2 and 3, such as 2.png)"),
        (["0.png", "1.png", "9.png"], "hold other images (3 and 3, such as 2.png)"),
        (["2.png", "1.png", "0.png"], "hold the same images in another order"),
        (["0.png", "1.png", "2.png"], "were extracted from other files of the same name, such as 0.png"),
    ],
)
def test_other_images_are_named_with_patient_and_folders(
    images: list[str], words: str, tmp_path: Path
) -> None:
    first, advice = problems(tmp_path, bag("a", seed=7, names=images), BAGS["b"])
    assert first == f"patient a: OTHER and ONE {words}."
    assert advice.startswith("Views are embeddings of the same images. Run mil-extract again")


def test_every_patient_is_named_once(tmp_path: Path) -> None:
    lines = problems(tmp_path, bag("a", seed=7, names=["x"]), bag("b", seed=7, names=["y"]))
    assert [line[:9] for line in lines] == ["patient a", "patient b", "Views are"]


def test_imported_features_are_compared_by_the_names_of_the_images(tmp_path: Path) -> None:
    others = [bag("a", 3, seed=8), bag("b", 2, seed=9)]
    imported = {"weight_digest": None, "weights": "imported from TRIDENT", "crop": 32}
    assert problems(tmp_path / "imported", *others, **imported) == []
    assert len(problems(tmp_path / "extracted", *others)) == 3
