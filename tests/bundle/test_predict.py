"""`predict` and mil-predict: the same from images as from a cache, refusals, and the files written."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss
from support.commands import Command
from support.studies import Tiny
from torchvision.models import resnet18

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.bundle import predict as predict_module
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.extrapolation import extrapolations
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.predict import extract_as_trained, predict, write_submission
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.evaluation.intervals import Table, scores_with_intervals
from mil_toolkit.evaluation.scoring import Predictions
from mil_toolkit.features import bags
from mil_toolkit.features.bags import PART
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.study.tables import publish_table
from mil_toolkit.study.tune import tune
from mil_toolkit.training.patients import Patients

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]
Renew = Callable[..., tuple[Cohort, FeatureCache]]


@pytest.fixture(name="bundle")
def _bundle(tiny: Tiny) -> ModelBundle:
    return ModelBundle.load(tiny.bundle)


# The predictions.


def test_every_patient_is_predicted(tiny: Tiny, bundle: ModelBundle) -> None:
    table = predict(bundle, tiny.cohort, tiny.cache).table
    assert list(table.columns) == [
        *("patient_id", "probability", "prediction", "spread", "label"),
        *("in_domain", "reasons"),
    ]
    assert tuple(table["patient_id"]) == tiny.cohort.patient_ids
    assert table["probability"].between(0, 1).all() and (table["spread"] >= 0).all()
    decided = table["probability"] >= bundle.decision.constants["threshold"]
    assert (table["prediction"] == decided.astype(int)).all()
    known = table["label"].notna()
    assert list(table.loc[known, "patient_id"]) == list(tiny.cohort.labelled().patient_ids)


def test_a_patient_alone_is_predicted_as_among_others(tiny: Tiny, bundle: ModelBundle) -> None:
    together = predict(bundle, tiny.cohort, tiny.cache).table.set_index("patient_id")["probability"]
    unlabelled = predict(bundle, tiny.cohort.unlabelled(), tiny.cache).table
    np.testing.assert_allclose(
        unlabelled["probability"], together[list(tiny.cohort.unlabelled().patient_ids)], atol=1e-6
    )
    assert "label" not in unlabelled


def test_streamed_embeddings_give_the_same_predictions(
    tiny: Tiny, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = predict(bundle, tiny.cohort, tiny.cache)
    monkeypatch.setattr(bags, "STREAMED_FROM", 0)
    streamed = predict(bundle, tiny.cohort, tiny.cache)
    pd.testing.assert_frame_equal(streamed.table, in_memory.table, check_exact=True)
    pd.testing.assert_frame_equal(streamed.attention, in_memory.attention, check_exact=True)
    monkeypatch.setattr(bags.StreamedBags, "image_names", None)  # neither names nor attention are needed
    without = predict(bundle, tiny.cohort, tiny.cache, attention=False)
    assert without.attention is None
    pd.testing.assert_frame_equal(without.table, in_memory.table, check_exact=True)


def test_labels_do_not_change_a_prediction(tiny: Tiny, bundle: ModelBundle) -> None:
    flipped = replace(tiny.cohort, labels=np.where(tiny.cohort.labels < 0, 1, 1 - tiny.cohort.labels))
    one, other = (predict(bundle, cohort, tiny.cache).table for cohort in (tiny.cohort, flipped))
    assert one["probability"].equals(other["probability"])


def test_training_patients_and_new_patients_are_scored_separately(
    tiny: Tiny, bundle: ModelBundle, renew: Renew
) -> None:
    known = predict(bundle, tiny.cohort, tiny.cache)
    assert known.validation is None and known.training is not None
    assert known.training["auc"].patients == 24

    mixed = predict(bundle, *renew(12))
    assert mixed.validation is not None and mixed.training is not None
    assert [each["auc"].patients for each in (mixed.validation, mixed.training)] == [12, 12]
    new = mixed.table.iloc[:12]
    expected = brier_score_loss(new["label"].astype(int), new["probability"])
    score = mixed.validation["brier"]
    assert score.low is not None and score.high is not None
    assert score.value == pytest.approx(expected) and score.low < expected < score.high


def test_the_scores_of_new_patients_are_those_of_one_model_over_groups(
    tiny: Tiny, bundle: ModelBundle
) -> None:
    groups = np.array([f"G{place // 2}" for place in range(len(tiny.cohort))])
    plain, grouped = (
        predict(bundle, cohort, tiny.cache) for cohort in (tiny.cohort, replace(tiny.cohort, groups=groups))
    )
    assert list(grouped.table) == list(plain.table)
    known = plain.table["label"].notna()
    rows = plain.table[known].assign(repeat=1, fold=1)
    assert plain.training == scores_with_intervals(Table.of(rows))
    assert grouped.training == scores_with_intervals(Table.of(rows.assign(group=groups[known])))
    assert grouped.training != plain.training


def test_patients_of_one_class_are_not_scored(tiny: Tiny, bundle: ModelBundle) -> None:
    labels = np.where(tiny.cohort.labels == 1, 1, -1)
    predictions = predict(bundle, replace(tiny.cohort, labels=labels), tiny.cache)
    assert predictions.validation is None and predictions.training is None


def test_scores_use_the_prevalence_of_the_study(tiny: Tiny, bundle: ModelBundle) -> None:
    procedure = replace(bundle.about.procedure, prevalence=0.1)
    rare_bundle = replace(bundle, about=replace(bundle.about, procedure=procedure))
    rare = predict(rare_bundle, tiny.cohort, tiny.cache).training
    usual = predict(bundle, tiny.cohort, tiny.cache).training
    assert rare is not None and usual is not None
    sensitivity, specificity = rare["sensitivity"].value, rare["specificity"].value
    assert sensitivity is not None and specificity is not None
    assert rare["referred"].value == pytest.approx(0.1 * sensitivity + 0.9 * (1 - specificity))
    assert rare["auc"] == usual["auc"]


# What is refused.


def test_columns_that_differ_are_all_named(tiny: Tiny, tmp_path: Path, bundle: ModelBundle) -> None:
    shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    toml = tmp_path / "cohort" / "cohort.toml"
    text = (
        toml.read_text()
        .replace("[metadata.sex]", "[metadata.gender]")
        .replace('unit = "10^9/L"', 'unit = "1/nL"')
    )
    toml.write_text(text)
    with pytest.raises(DataError) as caught:
        predict(bundle, read_cohort(toml), tiny.cache)
    assert caught.value.problems == [
        f"[metadata.gender] is unknown to the model. Remove it from {toml}.",
        f"[metadata.lymphocyte_count] unit is 1/nL in {toml}; the model was trained with 10^9/L.",
        f'[metadata.sex] is missing in {toml}. The model was trained with kind = "category".',
    ]


def test_another_heading_in_the_table_makes_no_difference(
    tiny: Tiny, tmp_path: Path, bundle: ModelBundle
) -> None:
    shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    for path in (tmp_path / "cohort" / "cohort.toml", tmp_path / "cohort" / "patients.csv"):
        path.write_text(path.read_text().replace("LYMPHOCYTES", "LYMPHO"))
    renamed = predict(bundle, read_cohort(tmp_path / "cohort" / "cohort.toml"), tiny.cache)
    assert renamed.table.equals(predict(bundle, tiny.cohort, tiny.cache).table)


def test_all_problems_of_a_cohort_are_reported_at_once(
    tiny: Tiny, bundle: ModelBundle, edit_cohort: EditCohort
) -> None:
    def rename(table: pd.DataFrame) -> None:
        table.loc[:1, "ID"] = ["Q1", "Q2"]

    cohort = read_cohort(edit_cohort(rename), images=False)
    cohort = replace(cohort, columns=cohort.columns[1:])
    with pytest.raises(DataError) as caught:
        predict(bundle, cohort, tiny.cache)
    assert [line.split()[0] for line in caught.value.problems] == ["[metadata.age]", "patient", "patient"]


@pytest.mark.parametrize(("value", "part"), [(torch.nan, PART), (torch.inf, PART), (torch.nan, 2)])
def test_embeddings_that_are_not_finite_name_their_patients(
    value: float, part: int, tiny: Tiny, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would spoil the patients beside them, too: a softmax over a batch multiplies NaN by zero.

    part: number of embeddings that are checked together
    """
    monkeypatch.setattr(predict_module, "PART", part)
    patients = Patients.of(tiny.cohort, tiny.cache)
    assert patients.bags is not None
    for place in (1, 4):
        patients.bags.instances[patients.bags.offsets[place + 1] - 1, 3] = value
    monkeypatch.setattr(Patients, "of", lambda *_: patients)
    with pytest.raises(DataError) as caught:
        predict(bundle, tiny.cohort, tiny.cache)
    assert caught.value.problems == [
        f"patient {patient} has embeddings in {tiny.features} that are not finite numbers."
        for patient in ("P002", "P005")
    ]


