"""Commands that are not told the features take those that the study or the bundle was made with."""

import json
import shutil
from pathlib import Path

import pytest
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features.export import export_cache
from mil_toolkit.study.sources import open_study_features

QUICK = ("--trials", 1, "--epochs", 2, "--folds", 2, "--members", 2, "--set", "hidden=32")


def opened(tiny: Tiny, study: Path | None = None, features: str | None = None) -> Path | None:
    cache = open_study_features(features, study or tiny.study, "synthetic")
    return None if cache is None else cache.folder


def study_copy(tiny: Tiny, folder: Path, features: str, working_folder: Path) -> Path:
    """A copy of the study that records other places."""
    study = Path(shutil.copytree(tiny.study, folder / "study"))
    sources = json.loads((study / "sources.json").read_text())
    changed = {**sources, "features": features, "working_folder": str(working_folder)}
    (study / "sources.json").write_text(json.dumps(changed))
    return study


def test_the_features_of_a_study_are_those_of_its_record(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert opened(tiny) == tiny.features
    study = study_copy(tiny, tmp_path, "cache/mine", tmp_path)
    moved = Path(shutil.copytree(tiny.features, tmp_path / "cache/mine"))
    assert opened(tiny, study) == moved  # relative to the folder in which mil-tune ran
    monkeypatch.chdir(tmp_path)
    assert opened(tiny, study) == Path("cache/mine")


def test_a_record_from_another_machine_is_looked_up_in_this_folder(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = study_copy(tiny, tmp_path, "features/mine", Path("/nowhere"))
    with pytest.raises(UsageError, match=r"in none of these folders\. Name their folder with") as none:
        opened(tiny, study)
    assert str(none.value).splitlines()[1:] == [
        "  /nowhere/features/mine",
        "  features/mine",
        f"  cache/synthetic/{tiny.features.name}",
    ]
    named = Path("cache/synthetic") / tiny.features.name
    shutil.copytree(tiny.features, named)
    shutil.copytree(tiny.features, named.with_name("another"))
    assert opened(tiny, study) == named
    shutil.copytree(tiny.features, "features/mine")
    assert opened(tiny, study) == Path("features/mine")


def test_a_study_without_a_record_has_the_name_of_its_features(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_copy(tiny, tmp_path, "", tmp_path)
    (study / "sources.json").unlink()
    monkeypatch.chdir(tiny.folder)
    assert opened(tiny, study) == Path("cache/synthetic") / tiny.features.name


def test_given_features_are_taken_as_they_are(tiny: Tiny, tmp_path: Path) -> None:
    assert opened(tiny, features="none") is None
    assert opened(tiny, tmp_path / "no study", str(tiny.features)) == tiny.features
    with pytest.raises(DataError, match="is not a study folder"):
        opened(tiny, tmp_path / "no study")


def test_a_study_of_metadata_only_needs_no_options(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without cache/
    absent = command("tune", tiny.cohort_toml, "--study", "s", *QUICK)
    assert absent.code == 2
    assert "holds no features. Run mil-extract first, or use --features none for metadata only." in absent.err
    options = ("--features", "none", "--outer-folds", 2)
    assert command("tune", tiny.cohort_toml, "--study", "s", *options, *QUICK).code == 0
    said = "Using metadata only, as s does (no --features given)."
    for name in ("ablate", "fit"):
        done = command(name, tiny.cohort_toml, "--study", "s")
        assert done.code == 0 and said in done.err.splitlines(), done.err
    predicted = command("predict", "s/model", tiny.cohort_toml)
    assert predicted.code == 0
    assert "Using metadata only, as the model does (no --features given)." in predicted.err.splitlines()
    other = command("fit", tiny.cohort_toml, "--study", "s", "--features", tiny.features, "--output", "m")
    assert other.code == 3 and "features.name: None there, " in other.err and not Path("m").exists()


def test_commands_take_the_features_of_the_study_from_several(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (tiny.features.name, "another"):
        shutil.copytree(tiny.features, Path("cache/synthetic", name))
    said = f"Using the features of {tiny.study}: {tiny.features} (no --features given)."
    done = command("fit", tiny.cohort_toml, "--study", tiny.study, "--output", "model")
    assert done.code == 0 and said in done.err.splitlines()
    predicted = command("predict", "model", tiny.cohort_toml)
    words = f"Embedding the images as for the model: {tiny.features.name} (no --features given)."
    assert predicted.code == 0 and words in predicted.err.splitlines()
    refused = command("fit", tiny.cohort_toml, "--study", tiny.study, "--features", "none", "--output", "m")
    assert refused.code == 3 and "features.name: " in refused.err


def test_a_model_on_imported_features_finds_them(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cohort = Path(shutil.copytree(tiny.cohort_toml.parent, "cohort")) / "cohort.toml"
    lines = cohort.read_text().splitlines(keepends=True)
    cohort.write_text("".join(line for line in lines if not line.startswith("images")))
    export_cache(tiny.cache, "trident", Path("features_uni_v1"))
    imported = command("cache", "import", "features_uni_v1", "--format", "trident", "--cohort", "synthetic")
    assert imported.code == 0, imported.err
    folder = imported.out.strip()
    tuned = command("tune", cohort, "--study", "s", "--outer-folds", 0, *QUICK)
    assert tuned.code == 0, tuned.err
    fitted = command("fit", cohort, "--study", "s")
    assert fitted.code == 0 and f"Using the features of s: {folder} (no --features given)." in fitted.err
    predicted = command("predict", "s/model", cohort)
    words = f"Using the features that the model was fitted on: {folder} (no --features given)."
    assert predicted.code == 0 and words in predicted.err.splitlines(), predicted.err
    elsewhere = command("predict", "s/model", cohort, "--cache", "elsewhere")
    assert elsewhere.code == 2 and "run mil-cache import" in elsewhere.err
