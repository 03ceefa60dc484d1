"""mil-demo: every stage on a synthetic cohort."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import Command
from support.planted import make_cache
from support.studies import Tiny

from mil_toolkit import demo
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.cohort.synthetic import TRUTH, draw_cohort
from mil_toolkit.cohort.synthetic_outcomes import CLASS_NAMES
from mil_toolkit.core.errors import UsageError
from mil_toolkit.demo import AttentionCheck, check_attention, check_classes
from mil_toolkit.study import variants
from mil_toolkit.study.tables import outer_attention
from mil_toolkit.study.tune import tune

QUICK = {"epochs": (2,), "hidden": (32,)}


@pytest.fixture(name="small")
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo on a smaller cohort, without installed weights, and with the truth hidden from all stages."""
    study = replace(
        demo.STUDY, trials=1, folds=2, outer_folds=2, members=2, settings=demo.STUDY.settings | QUICK
    )
    monkeypatch.setattr(demo, "run_demo", partial(demo.run_demo, study=study))
    monkeypatch.setattr(demo, "EXTRACTION", replace(demo.EXTRACTION, image_size=32))

    def draw(folder: Path, outcome: str) -> Path:
        toml = draw_cohort(folder, 20, 2, image_size=32, images=(4, 8), outcome=outcome)
        (folder / TRUTH).rename(folder / "hidden")  # hidden from every stage
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
def test_an_interrupted_demo_is_resumed_reports_all_places_and_reads_the_truth_last(
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
    data = done.json
    check = data.pop("attention_found")
    places = {name: Path(place) for name, place in data.items()}
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
    assert ModelBundle.load(places["bundle"]).about.patients == len(cohort.labelled()) == 20
    assert tuple(pd.read_csv(places["predictions"])["patient_id"]) == cohort.patient_ids
    assert len(pd.read_csv(places["submission"])) == 2
    assert json.loads((places["study"] / "scores.json").read_text())["outer"] is not None
    assert (places["study"] / "ablation" / "scores.json").is_file()
    assert check["patients"] == 12 and 0 <= check["low"] <= check["auc"] <= check["high"] <= 1
    assert "No efficientnet_lite0 here" in done.err and "seeded random weights" in done.err


@pytest.fixture(name="smaller")
def _smaller(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small demo with fewer models and variants, on a few more patients."""
    settings = demo.STUDY.settings | QUICK | {"pooling": ("attention",)}
    quick = replace(demo.STUDY, trials=1, folds=2, outer_folds=2, members=1, settings=settings)
    monkeypatch.setattr(demo, "run_demo", partial(demo.run_demo.func, study=quick))  # type: ignore[attr-defined]
    kept = {name: variants.VARIANTS[name] for name in ("full", "metadata-only", "pooling-mean")}
    monkeypatch.setattr(variants, "VARIANTS", kept)

    def draw(folder: Path, outcome: str) -> Path:
        toml = draw_cohort(folder, 30, 2, image_size=32, images=(4, 8), outcome=outcome)
        (folder / TRUTH).rename(folder / "hidden")
        return toml

    monkeypatch.setattr(demo, "draw_cohort", draw)


@pytest.mark.usefixtures("smaller")
def test_the_demo_compares_the_attention_of_each_class_with_its_images(
    tmp_path: Path, command: Command
) -> None:
    options = ("--outcome", "classes", "--output", tmp_path / "demo", "--device", "cpu")
    done = command("demo", *options, "--json")
    assert done.code == 0, done.err
    checks = done.json["attention_found"]
    assert list(checks) == list(CLASS_NAMES)
    for check in checks.values():
        assert 0 <= check["low"] <= check["auc"] <= check["high"] <= 1 and check["patients"] >= 8
    attention = pd.read_csv(done.json["attention"])
    assert [name for name in map(str, attention) if name.startswith("attention:")] == [
        f"attention:{name}" for name in CLASS_NAMES
    ]
    assert set(pd.read_csv(done.json["submission"])["LABEL"]) <= set(CLASS_NAMES)
    assert "images of highest attention for each class" in Path(done.json["report"]).read_text()
    other = command("demo", "--outcome", "number", "--output", tmp_path / "demo")
    assert other.code == 2 and "already exists and is not an empty folder" in other.err


@pytest.mark.usefixtures("smaller")
@pytest.mark.parametrize(
    ("outcome", "metrics", "words"),
    [
        ("ordered", ("balanced accuracy", "macro AUC"), "follows from the share of a patient's images"),
        ("number", ("MAE", "concordance"), "follows from the share of a patient's images"),
        ("survival", ("Harrell's C",), "The true risk has a Harrell's C of 0."),
    ],
)
def test_the_demo_runs_all_commands_on_other_outcomes(
    outcome: str,
    metrics: tuple[str, ...],
    words: str,
    tmp_path: Path,
    command: Command,
) -> None:
    done = command("demo", "--outcome", outcome, "--output", tmp_path / "demo", "--device", "cpu")
    assert done.code == 0, done.err
    assert words in done.out and "only your own study can show it" in done.out
    (mean_pooling,) = (line for line in done.out.split("\n") if line.startswith("With mean pooling"))
    assert mean_pooling.count("against the full model") == len(metrics)
    assert all(metric in mean_pooling for metric in metrics)
    report = (tmp_path / "demo" / "studies" / "demo" / "report.html").read_text()
    assert ("Survival by predicted third" in report) == (outcome == "survival")
    places = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"predictions.csv", "attention.csv", "truth.csv"} <= places
    assert ("submission.csv" in places) == ("submission:" in done.out) == (outcome != "survival")


def colours(path: Path) -> np.ndarray:
    """Return the share of each of 64 colours in the middle of an image, as its embedding."""
    with Image.open(path) as image:
        pixels = np.asarray(image)[8:32, 8:32].reshape(-1, 3) // 64
    return np.bincount(pixels @ [16, 4, 1], minlength=64) / len(pixels)


def test_the_attention_of_each_class_finds_its_morphology_in_drawn_smears(tmp_path: Path) -> None:
    """By models that did not see the patient, and more often than the attention of chance."""
    folder = tmp_path / "cohort"
    cohort = read_cohort(draw_cohort(folder, 48, 0, image_size=40, images=(8, 12), outcome="classes"))
    bags = [np.array([colours(path) for path in cohort.images[name]]) for name in cohort.patient_ids]
    cache = make_cache(tmp_path / "cache", cohort, bags)
    settings = {
        "attention_heads": ("classes",),
        "pooling": ("gated-attention",),
        "hidden": (32,),
        "components": (0,),
        "epochs": (25,),
        "learning_rate": (0.02,),
        "gamma": (0.97,),
        "weight_decay": (0.01,),
        "instance_dropout": (0.0,),
        "metadata_branch": ("none",),
    }
    quick = replace(demo.STUDY, trials=1, folds=2, outer_folds=2, members=2, settings=settings)
    tune(cohort, cache, tmp_path / "study", quick, "cpu")
    attention = outer_attention(tmp_path / "study")
    assert attention is not None
    truth = pd.read_csv(folder / TRUTH)
    truth["image"] = [f"{int(Path(name).stem)}.png" for name in truth["image"]]  # as in the cache
    checks = check_classes(attention, truth, cohort)
    assert list(checks) == list(CLASS_NAMES)
    assert [check.patients for check in checks.values()] == [19, 15, 14]
    for check in checks.values():
        assert check.auc > 0.95 and check.first > 2 * check.by_chance


def test_the_demo_does_not_touch_other_folders(tmp_path: Path, command: Command) -> None:
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


def test_perfect_equal_and_reversed_attention() -> None:
    perfect = check_attention(
        attention_of({"A": [0.1, 0.7, 0.1, 0.1], "B": [0.4, 0.1, 0.5, 0.0], "C": [1, 0, 0, 0]}), TRUE
    )
    assert perfect == AttentionCheck(1.0, 1.0, 1.0, first=2, by_chance=0.25 + 0.5, patients=2)
    equal = check_attention(attention_of({name: [0.25] * 4 for name in "ABC"}), TRUE)
    assert (equal.auc, equal.low, equal.high) == (0.5, 0.5, 0.5)
    reverse = check_attention(
        attention_of({"A": [0.3, 0.1, 0.3, 0.3], "B": [0.1, 0.4, 0.1, 0.4], "C": [1, 0, 0, 0]}), TRUE
    )
    assert (reverse.auc, reverse.first) == (0.0, 0)


def test_attention_is_compared_within_patients_only() -> None:
    """Scaling the weights of one patient, as a smaller bag would, changes nothing."""
    weights = {"A": [0.2, 0.3, 0.1, 0.25], "B": [0.002, 0.003, 0.001, 0.0015], "C": [0.25] * 4}
    scaled = {**weights, "B": [100 * each for each in weights["B"]]}
    assert check_attention(attention_of(weights), TRUE) == check_attention(attention_of(scaled), TRUE)
    # A: higher than all three others; B: higher in one pair of four
    assert check_attention(attention_of(weights), TRUE).auc == pytest.approx((1 + 1 / 4) / 2)


def test_only_the_demo_falls_back_to_random_weights(
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