def test_a_prediction_that_is_not_finite_names_its_patient(
    tiny: Tiny, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    probabilities = np.full(27, 0.5)
    probabilities[2] = np.nan
    predictions = Predictions(probabilities, np.zeros(27))
    monkeypatch.setattr(ModelBundle, "apply", lambda *_: (predictions, np.zeros(27), None))
    with pytest.raises(DataError, match=r"^patient P003 has no prediction") as caught:
        predict(bundle, tiny.cohort, tiny.cache)
    assert len(caught.value.problems) == 1


def test_another_precision_gives_a_warning(
    tiny: Tiny, bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    predict(bundle, tiny.cohort, tiny.cache)
    assert not caplog.records
    assert bundle.about.features is not None
    features = replace(bundle.about.features, recorded=["float16 with pillow 9"])
    predict(replace(bundle, about=replace(bundle.about, features=features)), tiny.cohort, tiny.cache)
    (record,) = caplog.records
    assert (
        "fitted on in float16 with pillow 9" in record.getMessage()
        and "cosine of 0.995" in record.getMessage()
    )


# A backbone whose weights came from a file.


@dataclass(frozen=True)
class FromFile:
    """A model whose backbone weights came from a file: its bundle, its predictions, and the file."""

    bundle: Path
    predictions: Path
    weights: Path


@pytest.fixture(name="from_file", scope="module")
def _from_file(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> FromFile:
    folder = tmp_path_factory.mktemp("from_file")
    weights, study = folder / "mine.pth", folder / "study"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        torch.save(resnet18().state_dict(), weights)
    config = ExtractionConfig("resnet18", str(weights), image_size=32)
    cache = FeatureCache.open(extract(tiny.cohort, config, folder / "cache", device="cpu").folder)
    config_of_study = StudyConfig(trials=1, folds=2, outer_folds=0, members=2, settings={"epochs": (2,)})
    tune(tiny.cohort, cache, study, config_of_study, "cpu")
    made = fit(tiny.cohort, cache, study, folder / "model", "cpu")
    publish_table(folder / "p.csv", predict(made, tiny.cohort, cache).table)
    return FromFile(folder / "model", folder / "p.csv", weights)


def test_weights_from_a_file_are_required_and_recognised(
    tiny: Tiny, from_file: FromFile, tmp_path: Path, command: Command
) -> None:
    asked = (
        from_file.bundle,
        tiny.cohort_toml,
        "--cache",
        tmp_path / "cache",
        "--output",
        tmp_path / "p.csv",
    )
    refused = command("predict", *asked)
    assert refused.code == 2 and "came from a file" in refused.err and "--weights PATH" in refused.err
    moved = shutil.copy(from_file.weights, tmp_path / "elsewhere.pth")
    assert command("predict", *asked, "--weights", moved).code == 0
    assert (tmp_path / "p.csv").read_bytes() == from_file.predictions.read_bytes()
    assert "not part of this folder" in (from_file.bundle / "README.md").read_text()


def test_another_file_of_weights_is_refused_before_anything_is_embedded(
    tiny: Tiny, from_file: FromFile, tmp_path: Path, command: Command
) -> None:
    torch.save(build_backbone("resnet18", "random").network.state_dict(), tmp_path / "other.pth")
    options = ("--cache", tmp_path / "cache", "--output", tmp_path / "p.csv")
    done = command(
        "predict", from_file.bundle, tiny.cohort_toml, *options, "--weights", tmp_path / "other.pth"
    )
    assert done.code == 3 and "weight_digest" in done.err
    assert not (tmp_path / "cache").exists() and not (tmp_path / "p.csv").exists()


class _Bomb:
    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_not_run(
    tiny: Tiny, from_file: FromFile, tmp_path: Path, command: Command
) -> None:
    torch.save({"conv1.weight": _Bomb(tmp_path / "run")}, tmp_path / "bomb.pth")
    options = ("--cache", tmp_path / "cache", "--output", tmp_path / "p.csv")
    done = command(
        "predict", from_file.bundle, tiny.cohort_toml, *options, "--weights", tmp_path / "bomb.pth"
    )
    assert done.code == 3 and "holds more than tensors" in done.err and "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.pth"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "foreign", "newer"])
def test_the_command_refuses_a_damaged_bundle(
    damage: str, tiny: Tiny, from_file: FromFile, tmp_path: Path, command: Command
) -> None:
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    path = bundle / "model.safetensors"
    content = path.read_bytes()
    if damage == "newer":
        config = (bundle / "config.json").read_text()
        (bundle / "config.json").write_text(config.replace('"schema": 2', '"schema": 3', 1))
    elif damage == "missing":
        path.unlink()
    else:
        foreign = (from_file.bundle / "model.safetensors").read_bytes()
        changed = {
            "truncated": content[:99],
            "flipped": bytes([content[0] ^ 1]) + content[1:],
            "foreign": foreign,
        }
        path.write_bytes(changed[damage])
    done = command("predict", bundle, tiny.cohort_toml, "--output", tmp_path / "p.csv")
    assert done.code == 3 and "Traceback" not in done.err and done.out == ""
    assert ("Upgrade" if damage == "newer" else "model.safetensors") in done.err
    assert not (tmp_path / "p.csv").exists()


def test_a_file_may_replace_a_download(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    """Where weights cannot be downloaded, the same ones as a file give the same model."""
    torch.save(build_backbone("resnet18", "random").network.state_dict(), tmp_path / "downloaded.pth")
    options = ("--cache", tmp_path / "cache", "--output", tmp_path / "p.csv")
    done = command(
        "predict", tiny.bundle, tiny.cohort_toml, *options, "--weights", tmp_path / "downloaded.pth"
    )
    assert done.code == 0, done.err
    cached = predict(ModelBundle.load(tiny.bundle), tiny.cohort, tiny.cache).table
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "p.csv")["probability"], cached["probability"])


