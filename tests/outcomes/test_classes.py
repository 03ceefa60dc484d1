"""Several classes: declaration, targets, decisions, and all commands on a small cohort."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import metrics as sklearn_metrics
from support.commands import Command, outcome
from support.studies import Tiny
from torch import Tensor

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.study import StudyConfig, for_outcome
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.evaluation.splits import leave_one_group_out, make_splits
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.study.folder import Study
from mil_toolkit.study.tables import read_predictions
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.loop import Member, train
from mil_toolkit.training.patients import Patients

MakePatients = Callable[..., Patients]
THREE = 'classes = {reactive = "reactive", CLL = ["CLL", "SLL"], MCL = "MCL"}'


@pytest.fixture(scope="module", name="toml")
def _toml(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny cohort with three classes: its tumoral patients are CLL, SLL or MCL in turn."""
    folder = tmp_path_factory.mktemp("classes") / "cohort"
    shutil.copytree(tiny.cohort_toml.parent, folder)
    table = pd.read_csv(folder / "patients.csv", dtype=str, keep_default_na=False)
    tumoral = table["DIAGNOSIS"] == "tumoral"
    table.loc[tumoral, "DIAGNOSIS"] = np.resize(["CLL", "MCL", "SLL", "MCL"], tumoral.sum())
    table.to_csv(folder / "patients.csv", index=False)
    declare(folder / "cohort.toml", THREE)
    return folder / "cohort.toml"


def declare(toml: Path, classes: str) -> None:
    lines = [line for line in toml.read_text().split("\n") if not line.startswith(("positive", "negative"))]
    place = next(number for number, line in enumerate(lines) if line.startswith("label"))
    toml.write_text("\n".join([*lines[: place + 1], classes, *lines[place + 1 :]]))


def copied(toml: Path, folder: Path, change: Callable[[str], str]) -> Path:
    """Copy a cohort without its images, and change the text of its cohort.toml."""
    folder.mkdir()
    shutil.copy(toml.parent / "patients.csv", folder)
    (folder / "cohort.toml").write_text(change(toml.read_text()))
    return folder / "cohort.toml"


# Declaration and targets.


@pytest.mark.parametrize(
    "classes",
    [
        THREE,
        'classes = {reactive = ["reactive"], CLL = ["SLL", "CLL"], MCL = ["MCL"]}',
        "[cohort.classes]\nreactive = 'reactive'\nCLL = ['CLL', 'SLL']\nMCL = 'MCL'\n[unused]",
    ],
)
def test_classes_are_read_from_a_table_of_names(classes: str, toml: Path, tmp_path: Path) -> None:
    if classes.startswith("["):
        section, _ = classes.split("\n[unused]")
        own = copied(toml, tmp_path / "c", lambda text: text.replace(THREE, "") + f"\n{section}\n")
    else:
        own = copied(toml, tmp_path / "c", lambda text: text.replace(THREE, classes))
    cohort = read_cohort(own, images=False)
    cells = pd.read_csv(own.parent / "patients.csv", keep_default_na=False)["DIAGNOSIS"]
    expected = cells.map({"reactive": 0, "CLL": 1, "SLL": 1, "MCL": 2, "": -1})
    assert_array_equal(cohort.labels, expected)
    assert cohort.class_names == ("reactive", "CLL", "MCL")
    assert len(cohort.labelled()) == 24 and len(cohort.unlabelled()) == 3


