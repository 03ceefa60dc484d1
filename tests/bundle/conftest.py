"""Cohorts that are new to the model of the tiny study."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support.studies import Tiny

from mil_toolkit.cli.fit import main as fit
from mil_toolkit.cli.tune import main as tune
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]


@pytest.fixture(name="renew")
def _renew(edit_cohort: EditCohort, tmp_path: Path) -> Callable[..., tuple[Cohort, FeatureCache]]:
    """Return a function that makes others of the tiny cohort's first patients: (cohort, cache).

    ids: whether they get other ids; images: whether their images are saved again, with other bytes
    """

    def renew(count: int, ids: bool = True, images: bool = True) -> tuple[Cohort, FeatureCache]:
        def rename(table: pd.DataFrame) -> None:
            table.loc[: count - 1, "ID"] = "Q" + table.loc[: count - 1, "ID"]

        toml = edit_cohort(rename if ids else lambda table: None)
        for folder in sorted((toml.parent / "images").iterdir())[:count]:
            for path in folder.iterdir() if images else ():
                image = Image.open(path).convert("RGB")
                image.putpixel((0, 0), (1, 2, 3))
                image.save(path)
            if ids:
                folder.rename(folder.with_name(f"Q{folder.name}"))
        cohort = read_cohort(toml)
        config = ExtractionConfig("resnet18", "random", image_size=32)
        return cohort, FeatureCache.open(extract(cohort, config, tmp_path / "renewed", device="cpu").folder)

    return renew


@pytest.fixture(scope="session", name="metadata_model")
def _metadata_model(tiny: Tiny) -> Path:
    """Return the bundle of a model on metadata only, which mil-tune and mil-fit made; read it only."""
    study = tiny.folder / "studies" / "metadata"
    options = [str(tiny.cohort_toml), "--features", "none", "--study", str(study)]
    quick = ("--trials", 1, "--epochs", 2, "--folds", 2, "--outer-folds", 0, "--members", 2)
    assert tune([*options, *map(str, quick)]) == 0
    assert fit(options) == 0
    return study / "model"