def test_imported_features_cannot_be_recomputed(tiny: Tiny, bundle: ModelBundle) -> None:
    assert bundle.about.features is not None
    spec = {**bundle.about.features.spec, "weights": "imported from clam", "weight_digest": None}
    about = replace(bundle.about, features=replace(bundle.about.features, spec=spec))
    with pytest.raises(UsageError, match=r"imported from clam\): only the tool that made them"):
        extract_as_trained(replace(bundle, about=about), tiny.cohort)


# The challenge file.


@pytest.mark.parametrize("prediction", [0, 1])
def test_a_submission_uses_the_words_of_the_table(prediction: int, tiny: Tiny, tmp_path: Path) -> None:
    cohort = replace(tiny.cohort, outcome=Binary())
    table = pd.DataFrame({"patient_id": cohort.patient_ids, "prediction": prediction})
    assert write_submission(tmp_path / "s.csv", table, cohort) == 3
    assert (tmp_path / "s.csv").read_text() == "ID,LABEL\n" + "".join(
        f"{patient},{prediction}\n" for patient in cohort.unlabelled().patient_ids
    )


def test_a_submission_without_patients_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    labelled = tiny.cohort.labelled()
    table = pd.DataFrame({"patient_id": labelled.patient_ids, "prediction": 1})
    with pytest.raises(DataError, match="no patient is unlabelled"):
        write_submission(tmp_path / "s.csv", table, labelled)
    assert not (tmp_path / "s.csv").exists()


