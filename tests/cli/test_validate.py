"""mil-validate: what it prints and writes, recalibrated bundles, refusals, and what it replaces."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.bundles import change_config
from support.commands import Command
from support.other_cohorts import KNOWN, Other
from support.studies import Tiny


@pytest.fixture(name="asked")
def _asked(tiny: Tiny, other: Other, tmp_path: Path) -> tuple[object, ...]:
    """The arguments of a validation, whose page goes into the test's folder."""
    output = ("--output", tmp_path / "validation.html")
    return ("validate", tiny.bundle, other.cohort_toml, "--features", other.features, *output)


def test_it_prints_flow_scores_and_refits_and_replaces_its_page(
    asked: tuple[object, ...], tmp_path: Path, command: Command
) -> None:
    page = tmp_path / "validation.html"
    for _ in range(2):
        done = command(*asked)
        assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{page}: 20 patients scored")
    assert "1 excluded, 3 without outcome, 2 without images, 4 already in training" in lines[1]
    (row,) = (line for line in lines if line.startswith("  balanced_accuracy "))
    assert row.count(" to ") == 3
    assert any(line.startswith("Refitted here (intercept): log loss") for line in lines)
    (missing,) = (line for line in lines if line.startswith("Not refitted here. Intercept and slope: "))
    assert "20 are needed" in missing
    assert "There are only" in done.err
    assert page.read_bytes().startswith(b"<!doctype html>")
    assert "There are only" not in command(*asked, "--quiet").err


def test_json_holds_the_record(asked: tuple[object, ...], tmp_path: Path, command: Command) -> None:
    data = command(*asked, "--json", "--prevalence", 0.3).json
    assert data["page"] == str(tmp_path / "validation.html") and data["recalibrated"] is None
    assert data["flow"]["scored"] == 20 and len(data["in_training"]) == KNOWN
    assert data["scores"]["auc"].keys() >= {"value", "low", "high", "patients", "repeats"}
    assert data["outer"].keys() == data["differences"].keys() and data["checked"] is True
    assert [*data["refits"]] == ["intercept", "prevalence", "threshold"] and [*data["not_refitted"]] == [
        "slope"
    ]
    guide = Path(__file__).parents[2] / "docs" / "howto" / "validation.md"
    assert all(f"`{name}`" in guide.read_text() for name in data)
    assert data["refits"]["intercept"]["rule"].keys() == {"slope", "intercept", "threshold"}