def test_a_list_of_words_names_a_class_for_each() -> None:
    listed = Classes("DX", ("AML", "ALL", 3), unlabelled="?")
    assert listed.class_names == ("AML", "ALL", "3")
    assert listed.class_words == (("AML",), ("ALL",), ("3",))
    assert listed.parse([("row 2", ("3.0",)), ("row 3", ("?",))], ".").targets.tolist() == [2, -1]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (
            'classes = ["reactive"]',
            "classes must name 2 to 100 classes, but the declared ones are: 'reactive'.",
        ),
        ('classes = "reactive"', "classes must name 2 to 100 classes"),
        (
            "classes = []",
            "classes must be text in quotes or a whole number, or a non-empty list of these, or a",
        ),
        ("classes = {a = 1.5, b = 2}", "classes must be text in quotes or a whole number"),
        ("classes = {a = [], b = 2}", "classes must be text in quotes or a whole number"),
        (
            'classes = {a = ["x", 1], b = "1.0"}',
            "is declared more than once, by the class 'a' and the class 'b'. Keep one.",
        ),
        (
            'classes = [1, "1.0"]',
            "is declared more than once, by the class '1' and the class '1.0'. Keep one.",
        ),
        ('classes = ["a", ""]', "every class needs a name that is not blank"),
        (
            'classes = ["a", "b"]\npositive = "a"',
            "classes belongs to the outcome classes, but",
        ),
    ],
)
def test_wrong_declarations_are_named(declared: str, expected: str, toml: Path, tmp_path: Path) -> None:
    own = copied(toml, tmp_path / "c", lambda text: text.replace(THREE, declared))
    with pytest.raises(DataError) as raised:
        read_cohort(own, images=False)
    assert any(expected in problem for problem in raised.value.problems), raised.value.problems


def test_a_word_of_no_class_and_a_missing_label_are_named_with_their_rows(toml: Path, tmp_path: Path) -> None:
    def change(text: str) -> str:
        return text.replace(THREE, 'classes = ["reactive", "CLL", "MCL"]').replace('unlabelled = ""', "")

    own = copied(toml, tmp_path / "c", change)
    with pytest.raises(DataError) as raised:
        read_cohort(own, images=False)
    cells = pd.read_csv(own.parent / "patients.csv", keep_default_na=False)["DIAGNOSIS"]
    for row, cell in enumerate(cells, 2):
        lines = [line for line in raised.value.problems if f"row {row} " in line]
        assert len(lines) == (cell in ("SLL", ""))
        assert all("SLL" in line or "no label" in line for line in lines)


def test_a_class_with_fewer_patients_than_folds_is_named_with_advice() -> None:
    names = Classes("DX", ("AML", "ALL", "other")).stratum_names
    labels = np.repeat([0, 1, 2], [5, 5, 3])
    with pytest.raises(DataError, match="the other class has 3 patients, fewer than the 5 folds") as raised:
        make_splits(labels, 5, 0, names=names)
    assert "merge the class with another" in str(raised.value) and "exclude its patients" in str(raised.value)
    assert len(make_splits(labels, 3, 0, names=names)[0]) == 3
    with pytest.raises(DataError, match="the other class has 0 patients"):
        make_splits(labels[:10], 5, 0, names=names)
    groups = np.array(list("aabbcddeefghi"))
    with pytest.raises(DataError, match="the ALL class has 3 groups, fewer than the 4 folds"):
        make_splits(labels, 4, 0, groups=groups, names=names)


def test_a_group_that_holds_all_patients_of_a_class_cannot_be_left_out() -> None:
    labels, groups = np.array([0, 1, 2, 0, 1]), np.array(["a", "a", "a", "b", "b"])
    with pytest.raises(DataError, match="without group a, no training patient has the class other"):
        leave_one_group_out(labels, groups, Classes("DX", ("AML", "ALL", "other")).stratum_names)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"sensitivity": 0.9}, "--sensitivity"),
        ({"threshold": "half"}, "--threshold"),
        ({"prevalence": 0.3}, "--prevalence"),
        ({"settings": {"pooling": ("attention", "dsmil")}}, "--set pooling: dsmil"),
        ({"objective": "auc"}, "--objective"),
    ],
)
def test_options_of_two_classes_are_refused(options: Mapping[str, object], flag: str) -> None:
    config = replace(StudyConfig(), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=flag):
        for_outcome(config, "classes")
    assert for_outcome(config, "binary")


