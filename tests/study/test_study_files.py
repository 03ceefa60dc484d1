"""Files of a study that are not regular, may not be read, or are broken in a way of their own."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import Command
from support.doctored import Doctored, cell, content, copy_of, in_json, in_table, setting
from support.studies import Tiny
from support.users import as_nobody, needs_root

from mil_toolkit.core.errors import DataError
from mil_toolkit.report.contents import read_contents
from mil_toolkit.study.ablation import Ablation
from mil_toolkit.study.folder import Study
from mil_toolkit.study.sources import open_study_features
from mil_toolkit.study.verification import verify

FOLD = "outer/repeat1-fold1"
READ = [
    "config.json",
    "DONE",
    "splits.json",
    "patients.json",
    "scores.json",
    "predictions.csv",
    "best.json",
    "out_of_fold.csv",
    f"{FOLD}/best.json",
    f"{FOLD}/predictions.csv",
    f"{FOLD}/out_of_fold.csv",
]
REPORTED = ["trials.csv", "audit.json", "sources.json", f"{FOLD}/attention.csv", "epochs/trial0000.jsonl"]


@pytest.mark.parametrize("name", [*READ, *REPORTED])
def test_a_pipe_is_refused(name: str, tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    if "jsonl" in name:  # of the chosen trial
        name = str(
            Study.open(study).final.epochs(Study.open(study).final.read_best().number).relative_to(study)
        )
    (study / name).unlink()
    os.mkfifo(study / name)
    with pytest.raises(DataError, match=f"{re.escape(name)} is a named pipe"):
        read_contents(study)


@pytest.mark.parametrize("name", ["report", "fit", "ablate", "tune"])
def test_every_command_refuses_a_pipe(name: str, tiny: Tiny, tmp_path: Path, command: Command) -> None:
    study = copy_of(tiny.study, tmp_path)
    (study / FOLD / "best.json").unlink()
    os.mkfifo(study / FOLD / "best.json")
    data = [tiny.cohort_toml, "--features", tiny.features, "--device", "cpu", "--study", study]
    options = [study] if name == "report" else data
    if name == "tune":
        options += ["--trials", 2, "--folds", 2, "--outer-folds", 2, "--members", 2]
        options += ["--epochs", 3, "--set", "hidden=32", "--set", "pooling=attention"]
    done = command(name, *options)
    assert done.code == 3 and "best.json is a named pipe" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("name", [*READ[2:3], *READ[4:]])
def test_a_missing_file_is_named(name: str, tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    (study / name).unlink()
    with pytest.raises(DataError, match=f"{re.escape(name)} does not exist"):
        read_contents(study)


def test_a_missing_outer_folder_is_named(tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    shutil.rmtree(study / FOLD)
    with pytest.raises(DataError, match=rf"{FOLD}/predictions\.csv does not exist|{FOLD}/best\.json"):
        read_contents(study)


def test_stray_entries_of_outer_are_not_part_of_the_study(tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    before = read_contents(study)
    (study / "outer" / ".DS_Store").touch()
    shutil.copytree(study / FOLD, study / "outer" / "repeat9-fold9")
    (study / "outer" / "notes").mkdir()
    after = read_contents(study)
    assert [curve.search for curve in before.curves] == [curve.search for curve in after.curves]
    assert before.attention is not None and after.attention is not None
    assert before.attention.equals(after.attention)


@pytest.fixture(name="readable")
def _readable(tiny: Tiny) -> Iterator[Path]:
    """A copy of a study that every user of the machine may read."""
    with tempfile.TemporaryDirectory() as name:  # unlike those of tmp_path, everyone may search its parents
        root = Path(name)
        copy_of(tiny.study, root)
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)
        yield root / "copy"


@needs_root
@pytest.mark.parametrize("name", [*READ, *REPORTED[:4], "outer", FOLD, "."])
def test_missing_permission_names_the_owner(name: str, readable: Path) -> None:
    os.chmod(readable / name, 0)
    text = as_nobody(lambda: read_contents(readable))
    os.chmod(readable / name, 0o755)
    assert "UsageError" in text and "belongs to root and has mode 0000. Ask root" in text, text


@needs_root
def test_features_below_a_closed_folder_are_a_sentence(readable: Path) -> None:
    os.chmod(readable.parent, 0o700)
    text = as_nobody(lambda: open_study_features(None, readable, "synthetic"))
    assert "UsageError" in text and "Ask root for permission" in text


# What only the report reads.

ATTENTION = f"{FOLD}/attention.csv"
REPORTS = [
    Doctored("attention above 1", cell(ATTENTION, "attention", 0, "7"), "row 2: attention is not between"),
    Doctored("attention in words", cell(ATTENTION, "attention", 0, "much"), "row 2: attention is 'much'"),
    Doctored("attention of a stranger", cell(ATTENTION, "patient_id", 0, "ghost"), "without predictions"),
    Doctored("no images", in_table(ATTENTION, lambda t: t.drop(columns="image")), "has the columns repeat"),
    Doctored("an empty table", content(ATTENTION, b""), "cannot be read as a table"),
    Doctored("a trial in words", cell("trials.csv", "number", 0, "one"), "row 2: number is 'one'"),
    Doctored("a trial twice", cell("trials.csv", "number", 0, "1"), "a number occurs twice"),
    Doctored("a value in words", cell("trials.csv", "value", 0, "good"), "row 2: value is 'good'"),
    Doctored("an infinite value", cell("trials.csv", "value", 0, "inf"), "row 2: value is 'inf'"),
    Doctored("no value", cell("trials.csv", "value", 0, ""), "row 2: value is ''"),
    Doctored("another state", cell("trials.csv", "state", 0, "DONE"), "row 2: state is 'DONE'"),
    Doctored("a hyperparameter", cell("trials.csv", "gamma", 0, "7"), "row 2: gamma='7': must be"),
    Doctored("unknown columns", in_table("trials.csv", lambda t: t.assign(luck="1")), "'luck' is not one of"),
    Doctored("no columns", content("trials.csv", b"a,b\n1,2\n"), "does not begin with the columns number"),
    Doctored("no findings", content("audit.json", b"{}"), r"audit\.json does not have the expected content"),
    Doctored(
        "a count",
        in_json("audit.json", lambda f: [{"kind": "", "level": "", "text": "", "count": -1}]),
        "count",
    ),
    Doctored("no sources", setting("sources.json", "cohort", to=1), r"\$\.cohort"),
]
EPOCHS = {
    b"{": "cannot be read",
    b"[]": "cannot be read",
    b"\xff": "cannot be read",
    b'{"epoch": 0}': "no epoch between 1",
    b'{"epoch": 1000000000}': "no epoch between 1",
    b'{"epoch": 1, "validation_auc": "high"}': "cannot be read",
    b'{"epoch": 1, "validation_auc": 0.5}': "no score of training beside it",
    b'{"epoch": 1, "validation_auc": 1e300, "training_auc": 1}': "a score is above",
    b'{"epoch": 1}\n{"epoch": 2, "training_auc": 1}': "row 2: its scores are not those of the first row",
    b"[" * 100_000: "cannot be read",
}


@pytest.mark.parametrize("doctored", REPORTS, ids=str)
def test_a_report_refuses_a_changed_file(doctored: Doctored, tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    doctored.change(study)
    with pytest.raises(DataError, match=doctored.words) as caught:
        read_contents(study)
    assert str(study) in str(caught.value)


@pytest.mark.parametrize("line", EPOCHS, ids=lambda line: line[:60].decode(errors="replace"))
def test_a_report_refuses_malformed_epochs(line: bytes, tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    final = Study.open(study).final
    final.epochs(final.read_best().number).write_bytes(line)
    with pytest.raises(DataError, match=EPOCHS[line]) as caught:
        read_contents(study)
    assert ".jsonl" in str(caught.value)


VARIANT = "ablation/predictions/metadata-only.csv"
SCORES = "ablation/scores.json"
AUC = ("variants", "metadata-only", "scores", "auc", "value")
ABLATIONS = [
    Doctored("a score", setting(SCORES, *AUC, to=0.123), r"metadata-only"),
    Doctored(
        "a difference",
        setting(SCORES, "variants", "metadata-only", "difference", "differences", "auc", "value", to=0.9),
        r"difference\.auc is 0\.9",
    ),
    Doctored(
        "a gain",
        setting(SCORES, "gains", "full", "differences", "auc", "value", to=0.9),
        r"gains\.full\.auc is 0\.9",
    ),
    Doctored(
        "no full model", in_json(SCORES, lambda s: s["variants"].pop("full") and None), "there is no `full`"
    ),
    Doctored(
        "a name that leads elsewhere",
        in_json(SCORES, lambda s: s["variants"].update({"../x": s["variants"]["metadata-only"]})),
        "is not the name of a variant",
    ),
    Doctored(
        "no difference",
        setting(SCORES, "variants", "metadata-only", "difference", to=None),
        "difference is missing",
    ),
    Doctored(
        "other folds", setting(SCORES, "variants", "metadata-only", "folds", to=[]), "other folds or metrics"
    ),
    Doctored(
        "a prediction",
        in_table(VARIANT, lambda t: t.assign(prediction="1")),
        r"variants\.metadata-only\.scores",
    ),
    Doctored("a row less", in_table(VARIANT, lambda t: t[1:]), "its rows are not those of the patients"),
    Doctored(
        "a label", in_table(VARIANT, lambda t: t.assign(label="1")), "its rows are not those of the patients"
    ),
    Doctored(
        "a probability", in_table(VARIANT, lambda t: t.assign(probability="3")), "probability is not between"
    ),
    Doctored("no table", lambda study: (study / VARIANT).unlink(), "does not exist"),
]


@pytest.mark.parametrize("doctored", ABLATIONS, ids=str)
def test_a_report_refuses_a_changed_ablation(doctored: Doctored, ablated: Ablation, tmp_path: Path) -> None:
    study = copy_of(ablated.folder.parent, tmp_path)
    doctored.change(study)
    with pytest.raises(DataError, match=doctored.words):
        read_contents(study)
    verify(Study.open(study))  # the study itself is as it was


def test_an_honest_ablation_is_reported(ablated: Ablation) -> None:
    assert read_contents(ablated.folder.parent).ablation is not None
