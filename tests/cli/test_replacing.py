"""What commands may replace: former outputs of their own, and nothing else."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.commands import Command, Done
from support.studies import Tiny

from mil_toolkit.cohort.synthetic import COHORT_TOML

PREDICTIONS = "patient_id,probability,prediction,spread,label\n"


@pytest.fixture(name="copy")
def _copy(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A copy of the tiny cohort, cache, study and bundle."""
    folder = Path(shutil.copytree(tiny.folder, tmp_path / "copy"))
    places = (tiny.cohort_toml, tiny.features, tiny.study)
    return Tiny(folder, *(folder / path.relative_to(tiny.folder) for path in places))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(copy: Tiny, command: Command, *call: object) -> Done:
    """Run a command that has to refuse its output before it writes anything."""
    before = contents(copy.folder.parent)
    done = command(*call)
    assert done.code == 2 and "Traceback" not in done.err, done.err
    assert contents(copy.folder.parent) == before
    return done


def predict(copy: Tiny, *options: object) -> Sequence[object]:
    return ("predict", copy.bundle, copy.cohort_toml, "--features", copy.features, *options)


@pytest.mark.parametrize("option", ["--output", "--submission", "--attention"])
@pytest.mark.parametrize(
    "place",
    [
        "cohort/images/P001/000.jpg",
        "cohort/truth.csv",
        "cohort/cohort.toml",
        "cohort/images/P001/new.csv",
        "cohort/images/new.png",
        "cache/synthetic/*/spec.json",
        "cache/synthetic/*/new.csv",
        "studies/tiny/predictions.csv",
        "studies/tiny/attention.csv",
        "studies/tiny/outer/repeat1-fold1/attention.csv",
        "studies/tiny/splits.json",
        "studies/tiny/DONE",
        "studies/tiny/model/new.csv",
        "studies/tiny/model/model.safetensors",
    ],
)
def test_predict_replaces_no_image_and_no_file_of_a_cohort_cache_study_or_bundle(
    option: str, place: str, copy: Tiny, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mil_toolkit.bundle.predict.predict", None)  # not reached
    path = next(iter(copy.folder.glob(place)), copy.folder / place.replace("*", copy.features.name))
    done = refused(copy, command, *predict(copy, option, path))
    assert f"{option}: {path} " in done.err or f"{path} is inside" in done.err


def test_the_images_that_predict_reads_are_protected_behind_links_too(
    copy: Tiny, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "link.csv").symlink_to(copy.folder / "cohort/images/P001/000.jpg")
    options = ("--cache", tmp_path / "new", "--output", tmp_path / "link.csv")
    done = refused(copy, command, "predict", copy.bundle, copy.cohort_toml, *options)
    assert "link.csv is read by this command and would be overwritten" in done.err


@pytest.mark.parametrize("text", ["patient,score\nA,1\n", "", PREDICTIONS.upper(), "patient_id\n"])
def test_a_table_of_somebody_else_at_the_default_place_is_kept(
    text: str, copy: Tiny, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("predictions.csv").write_text(text)
    done = refused(copy, command, *predict(copy))
    assert "--output: predictions.csv exists and is not a table of predictions" in done.err


def test_former_tables_are_replaced(copy: Tiny, command: Command, tmp_path: Path) -> None:
    tables = {name: tmp_path / f"{name}.csv" for name in ("output", "submission", "attention")}
    options = [word for name, path in tables.items() for word in (f"--{name}", path)]
    assert command(*predict(copy, *options)).code == 0
    written = {path: path.read_bytes() for path in tables.values()}
    tables["output"].write_text(PREDICTIONS.replace(",label", "") + "P1,0.5,1,0.1\n")
    assert command(*predict(copy, *options)).code == 0
    assert {path: path.read_bytes() for path in tables.values()} == written


@pytest.mark.parametrize(
    "text",
    [
        "ID,LABEL\n",
        "ID,LABEL\nP001,tumoral\n",  # a labelled patient
        "ID,LABEL\n{unlabelled},1\n",
        "ID,LABEL\n{unlabelled},tumoral,extra\n",
        "patient,LABEL\n{unlabelled},tumoral\n",
        '"',
    ],
)
def test_a_submission_is_known_by_its_header_patients_and_classes(
    text: str, copy: Tiny, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text.format(unlabelled=copy.cohort.unlabelled().patient_ids[0]))
    done = refused(copy, command, *predict(copy, "--output", tmp_path / "p.csv", "--submission", path))
    assert "s.csv exists and is not a challenge file" in done.err


@pytest.mark.parametrize(
    "head", ["<!doctype html>\n<p>mine", "<html>", '<meta name="generator" content="x">']
)
def test_a_page_of_somebody_else_is_kept(head: str, copy: Tiny, command: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(head)
    refused(copy, command, "report", copy.study, "--output", page)
    (copy.study / "report.html").write_text(head)
    refused(copy, command, "report", copy.study)


@pytest.mark.parametrize("name", ["DONE", "new.csv", "model/new.html", "outer/new.html"])
def test_a_report_in_the_folder_of_its_study_is_a_page_beside_the_own_one(
    name: str, copy: Tiny, command: Command
) -> None:
    refused(copy, command, "report", copy.study, "--output", copy.study / name)


def test_reports_of_this_and_older_versions_are_replaced(
    copy: Tiny, command: Command, tmp_path: Path
) -> None:
    for path in (copy.study / "report.html", copy.study / "anonymous.html", tmp_path / "r.html"):
        assert command("report", copy.study, "--output", path).code == 0
        text = path.read_text()
        assert '<meta name="generator" content="mil_toolkit">' in text
        path.write_text(text.replace('<meta name="generator" content="mil_toolkit">\n', ""))
        assert command("report", copy.study, "--output", path).code == 0 and path.read_text() == text


def test_folders_among_images_or_in_other_folders_are_refused(
    copy: Tiny, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toml, features, images = copy.cohort_toml, copy.features, copy.cohort_toml.parent / "images"
    extract = ("extract", toml, "--weights", "random", "--backbone", "resnet18", "--image-size", 32)
    exported = ("cache", "export", features, "--format", "trident", "--output")
    calls = [
        (*extract, "--cache", images),
        (*extract, "--cache", images / "P001"),
        (*extract, "--cache", images / ".cache"),
        (*extract, "--cache", features),
        (*extract, "--cache", copy.bundle / "cache"),
        ("predict", copy.bundle, toml, "--cache", images, "--output", tmp_path / "p.csv"),
        ("tune", toml, "--features", features, "--study", images / "study"),
        ("tune", toml, "--features", features, "--study", features / "study"),
        ("fit", toml, "--features", features, "--study", copy.study, "--output", images / "P001" / "model"),
        ("fit", toml, "--features", features, "--study", copy.study, "--output", features / "model"),
        ("fit", toml, "--features", features, "--study", copy.study, "--output", copy.bundle / "model"),
        (*exported, features),
        (*exported, copy.bundle),
        (*exported, copy.study / "export"),
        ("init", toml.parent / "patients.csv", images, "--output", images / "P001" / "c.toml"),
        ("init", toml.parent / "patients.csv", images, "--output", images / "c.png"),
        ("init", toml.parent / "patients.csv", images, "--output", features / "c.toml"),
    ]
    for call in calls:
        done = refused(copy, command, *call)
        assert "inside" in done.err or "cannot be" in done.err, call


def test_a_cache_beside_the_images_is_written(copy: Tiny, command: Command, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(copy.cohort_toml.parent / "images")
    options = ("--weights", "random", "--backbone", "resnet18", "--image-size", 32, "--dry-run", "--json")
    done = command("extract", copy.cohort_toml, *options, "--cache", copy.cohort_toml.parent / "cache")
    assert done.code == 0, done.err


def test_init_replaces_nothing(copy: Tiny, command: Command, tmp_path: Path) -> None:
    (tmp_path / "dangling.toml").symlink_to("absent")
    table, images = copy.cohort_toml.parent / "patients.csv", copy.cohort_toml.parent / "images"
    for output in (table, images / "P001" / "000.jpg", tmp_path / "dangling.toml", copy.cohort_toml):
        assert "already exists" in refused(copy, command, "init", table, images, "--output", output).err


@pytest.mark.parametrize("extra", ["notes.txt", "predictions/notes.xlsx", "epochs/full/mine.txt", "a/b"])
def test_an_ablation_replaces_no_file_that_was_added(extra: str, copy: Tiny, command: Command) -> None:
    path = copy.study / "ablation" / extra
    path.parent.mkdir(parents=True)
    path.touch()
    call = ("ablate", copy.cohort_toml, "--features", copy.features, "--study", copy.study)
    assert extra in refused(copy, command, *call).err


@pytest.mark.parametrize("name", ["predictions.csv", "submission.csv", "attention.csv"])
def test_the_demo_replaces_no_table_that_was_added(
    name: str, copy: Tiny, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mil_toolkit.demo._extract", None)  # not reached
    copy.cohort_toml.write_text(COHORT_TOML)
    (copy.cohort_toml.parent / name).write_text("mine")
    done = refused(copy, command, "demo", "--output", copy.cohort_toml.parent)
    assert name in done.err
