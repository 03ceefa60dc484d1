"""mil-demo: every stage on a cohort that it draws itself."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from support.commands import Command
from support.studies import Tiny

from mil_toolkit import demo
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.synthetic import TRUTH, draw_cohort
from mil_toolkit.core.errors import UsageError
from mil_toolkit.demo import Found, attention_found
from mil_toolkit.study.tables import outer_attention

QUICK = {"epochs": (2,), "hidden": (32,)}


@pytest.fixture(name="small")
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo on fewer patients, smaller images and fewer trials, without installed weights, the truth out of reach."""
    study = replace(
        demo.STUDY, trials=1, folds=2, outer_folds=2, members=2, settings=demo.STUDY.settings | QUICK
    )
    monkeypatch.setattr(demo, "run_demo", partial(demo.run_demo, study=study))
    monkeypatch.setattr(demo, "EXTRACTION", replace(demo.EXTRACTION, image_size=32))

    def draw(folder: Path) -> Path:
        toml = draw_cohort(folder, patients=20, unlabelled=2, image_size=32, images=(4, 8))
        (folder / TRUTH).rename(folder / "hidden")  # from every stage
        return toml

    def attention(folder: Path) -> pd.DataFrame | None:
        (folder / "../../hidden").rename(folder / "../.." / TRUTH)
        return outer_attention(folder)

    def offline(backbone: str, weights: str) -> None:
        raise UsageError(f"{backbone}'s {weights} cannot be had.")

    monkeypatch.setattr(demo, "draw_cohort", draw)
    monkeypatch.setattr(demo, "outer_attention", attention)
    monkeypatch.setattr(demo, "build_backbone", offline)


@pytest.mark.usefixtures("small")
def test_a_demo_that_was_stopped_leaves_every_stage_says_where_and_looks_at_the_truth_last(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "ablate", stop)
        assert command("demo", "--output", tmp_path / "demo", "--device", "cpu").code == 130
    kept = [tmp_path / "demo" / name for name in ("hidden", "patients.csv", "studies/demo/best.json")]
    kept += [*(tmp_path / "demo" / "cache").rglob("*.h5")]
    written = [path.stat().st_mtime_ns for path in kept]
    done = command("demo", "--output", tmp_path / "demo", "--json", "--device", "cpu")
    assert done.code == 0, done.err
    kept[0] = tmp_path / "demo" / TRUTH
    assert [path.stat().st_mtime_ns for path in kept] == written and "Drawing" not in done.err
    told = done.json
    found = told.pop("attention_found")
    places = {name: Path(place) for name, place in told.items()}
    assert set(places) >= {
        "cohort",
        "features",
        "study",
        "bundle",
        "predictions",
        "submission",
        "attention",
        "report",
    }
    assert all(place.exists() and place.is_relative_to(tmp_path / "demo") for place in places.values())
    cohort = read_cohort(places["cohort"])
    assert ModelBundle.load(places["bundle"]).about["patients"] == len(cohort.labelled()) == 20
    assert tuple(pd.read_csv(places["predictions"])["patient_id"]) == cohort.patient_ids
    assert len(pd.read_csv(places["submission"])) == 2
    assert json.loads((places["study"] / "scores.json").read_text())["outer"] is not None
    assert (places["study"] / "ablation" / "scores.json").is_file()
    assert found["patients"] == 12 and 0 <= found["low"] <= found["auc"] <= found["high"] <= 1
    assert "No efficientnet_lite0 here" in done.err and "seeded random weights" in done.err


def test_the_demo_keeps_away_from_what_is_not_its_own(tmp_path: Path, command: Command) -> None:
    for name in ("cohort.toml", TRUTH):
        (tmp_path / name).write_text("[cohort]")
    done = command("demo", "--output", tmp_path)
    assert done.code == 2 and "not an empty folder" in done.err
    done = command("demo", "--output", tmp_path / TRUTH / "demo")
    assert done.code == 2 and "demo cannot be written" in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"cohort.toml", TRUTH}


def attention_of(weights: dict[str, list[float]]) -> pd.DataFrame:
    rows = [(patient, f"{i}.jpg", each) for patient, bag in weights.items() for i, each in enumerate(bag)]
    return pd.DataFrame(rows, columns=["patient_id", "image", "attention"])


TRUE = attention_of({"A": [0, 1, 0, 0], "B": [1, 0, 1, 0], "C": [0, 0, 0, 0]}).rename(
    columns={"patient_id": "patient", "attention": "signal"}
)


def test_attention_that_finds_all_equal_attention_and_the_reverse() -> None:
    perfect = attention_found(
        attention_of({"A": [0.1, 0.7, 0.1, 0.1], "B": [0.4, 0.1, 0.5, 0.0], "C": [1, 0, 0, 0]}), TRUE
    )
    assert perfect == Found(1.0, 1.0, 1.0, first=2, by_chance=0.25 + 0.5, patients=2)
    alike = attention_found(attention_of({name: [0.25] * 4 for name in "ABC"}), TRUE)
    assert (alike.auc, alike.low, alike.high) == (0.5, 0.5, 0.5)
    reverse = attention_found(
        attention_of({"A": [0.3, 0.1, 0.3, 0.3], "B": [0.1, 0.4, 0.1, 0.4], "C": [1, 0, 0, 0]}), TRUE
    )
    assert (reverse.auc, reverse.first) == (0.0, 0)


def test_attention_is_compared_within_patients_alone() -> None:
    """A patient all of whose weights are higher, since the bag is smaller, changes nothing."""
    weights = {"A": [0.2, 0.3, 0.1, 0.25], "B": [0.002, 0.003, 0.001, 0.0015], "C": [0.25] * 4}
    scaled = {**weights, "B": [100 * each for each in weights["B"]]}
    assert attention_found(attention_of(weights), TRUE) == attention_found(attention_of(scaled), TRUE)
    # A: above all three others; B: in one pair of four the tumoral one is above
    assert attention_found(attention_of(weights), TRUE).auc == pytest.approx((1 + 1 / 4) / 2)


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