# Training.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fusion": "late"},
        {"components": 0, "pooling": "gated-attention"},
        {"image_branch": False},
        {"attention_heads": "classes"},
        {"attention_heads": "classes", "components": 0, "pooling": "gated-attention", "fusion": "concat"},
        {"attention_heads": "classes", "pooling": "transformer", "instance_layers": 1, "instance_width": 6},
        {"attention_heads": "classes", "pooling": "top-k", "zero_start": False},
    ],
    ids=str,
)
def test_lockstep_training_equals_training_one_member_at_a_time(
    changes: dict[str, object], make_patients: MakePatients
) -> None:
    drawn = make_patients(18)
    patients = replace(drawn, labels=np.arange(18) % 3, outcome=Classes("DX", ("a", "b", "c")))
    inputs = Inputs(patients, [np.arange(12), np.arange(6, 18)])
    config = replace(HeadConfig(hidden=8, metadata_hidden=6, batch_size=4, epochs=3, components=4), **changes)  # type: ignore[arg-type]
    members = [Member(0, 10), Member(1, 20), Member(0, 30)]

    def weights(chosen: list[Member]) -> dict[str, Tensor]:
        *_, (model, _) = train(inputs, config, chosen, order_seed=5)
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    together = weights(members)
    assert all(len(value) == 3 for value in together.values())
    for k, member in enumerate(members):
        for name, value in weights([member]).items():
            torch.testing.assert_close(value[0], together[name][k], rtol=1e-3, atol=1e-4)


def test_the_linear_start_of_two_classes_is_that_of_a_binary_outcome() -> None:
    from mil_toolkit.outcomes.binary import Binary

    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 3)), np.arange(40) % 2
    two = Classes("DX", ("a", "b")).linear_start(x, labels, True)
    one = Binary().linear_start(x, labels, True)
    assert_allclose(two[:, 1] - two[:, 0], one[:, 0])


# Commands.


@pytest.fixture(scope="module", name="options")
def _options(tiny: Tiny, toml: Path) -> list[object]:
    numbers = ("--trials", 2, "--epochs", 2, "--folds", 2, "--outer-folds", 2, "--members", 2, "--workers", 1)
    return [toml, "--features", tiny.features, *numbers, "--set", "hidden=32"]


@pytest.fixture(scope="module", name="study")
def _study(options: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mil_toolkit.cli.tune import main

    study = tmp_path_factory.mktemp("classes-studies") / "three"
    assert main([str(word) for word in (*options, "--study", study, "--device", "cpu")]) == 0
    return study


def test_outer_scores_are_those_of_the_stored_predictions(study: Path) -> None:
    scores = Study.open(study).read_scores()
    table = read_predictions(study / "predictions.csv")
    assert scores.outer is not None and scores.outer.keys() == scores.inner.keys()
    names = [f"probability:{name}" for name in ("reactive", "CLL", "MCL")]
    assert_allclose(table[names].sum(axis=1), 1)
    labels, decided = table["label"], table["prediction"]
    for path in sorted(study.glob("outer/*/predictions.csv")):
        fold = read_predictions(path)
        priors = fold[[name.replace("probability", "prior") for name in names]].to_numpy()
        assert_array_equal(fold["prediction"], (fold[names].to_numpy() / priors).argmax(1))
    expected = {
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, decided),
        "macro_f1": sklearn_metrics.f1_score(labels, decided, average="macro"),
        "kappa": sklearn_metrics.cohen_kappa_score(labels, decided),
    }
    for name, score in scores.outer.items():
        assert score.value is not None and score.low is not None and score.high is not None
        assert score.low <= score.value <= score.high
        assert name not in expected or score.value == pytest.approx(expected[name])
    assert next(iter(scores.rivals or {})) == "metadata_multinomial"
    assert (scores.gains or {}).keys() == (scores.rivals or {}).keys()


