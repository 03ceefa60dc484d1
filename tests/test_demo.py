"""mil-demo: every stage on a cohort that it draws itself."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import Command, Tiny

from mil_toolkit import demo
from mil_toolkit.bundle import ModelBundle
from mil_toolkit.cohort import read_cohort
from mil_toolkit.errors import UsageError
from mil_toolkit.hparams import ExtractionConfig
from mil_toolkit.synthetic import draw_cohort

QUICK = {"epochs": (2,), "hidden": (32,)}


@pytest.fixture(name="small")
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo on fewer patients, smaller images and fewer trials, without asking the network for weights."""
    study = replace(demo.STUDY, trials=1, folds=2, outer_folds=2, members=2, settings=QUICK)
    monkeypatch.setattr(demo, "run_demo", partial(demo.run_demo, study=study))
    monkeypatch.setattr(demo, "EXTRACTION", ExtractionConfig("resnet18", image_size=32))

    def draw(folder: Path, **_: Any) -> Path:
        return draw_cohort(folder, patients=20, unlabelled=2, image_size=32, images=(1, 2))

    def offline(backbone: str, weights: str) -> None:
        raise UsageError(f"{backbone}'s {weights} cannot be had.")

    monkeypatch.setattr(demo, "draw_cohort", draw)
    monkeypatch.setattr(demo, "build_backbone", offline)


@pytest.mark.usefixtures("small")
def test_the_demo_leaves_every_stage_and_says_where(tmp_path: Path, command: Command) -> None:
    done = command("demo", "--output", tmp_path / "demo", "--json", "--device", "cpu")
    assert done.code == 0, done.err
    places = {name: Path(place) for name, place in done.json.items()}
    assert set(places) >= {"cohort", "features", "study", "bundle", "predictions", "submission", "attention"}
    assert all(place.exists() and place.is_relative_to(tmp_path / "demo") for place in places.values())
    cohort = read_cohort(places["cohort"])
    assert ModelBundle.load(places["bundle"]).about["patients"] == len(cohort.labelled()) == 20
    assert tuple(pd.read_csv(places["predictions"])["patient_id"]) == cohort.patient_ids
    assert len(pd.read_csv(places["submission"])) == 2
    assert json.loads((places["study"] / "scores.json").read_text())["outer"] is not None
    assert "No ImageNet weights for resnet18 here: going on with seeded random ones." in done.err
    again = command("demo", "--output", tmp_path / "demo")
    assert again.code == 2 and "not an empty folder" in again.err


def test_nothing_but_the_demo_falls_back(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    done = command("extract", tiny.cohort_toml, "--backbone", "resnet18", "--cache", tmp_path / "cache")
    assert done.code == 2 and done.out == "" and "Traceback" not in done.err
    for words in (
        "resnet18-",
        ".pth",
        "sha256",
        str(tmp_path / "torch"),
        "--weights PATH",
        "efficientnet_lite0",
    ):
        assert words in done.err
    assert not (tmp_path / "cache").exists()