# Metadata outside those of the training patients.


def warnings_of(bundle: ModelBundle, cohort: Path, tiny: Tiny, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    predict(bundle, read_cohort(cohort), tiny.cache)
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_training_patients_give_no_warning(
    tiny: Tiny, bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    assert bundle.about.ranges is not None and set(bundle.about.ranges) == {"age", "lymphocyte_count"}
    predict(bundle, tiny.cohort.labelled(), tiny.cache)
    assert not caplog.records


@pytest.mark.parametrize("factor", [1000, 0.001])
def test_numbers_outside_the_training_range_are_counted(
    factor: float, tiny: Tiny, bundle: ModelBundle, edit_cohort: EditCohort, caplog: pytest.LogCaptureFixture
) -> None:
    """In another unit, above or below; with the range of the training patients in the declared unit."""

    def change(table: pd.DataFrame) -> None:
        table["LYMPHOCYTES"] = [
            value if value == "NA" else repr(float(value) * factor) for value in table["LYMPHOCYTES"]
        ]

    values = tiny.cohort.metadata["lymphocyte_count"]
    trained = tiny.cohort.labelled().metadata["lymphocyte_count"]
    expected = (
        f"lymphocyte_count: {values.notna().sum()} of 27 patients lie outside the training range"
        f" {trained.min():g} to {trained.max():g} ({values.min() * factor:g} to {values.max() * factor:g})."
    )
    assert warnings_of(bundle, edit_cohort(change), tiny, caplog) == [expected]


def test_one_value_outside_is_enough_and_both_ends_are_within(
    tiny: Tiny, bundle: ModelBundle, edit_cohort: EditCohort, caplog: pytest.LogCaptureFixture
) -> None:
    assert bundle.about.ranges is not None
    low, high = bundle.about.ranges["lymphocyte_count"]
    values = [low, high, high + 1, *[(low + high) / 2] * 24]
    toml = edit_cohort(lambda table: table.__setitem__("LYMPHOCYTES", [repr(value) for value in values]))
    (line,) = warnings_of(bundle, toml, tiny, caplog)
    assert line.startswith("lymphocyte_count: 1 of 27 patients lie outside") and line.endswith(
        f"({high + 1:g})."
    )


@pytest.mark.parametrize("words", [("female", "male"), ("f", "m"), ("X", "X")])
def test_words_that_training_never_saw_are_counted(
    words: tuple[str, str], bundle: ModelBundle, tiny: Tiny
) -> None:
    metadata = tiny.cohort.metadata.assign(sex=[words[0]] * 20 + [words[1]] * 6 + ["F"])
    expected = ", ".join(f"{word!r} ({count})" for word, count in zip(words, (20, 6), strict=True))
    expected = "'X' (26)" if words[0] == "X" else expected
    (line,) = [line for line in extrapolations(bundle, metadata) if line.startswith("sex")]
    assert line == (
        f"sex: 26 of 27 patients have a word that training never saw and that counts as missing: {expected}."
        " Training saw 'F', 'M'."
    )


def test_older_bundles_without_ranges_warn_of_words_only(
    tiny: Tiny, bundle: ModelBundle, tmp_path: Path
) -> None:
    replace(bundle, about=replace(bundle.about, ranges=None)).save(tmp_path)
    assert "ranges" not in json.loads((tmp_path / "config.json").read_text())["about"]
    older = ModelBundle.load(tmp_path)
    far = tiny.cohort.metadata.assign(age=1e6, sex="X")
    assert [line.split(":")[0] for line in extrapolations(older, far)] == ["sex"]
    assert [line.split(":")[0] for line in extrapolations(bundle, far)] == ["age", "sex"]


def test_missing_values_are_not_outside(bundle: ModelBundle, tiny: Tiny) -> None:
    assert (
        extrapolations(
            bundle,
            tiny.cohort.metadata.assign(age=np.nan, sex=None)[["age", "sex"]].join(
                tiny.cohort.labelled().metadata[["lymphocyte_count"]]
            ),
        )
        == []
    )


def test_mil_predict_prints_each_line_once_on_stderr(
    tiny: Tiny, edit_cohort: EditCohort, command: Command, tmp_path: Path
) -> None:
    def change(table: pd.DataFrame) -> None:
        table["LYMPHOCYTES"] = "99999"

    options = ("--features", tiny.features, "--output", tmp_path / "p.csv")
    done = command("predict", tiny.bundle, edit_cohort(change), *options)
    assert done.code == 0 and "outside" not in done.out
    assert done.err.count("lymphocyte_count: 27 of 27 patients lie outside the training range") == 1