def test_the_same_study_has_the_same_bits_and_goes_on_after_losing_a_fold(
    study: Path, options: list[object], command: Command, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(study, again)
    for path in again.rglob("*"):
        if path.name in ("scores.json", "predictions.csv", "best.json") and "fold1" not in str(path.parent):
            path.unlink()
    assert command("tune", *options, "--study", again, "--device", "cpu").code == 0
    assert outcome(again) == outcome(study)


def test_the_report_names_all_classes_and_no_positive_ones(study: Path) -> None:
    page = (study / "report.html").read_text()
    for name in ("reactive", "CLL", "MCL"):
        assert f"ROC curve of {name} against all others" in page
        assert f"predicted <bdi>{name}</bdi>" in page
    visible = page.partition("<body>")[2].partition("<script>")[0]
    assert (
        "Scores of each class" in visible and "threshold" not in visible.lower().partition('id="reporting')[0]
    )


def test_all_further_commands_work_on_the_study(
    study: Path, tiny: Tiny, toml: Path, command: Command, tmp_path: Path
) -> None:
    common = ("--features", tiny.features, "--device", "cpu")
    ablated = command("ablate", toml, "--study", study, "--workers", 1, *common)
    assert ablated.code == 0 and "pooling-mean" in ablated.out
    assert "pooling-dsmil: left out because this pooling needs an outcome of two classes" in ablated.out
    assert command("fit", toml, "--study", study, *common).code == 0
    card = (study / "model" / "README.md").read_text()
    assert "3 classes (*reactive*, *CLL*, *MCL*)" in card and "positive" not in card
    output, submission = tmp_path / "p.csv", tmp_path / "s.csv"
    single = copied(
        toml,
        tmp_path / "single",
        lambda text: text.replace('["CLL", "SLL"]', '"CLL"').replace(
            'unlabelled = ""', 'unlabelled = ""\nexclude = "SLL"'
        ),
    )
    predict = ("predict", study / "model", single, *common, "--output", output)
    for _ in range(2):  # the second run replaces the tables of the first
        done = command(*predict, "--submission", submission)
        assert done.code == 0, done.err
    table = pd.read_csv(output)
    assert list(table)[1:5] == ["probability:reactive", "probability:CLL", "probability:MCL", "prediction"]
    spreads = ["spread:reactive", "spread:CLL", "spread:MCL"]
    assert list(table)[5:] == [*spreads, "label", "in_domain", "reasons"]
    assert_allclose(table.filter(like="probability").sum(axis=1), 1)
    words = pd.read_csv(submission)
    assert len(words) == 3 and set(words["LABEL"]) <= {"reactive", "CLL", "MCL"}


def test_the_bundle_is_the_same_after_a_round_trip(
    study: Path, tiny: Tiny, toml: Path, tmp_path: Path
) -> None:
    from mil_toolkit.bundle.fit import fit

    bundle = fit(read_cohort(toml), tiny.cache, study, tmp_path / "model", "cpu")
    again = ModelBundle.load(tmp_path / "model")
    assert again.about == bundle.about
    assert again.scoring.values == ("probability:reactive", "probability:CLL", "probability:MCL")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ('classes = ["reactive", "CLL", "SLL", "MCL"]', "the model was never trained on the class 'SLL'"),
        (
            'classes = {CLL = ["CLL", "SLL"], reactive = "reactive", MCL = "MCL"}',
            "in its order: 'reactive', 'CLL'",
        ),
        (
            'positive = ["CLL", "SLL", "MCL"]\nnegative = "reactive"',
            "declares the outcome binary; the model predicts",
        ),
    ],
)
def test_another_outcome_than_that_of_the_model_is_refused(
    classes: str, expected: str, study: Path, tiny: Tiny, toml: Path, command: Command, tmp_path: Path
) -> None:
    if not (study / "model").exists():
        assert (
            command("fit", toml, "--study", study, "--features", tiny.features, "--device", "cpu").code == 0
        )
    own = copied(toml, tmp_path / "other", lambda text: text.replace(THREE, classes))
    options = ("--features", tiny.features, "--device", "cpu", "--output", tmp_path / "p.csv")
    done = command("predict", study / "model", own, *options)
    assert done.code == 3 and expected in done.err