def test_a_recalibrated_bundle_is_applied_and_says_so_and_is_not_validated_on_its_own_patients(
    asked: tuple[object, ...], other: Other, tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    new = tmp_path / "new"
    recalibrate = ("--recalibrated", new, "--recalibration", "threshold", "intercept")
    for _ in range(2):  # the second run replaces its bundle
        done = command(*asked, *recalibrate)
        assert done.code == 0, done.err
    assert f"{new}: the model with intercept and threshold, refitted here." in done.out
    predict = ("predict", new, tiny.cohort_toml, "--features", tiny.features, "--output", tmp_path / "p.csv")
    said = command(*predict)
    assert said.code == 0
    words = "The model was recalibrated on 20 patients of cohort other: intercept, then threshold."
    assert words in said.out.splitlines()
    steps = command(*predict, "--json").json["recalibrated"]
    assert steps == [{"cohort": "other", "refitted": ["intercept", "threshold"]}]
    abstained = command(*predict, "--abstain", 0.2)
    assert abstained.code == 2 and "since it was recalibrated" in abstained.err
    again = command("validate", new, other.cohort_toml, "--features", other.features, *asked[5:])
    assert again.code == 3 and "fitted or recalibrated on" in again.err


def test_images_give_what_the_cache_gives(
    asked: tuple[object, ...], tmp_path: Path, command: Command
) -> None:
    cached = command(*asked, "--json").json
    without = [word for place, word in enumerate(asked) if place not in (3, 4)]
    imaged = command(*without, "--cache", tmp_path / "cache", "--json")
    assert imaged.code == 0, imaged.err
    assert imaged.json == cached


# Refusals.


def test_training_patients_alone_are_refused(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    page = tmp_path / "validation.html"
    same = ("validate", tiny.bundle, tiny.cohort_toml, "--features", tiny.features, "--output", page)
    done = command(*same)
    assert done.code == 3 and "needs other patients" in done.err and not page.exists()


def test_copied_images_are_recognised_under_other_ids(
    tiny: Tiny, other: Other, tmp_path: Path, command: Command
) -> None:
    toml = Path(shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")) / "cohort.toml"
    table = pd.read_csv(toml.parent / "patients.csv", dtype=str, keep_default_na=False)
    table["ID"] = "R" + table["ID"]
    table.to_csv(toml.parent / "patients.csv", index=False)
    for folder in sorted((toml.parent / "images").iterdir()):
        folder.rename(folder.with_name(f"R{folder.name}"))
    output = ("--output", tmp_path / "validation.html", "--cache", tmp_path / "cache")
    done = command("validate", tiny.bundle, toml, *output)
    assert done.code == 3 and "needs other patients" in done.err


def test_a_cohort_without_outcome_is_refused(
    asked: tuple[object, ...], other: Other, tmp_path: Path, command: Command
) -> None:
    folder = Path(shutil.copytree(other.cohort_toml.parent, tmp_path / "cohort"))
    lines = (folder / "cohort.toml").read_text().splitlines()
    keys = ("label", "positive", "negative", "unlabelled", "exclude", "stratify")
    bare = [line for line in lines if not line.startswith(keys)]
    (folder / "cohort.toml").write_text("\n".join(bare))
    done = command(*asked[:2], folder / "cohort.toml", *asked[3:])
    assert done.code == 3 and "declares no outcome" in done.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--recalibration", "intercept", "slope"), 2, "takes one of intercept, slope and prevalence"),
        (("--recalibration", "prevalence"), 2, "needs --prevalence"),
        (("--prevalence", 1.5), 2, "between 0 and 1"),
        (("--prevalence", "nan"), 2, "between 0 and 1"),
        (("--recalibrated", "new"), 3, "20 are needed"),
        (("--features", "none"), 3, "was trained with features"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    options: tuple[object, ...],
    code: int,
    words: str,
    asked: tuple[object, ...],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*asked, *options)
    assert done.code == code and words in done.err
    assert [*tmp_path.iterdir()] == []


def test_other_files_are_not_replaced(
    asked: tuple[object, ...], tiny: Tiny, other: Other, tmp_path: Path, command: Command
) -> None:
    page = tmp_path / "validation.html"
    page.write_text("<!doctype html><title>mine</title>")
    done = command(*asked)
    assert done.code == 2 and "is not a page of mil-validate" in done.err
    assert page.read_text() == "<!doctype html><title>mine</title>"
    page.unlink()
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.txt").write_text("mine")
    done = command(*asked, "--recalibrated", thesis, "--recalibration", "intercept")
    assert done.code == 2 and "thesis.txt" in done.err and not page.exists()
    done = command(*asked, "--recalibrated", tiny.bundle, "--recalibration", "intercept")
    assert done.code == 2 and "is the bundle that is validated" in done.err
    inside = ("--recalibrated", tmp_path / "new", "--recalibration", "intercept")
    done = command(*asked[:5], "--output", tmp_path / "new" / "validation.html", *inside)
    assert done.code == 2 and "the new bundle" in done.err
    done = command(*asked, "--recalibrated", tiny.study / "new", "--recalibration", "intercept")
    assert done.code == 2 and "is inside a study" in done.err
    done = command(*asked[:5], "--output", other.cohort_toml)
    assert done.code == 2 and "is read by this command" in done.err


def test_an_anonymous_bundle_is_validated_with_a_warning(
    asked: tuple[object, ...], tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")

    def make_anonymous(config: dict[str, dict[str, object]]) -> None:
        config["about"]["fitted_on"] = "anonymous"

    change_config(Path(bundle), make_anonymous)
    done = command("validate", bundle, *asked[2:], "--quiet")
    assert done.code == 0 and "does not say whom the model was fitted on" in done.err
    assert "does not say whom the model was fitted on" in (tmp_path / "validation.html").read_text()
