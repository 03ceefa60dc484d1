"""Studies of which a file was changed are refused with a sentence, by every command that reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.commands import Command
from support.doctored import Doctored, cell, content, copy_of, in_json, in_table, setting
from support.studies import Tiny

from mil_toolkit.core.errors import DataError
from mil_toolkit.core.records import to_json
from mil_toolkit.study.folder import Study
from mil_toolkit.study.verification import verify

FOLD = "outer/repeat1-fold1"
OUTER = f"{FOLD}/predictions.csv"
INNER = f"{FOLD}/out_of_fold.csv"
BEST = f"{FOLD}/best.json"
TABLES = [OUTER, INNER, "out_of_fold.csv", "predictions.csv"]


def flip_all(column: str) -> Callable[[Path], None]:
    """Flip a column of 0 and 1 in all predictions of held-out patients."""

    def flipped(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{column: 1 - table[column].astype(int)})

    def change(study: Path) -> None:
        for path in (study / "predictions.csv", *study.glob("outer/*/predictions.csv")):
            in_table(path.name, flipped)(path.parent)

    return change


def held_out(splits: Any) -> tuple[list[str], list[str]]:
    """Return the held-out patients of both outer folds."""
    return tuple(splits["searches"][f"repeat1-fold{fold}"]["test"] for fold in (1, 2))  # type: ignore[return-value]


def inner_of(splits: Any) -> list[list[str]]:
    """Return the inner folds of the first outer fold."""
    return list(splits["searches"]["repeat1-fold1"]["inner"])


def flip_first(record: Any) -> None:
    record["patients"][0]["label"] = 1 - record["patients"][0]["label"]


def rename_field(best: Any) -> None:
    best["epochs"] = best.pop("epoch")


def renamed(splits: Any) -> None:
    splits["searches"] = {
        name.replace("fold2", "../../x"): value for name, value in splits["searches"].items()
    }


def reordered(splits: Any) -> None:
    splits["searches"] = dict(reversed(splits["searches"].items()))


def without_fold(splits: Any) -> None:
    del splits["searches"]["repeat1-fold2"]


SPLITS = [
    Doctored(
        "a patient in two outer folds",
        in_json("splits.json", lambda s: held_out(s)[0].append(held_out(s)[1][0])),
        "more than once: P",
    ),
    Doctored(
        "a patient in no outer fold",
        in_json("splits.json", lambda s: held_out(s)[0].pop() and None),
        "never hold these patients out",
    ),
    Doctored(
        "an unknown patient",
        in_json("splits.json", lambda s: held_out(s)[0].append("ghost")),
        "not theirs to hold out: ghost",
    ),
    Doctored(
        "a held-out patient in an inner fold",
        in_json("splits.json", lambda s: inner_of(s)[0].append(held_out(s)[0][0])),
        "the inner folds of repeat1-fold1 hold patients out who are not theirs",
    ),
    Doctored(
        "overlapping inner folds",
        in_json("splits.json", lambda s: inner_of(s)[0].append(inner_of(s)[1][0])),
        "the inner folds of repeat1-fold1 hold patients out more than once",
    ),
    Doctored(
        "one inner fold",
        in_json("splits.json", lambda s: s["searches"]["final"]["inner"].pop() and None),
        "final has 1 inner folds; the options of the study give 2",
    ),
    Doctored(
        "an outer fold less",
        in_json("splits.json", without_fold),
        "it has the searches repeat1-fold1, final; the options give",
    ),
    Doctored("a name that leads elsewhere", in_json("splits.json", renamed), "is not the name of a search"),
    Doctored("another order", in_json("splits.json", reordered), "the last one is not `final`"),
    Doctored("a list", content("splits.json", b"[]"), r"splits\.json does not have the expected content"),
]
PATIENTS = [
    Doctored("no class", setting("patients.json", "class_names", to=[]), "it names 0 classes instead of 2"),
    Doctored(
        "three classes",
        setting("patients.json", "class_names", to=["a", "b", "c"]),
        "it names 3 classes instead of 2",
    ),
    Doctored("a label", in_json("patients.json", flip_first), r"patients\.json: its ids, labels"),
    Doctored(
        "a value",
        setting("patients.json", "patients", 0, "metadata", "age", to=1.5),
        r"patients\.json: its ids, labels",
    ),
    Doctored(
        "a label of 7",
        setting("patients.json", "patients", 0, "label", to=7),
        r"patients\[\.\.\.\]\.label|patients\[0\]\.label",
    ),
    Doctored("no images", setting("patients.json", "patients", 0, "images", to=-3), r"images"),
    Doctored(
        "a patient twice",
        in_json("patients.json", lambda p: p["patients"].append(p["patients"][0])),
        "an id occurs twice",
    ),
    Doctored(
        "a text as age",
        setting("patients.json", "patients", 0, "metadata", "age", to="old"),
        "do not fit the columns",
    ),
    Doctored(
        "a column of another kind",
        setting("patients.json", "columns", 0, "kind", to="magic"),
        "is not one of number",
    ),
    Doctored("a number as patients", setting("patients.json", "patients", to=3), "Expected `array`"),
]
PREDICTIONS = [
    Doctored("all labels flipped", flip_all("label"), r"predictions\.csv: label of patient P\d+ is"),
    Doctored(
        "a label", in_table(OUTER, lambda t: t.assign(label=1)), "label of patient .* where 0 is expected"
    ),
    Doctored("all predictions flipped", flip_all("prediction"), "prediction of patient"),
    Doctored(
        "a probability",
        cell(OUTER, "probability", 0, "0.123456"),
        "not that of the members' mean logit in row 2",
    ),
    Doctored(
        "a member", cell(OUTER, "member1", 0, "0.123456"), "not that of the members' mean logit in row 2"
    ),
    Doctored("a threshold", cell(OUTER, "threshold", 0, "0.123456"), "threshold of patient"),
    Doctored(
        "another decision",
        setting(BEST, "decision", "threshold", to=0.123),
        "threshold of patient .* where 0.123 is expected",
    ),
    Doctored("a fold", cell(OUTER, "fold", 0, "2"), "fold of patient .* is 2, where 1 is expected"),
    Doctored("a repeat", cell(OUTER, "repeat", 0, "2"), "repeat of patient .* is 2, where 1 is expected"),
    Doctored(
        "an inner fold",
        in_table(INNER, lambda t: t.assign(fold="1")),
        r"out_of_fold\.csv: fold of patient .* where 2 is",
    ),
    Doctored(
        "only in the whole table",
        in_table("predictions.csv", lambda t: t.assign(probability="0.5")),
        r"its rows are not those",
    ),
    Doctored(
        "a row less in the whole table",
        in_table("predictions.csv", lambda t: t[1:]),
        r"its rows are not those",
    ),
]
ROWS = [
    Doctored(f"{what} of {name}", in_table(name, change), words)
    for name in TABLES
    for what, change, words in (
        (
            "a row twice",
            lambda t: pd.concat([t, t[:1]]),
            "several rows of the same patients|its rows are not",
        ),
        ("a row less", lambda t: t[1:], "lacks patients who are held out here|its rows are not"),
        (
            "a stranger",
            lambda t: t.assign(patient_id=["ghost", *t["patient_id"][1:]]),
            "ghost|its rows are not",
        ),
        ("a column less", lambda t: t.drop(columns="label"), "lacks the columns label"),
        ("a column more", lambda t: t.assign(extra="1"), "unknown columns: extra"),
        (
            "text in a number",
            lambda t: t.assign(probability="high"),
            "row 2: probability is 'high', not a finite number",
        ),
        (
            "a missing number",
            lambda t: t.assign(probability="nan"),
            "probability is 'nan', not a finite number. Nor is it in",
        ),
        ("a broken label", lambda t: t.assign(label="0.5"), "row 2: label is '0.5', not a whole number"),
        (
            "an impossible probability",
            lambda t: t.assign(probability="1.5"),
            "probability is not between 0 and 1|its rows are not",
        ),
    )
]
FILES = [
    Doctored(f"{what} as {name}", content(name, to), words)
    for name in TABLES
    for what, to, words in (
        ("nothing", b"", "cannot be read as a table"),
        ("a header", b"repeat,fold,patient_id,label,probability,prediction\n", "lacks|its rows are not"),
        ("a long row", b"repeat,fold\n1,2,3\n", "cannot be read as a table"),
        ("an open quote", b'repeat,fold\n"1,2\n', "cannot be read as a table"),
    )
]
SCORES = [
    Doctored(".".join(map(str, keys)), setting("scores.json", *keys, to=to), words)
    for keys, to, words in (
        (("outer", "auc", "value"), 0.99, r"outer\.auc\.value is 0\.99; the predictions give"),
        (("outer", "balanced_accuracy", "patients"), 400, r"outer\.balanced_accuracy\.patients is 400"),
        (("outer", "brier", "repeats"), 3, r"outer\.brier\.repeats is 3"),
        (("inner", "log_loss", "value"), 0.01, r"inner\.log_loss\.value"),
        (("optimism", "auc", "value"), 0.0123, r"optimism\.auc\.value"),
        (("spread", "auc", "seeds"), 0.0123, r"spread\.auc\.seeds"),
        (("reliability", 0, "share"), 0.123, r"reliability\[0\]\.share"),
        (("bag_size", "positive"), 0.0123, r"bag_size\.positive"),
        (("rivals", "bag_size", "auc", "value"), 0.123, r"gains\.bag_size\.auc is|rivals\.bag_size\.auc"),
        (("gains", "bag_size", "differences", "auc", "value"), 0.9, r"gains\.bag_size"),
        (("rivals",), {}, "rivals: it does not name the baselines of rivals.csv"),
        (("outer",), None, r"outer, optimism: the study has outer folds"),
        (("epoch",), 2000, r"epoch is 2000; the predictions give"),
        (("epoch",), 0, r"\$\.epoch"),
        (("training", "auc"), 0.123, r"training\.auc"),
        (("outer", "auc", "value"), "high", r"\$\.outer"),
        (("outer", "auc"), 3, r"\$\.outer"),
    )
]
BESTS = [
    Doctored(f"{'.'.join(keys)} {to!r}", setting(BEST, *keys, to=to), words)
    for keys, to, words in (
        (("number",), -1, r"\$\.number"),
        (("number",), 10**9, r"number: there is no trial 1000000000 among 2"),
        (("epoch",), 0, r"\$\.epoch"),
        (("epoch",), 10**9, r"\$\.epoch"),
        (("epoch",), 50, "epoch: 50 is more than the 3 of the configuration"),
        (("epoch",), "3", r"\$\.epoch"),
        (("value",), None, r"\$\.value"),
        (("decision", "threshold"), 7, "threshold"),
        (("decision", "slope"), -2.0, "slope|`float` > 0"),
        (("config", "hidden"), 33, "hidden=33: '33' is not one of"),
        (
            ("config", "hidden"),
            64,
            r"config\.hidden: 64 is not one of the values that the study searched|parameters",
        ),
        (("config", "metadata_hidden"), 10**9, "metadata_hidden=1000000000: must be"),
        (("config", "learning_rate"), -1.0, "learning_rate=-1.0: must be"),
        (("config", "pooling"), "median", "pooling='median'"),
        (("config", "features"), "ghost", r"config\.features: 'ghost' is not one of the values"),
        (("config", "another"), 1, "config has fields that this version does not know: another"),
        (("parameters", "another"), 1, "parameters: 'another' is not as in the configuration"),
        (("training",), [], r"\$\.training"),
    )
] + [
    Doctored("NaN", content(BEST, b'{"number": NaN}'), "cannot be read as JSON"),
    Doctored("deep nesting", content(BEST, b"[" * 100_000), "nested too deeply"),
    Doctored("half a file", content(BEST, b'{"number": 1'), "cannot be read as JSON"),
    Doctored("no file", lambda study: (study / BEST).unlink(), r"best\.json does not exist"),
    Doctored("another field", in_json(BEST, rename_field), "missing required field `epoch`"),
]
CONFIGS = [
    Doctored(f"{name} {to!r}", setting("config.json", "study", name, to=to), words)
    for name, to, words in (
        ("folds", 10**9, "--folds must be at most 10000"),
        ("members", 10**9, "--members must be at most 1000"),
        ("repeats", 10**9, "--repeats must be at most 1000"),
        ("outer_folds", 10**9, "--outer-folds must be"),
        ("outer_folds", "hospitals", "--outer-folds must be"),
        ("trials", -1, "--trials must be at least 1"),
        ("objective", "luck", "--objective must be one of"),
        ("sampler", "luck", "--sampler must be one of"),
        ("prevalence", 5, "--prevalence must lie between 0 and 1"),
        ("settings", {"luck": [1]}, "--set luck: 'luck' is not one of"),
        ("settings", {"hidden": ["32"]}, "--set hidden: '32' is a text"),
        ("settings", {"features": ["ghost"]}, "'ghost' does not name the features of the study"),
        ("settings", {"hidden": []}, "--set hidden: there is no value"),
        ("another", 1, "study has fields that this version does not know: another"),
        ("folds", "two", r"\$\.study\.folds"),
    )
]


def files_of(folder: Path) -> dict[Path, bytes]:
    """Return the content of every file except locks."""
    paths = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {path: path.read_bytes() for path in paths}


RIVALS = [
    Doctored("a probability", cell("rivals.csv", "probability", 0, "0.123"), r"scores\.json: (gains|rivals)"),
    Doctored("all predictions", in_table("rivals.csv", lambda t: t.assign(prediction="1")), r"scores\.json"),
    Doctored("a probability of 2", cell("rivals.csv", "probability", 0, "2"), "probability is not between 0"),
    Doctored("a row less", in_table("rivals.csv", lambda t: t[1:]), "its rows are not those of the patients"),
    Doctored("a row twice", in_table("rivals.csv", lambda t: pd.concat([t, t[:1]])), "its rows are not"),
    Doctored("a label", in_table("rivals.csv", lambda t: t.assign(label="1")), "its rows are not those"),
    Doctored(
        "no names", in_table("rivals.csv", lambda t: t.drop(columns="rival")), "lacks the columns rival"
    ),
    Doctored("another name", cell("rivals.csv", "rival", 0, "luck"), "its rows are not those|rivals"),
    Doctored("nothing", content("rivals.csv", b""), "cannot be read as a table"),
]


def refused(study: Path) -> str:
    with pytest.raises(DataError) as caught:
        verify(Study.open(study))
    return str(caught.value)


@pytest.mark.parametrize(
    "doctored",
    [*SPLITS, *PATIENTS, *PREDICTIONS, *RIVALS, *ROWS, *FILES, *SCORES, *BESTS, *CONFIGS],
    ids=str,
)
def test_a_changed_file_is_refused_with_its_name(doctored: Doctored, tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    doctored.change(study)
    with pytest.raises(DataError, match=doctored.words) as caught:
        verify(Study.open(study))
    assert str(study) in str(caught.value)


def test_an_honest_study_keeps_its_scores(tiny: Tiny, tmp_path: Path) -> None:
    study = Study.open(copy_of(tiny.study, tmp_path))
    stored = json.loads(study.scores_path.read_text())
    assert to_json(verify(study)) == to_json(verify(study, tiny.cohort)) == stored


def test_changed_intervals_are_computed_again(tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    before = json.loads((study / "scores.json").read_text())
    setting("scores.json", "outer", "auc", "low", to=0.98)(study)
    setting("scores.json", "reliability", 0, "high", to=0.98)(study)
    setting("scores.json", "rivals", "bag_size", "auc", "value", to=None)(study)
    for bound in ("low", "high", "p_value"):
        setting("scores.json", "gains", "bag_size", "differences", "auc", bound, to=0.01)(study)
    assert to_json(verify(Study.open(study))) == before


def test_the_cohort_is_believed_rather_than_the_study(tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    (study / "patients.json").unlink()
    flip_all("label")(study)
    with pytest.raises(DataError, match="label of patient"):
        verify(Study.open(study), tiny.cohort)


def test_a_study_of_an_older_version_is_verified_by_what_it_has(tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    stored = json.loads((study / "scores.json").read_text())
    (study / "patients.json").unlink()
    (study / "rivals.csv").unlink()
    for section in ("spread", "reliability", "bag_size"):
        in_json("scores.json", lambda scores, section=section: scores.pop(section) and None)(study)  # type: ignore[misc]
    verified = to_json(verify(Study.open(study)))
    assert isinstance(verified, dict)
    assert verified == {**stored, "bag_size": None}
    setting("scores.json", "outer", "auc", "value", to=0.99)(study)
    assert "outer.auc.value is 0.99" in refused(study)


def test_all_problems_of_a_study_are_named_at_once(tiny: Tiny, tmp_path: Path) -> None:
    study = copy_of(tiny.study, tmp_path)
    cell(OUTER, "label", 0, "7")(study)
    cell(OUTER, "threshold", 0, "0.1")(study)
    cell("out_of_fold.csv", "repeat", 0, "7")(study)
    text = refused(study)
    assert "label of patient" in text and "repeat of patient" in text and "Ask for the original" in text
    content(OUTER, b"")(study)
    setting(BEST, "epoch", to=0)(study)
    text = refused(study)
    assert OUTER in text or BEST in text


@pytest.mark.parametrize("name", ["report", "fit", "ablate"])
def test_every_command_that_reads_a_study_refuses_a_changed_one(
    name: str, tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    study = copy_of(tiny.study, tmp_path)
    options = [] if name == "report" else [tiny.cohort_toml, "--features", tiny.features, "--device", "cpu"]
    for doctored in (PREDICTIONS[3], SPLITS[0], SCORES[0]):
        changed = copy_of(study, tmp_path / doctored.name)
        doctored.change(changed)
        before = files_of(changed)
        where = [changed] if name == "report" else ["--study", changed]
        done = command(name, *options, *where)
        assert done.code == 3 and "Traceback" not in done.err and str(changed) in done.err
        assert files_of(changed) == before
