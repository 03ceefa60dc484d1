"""mil-predict: from images or from a cache, scores, refusals, and the files written."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.bundles import change_config, change_tensors
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]


def test_images_give_what_the_cache_gives(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    common = (tiny.bundle, tiny.cohort_toml)
    cached, imaged = tmp_path / "cached.csv", tmp_path / "imaged.csv"
    assert command("predict", *common, "--features", tiny.features, "--output", cached).code == 0
    assert command("predict", *common, "--cache", tmp_path / "new", "--output", imaged).code == 0
    one, other = pd.read_csv(cached), pd.read_csv(imaged)
    assert (tmp_path / "new" / "synthetic" / tiny.features.name).is_dir()
    assert one.equals(other)  # an image's embedding does not depend on the other images of a batch


def test_attention_sums_to_one_in_each_patient(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    asked = ("--features", tiny.features, "--output", tmp_path / "p.csv", "--attention", tmp_path / "a.csv")
    assert command("predict", tiny.bundle, tiny.cohort_toml, *asked).code == 0
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table.columns) == ["patient_id", "image", "attention"]
    sums = table.groupby("patient_id")["attention"].sum()
    assert tuple(sums.index) == tiny.cohort.patient_ids
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    for patient, rows in table.groupby("patient_id"):
        folder = tiny.cohort_toml.parent / "images" / str(patient)
        assert sorted(rows["image"]) == sorted(path.name for path in folder.iterdir())


def test_external_validation_is_printed_with_intervals(
    tiny: Tiny, tmp_path: Path, edit_cohort: EditCohort, command: Command
) -> None:
    def rename(table: pd.DataFrame) -> None:
        table["ID"] = "Q" + table["ID"]

    toml = edit_cohort(rename)
    for folder in sorted((toml.parent / "images").iterdir()):
        for path in folder.iterdir():
            path.write_bytes(path.read_bytes() + b" ")  # after the end of the image
        folder.rename(folder.with_name(f"Q{folder.name}"))
    options = ("--cache", tmp_path / "cache", "--output", tmp_path / "p.csv")
    done = command("predict", tiny.bundle, toml, *options)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert "External validation, on patients that the model was not fitted on:" in lines
    assert any("24 patients, 95 % intervals" in line and "outer folds of the study" in line for line in lines)
    (row,) = (line for line in lines if line.startswith("  balanced_accuracy "))
    assert len(re.findall(r"\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", row)) == 2
    scores = command("predict", tiny.bundle, toml, *options, "--json").json["validation"]
    assert scores["auc"].keys() >= {"value", "low", "high", "patients", "repeats"}


def test_another_spec_is_refused_with_the_difference(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    options = ("--backbone", "resnet18", "--weights", "random", "--image-size", 40, "--cache", tmp_path)
    other = command("extract", tiny.cohort_toml, *options).out.strip()
    output = ("--output", tmp_path / "p.csv")
    done = command("predict", tiny.bundle, tiny.cohort_toml, "--features", other, *output)
    assert done.code == 3 and "image_size" in done.err and "40" in done.err and "32" in done.err
    none = command("predict", tiny.bundle, tiny.cohort_toml, "--features", "none", *output)
    assert none.code == 3 and tiny.features.name in none.err
    assert not (tmp_path / "p.csv").exists()


def test_patients_without_images_are_all_named(
    tiny: Tiny, tmp_path: Path, edit_cohort: EditCohort, command: Command
) -> None:
    toml = edit_cohort(lambda table: None)
    for patient in ("P002", "P005"):
        shutil.rmtree(toml.parent / "images" / patient)
    output = ("--cache", tmp_path / "cache", "--output", tmp_path / "p.csv")
    done = command("predict", tiny.bundle, toml, *output)
    assert done.code == 3 and "P002" in done.err and "P005" in done.err
    assert not (tmp_path / "cache").exists() and not (tmp_path / "p.csv").exists()


def test_outputs_do_not_replace_inputs_or_each_other(
    tiny: Tiny, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort")
    bundle = shutil.copytree(tiny.bundle, tmp_path / "model")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(ModelBundle, "probabilities", None)  # not reached
    read = ("patients.csv", "cohort.toml")
    for output in (*(copied / name for name in read), bundle / "config.json", bundle / "README.md"):
        done = command(
            "predict", bundle, copied / "cohort.toml", "--features", tiny.features, "--output", output
        )
        assert done.code == 2 and f"--output: {output} is read by this command" in done.err
    outputs = (
        "--output",
        "o.csv",
        "--submission",
        tmp_path / "o.csv",
        "--attention",
        tmp_path / "a.csv" / ".." / "o.csv",
    )
    monkeypatch.chdir(tmp_path)
    done = command("predict", bundle, copied / "cohort.toml", "--features", tiny.features, *outputs)
    assert done.code == 2 and done.err.count("both name") == 3
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_submission_holds_every_unlabelled_patient_once(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    asked = ("--features", tiny.features, "--output", tmp_path / "p.csv", "--submission", tmp_path / "s.csv")
    done = command("predict", tiny.bundle, tiny.cohort_toml, *asked)
    assert done.code == 0 and "3 unlabelled patients" in done.out
    table = pd.read_csv(tmp_path / "s.csv")
    assert list(table.columns) == ["ID", "LABEL"]
    assert tuple(table["ID"]) == tiny.cohort.unlabelled().patient_ids
    decided = pd.read_csv(tmp_path / "p.csv").set_index("patient_id")["prediction"][list(table["ID"])]
    assert list(table["LABEL"]) == [("reactive", "tumoral")[each] for each in decided]
    header = ("--submission-header", "patient,Predicted")
    assert command("predict", tiny.bundle, tiny.cohort_toml, *asked, *header).code == 0
    assert (tmp_path / "s.csv").read_text().startswith("patient,Predicted\n")


def test_classes_of_several_words_and_excluded_rows(
    tiny: Tiny, tmp_path: Path, edit_cohort: EditCohort, command: Command
) -> None:
    def rename(table: pd.DataFrame) -> None:
        tumoral = table.index[table["DIAGNOSIS"] == "tumoral"]
        table.loc[tumoral, "DIAGNOSIS"] = "CLL"
        table.loc[tumoral[::2], "DIAGNOSIS"] = "MCL"
        table.loc[tumoral[:2], "DIAGNOSIS"] = "HCL"

    toml = edit_cohort(rename)
    text = toml.read_text()
    assert 'positive = "tumoral"' in text
    words = 'positive = ["CLL", "MCL"]\nexclude = ["HCL"]'
    toml.write_text(text.replace('positive = "tumoral"', words))
    asked = ("--features", tiny.features, "--output", tmp_path / "p.csv")
    refused = command("predict", tiny.bundle, toml, *asked, "--submission", tmp_path / "s.csv")
    assert refused.code == 3 and "one word for each class, but positive has CLL, MCL. Use a" in refused.err
    assert not (tmp_path / "p.csv").exists()
    done = command("predict", tiny.bundle, toml, *asked)
    assert done.code == 0 and "leaving out 2 rows by exclude: 2 'HCL'" in done.err
    table = pd.read_csv(tmp_path / "p.csv")
    assert len(table) == 25 and table["label"].value_counts().to_dict() == {1: 12, 0: 10}


# Patients who are unlike those that the model was fitted on.


def test_patients_in_another_unit_are_outside_and_strict_says_so(
    tiny: Tiny, tmp_path: Path, edit_cohort: EditCohort, command: Command
) -> None:
    numbers = [name for name, values in tiny.cohort.metadata.items() if values.dtype.kind == "f"]
    column = {one.name: one.column for one in tiny.cohort.columns}[str(numbers[-1])]

    def rescale(table: pd.DataFrame) -> None:
        table.loc[:4, column] = (table.loc[:4, column].astype(float) * 1000).astype(str)

    output = tmp_path / "p.csv"
    asked = (tiny.bundle, edit_cohort(rescale), "--features", tiny.features, "--output", output)
    done = command("predict", *asked)
    assert done.code == 0
    table = pd.read_csv(output)
    assert not table["in_domain"][:5].any()
    assert all(numbers[-1] in text and "training patients have" in text for text in table["reasons"][:5])
    outside = int((~table["in_domain"]).sum())
    assert f"{outside} of 27 patients are unlike those that the model was fitted on" in done.err
    assert table["reasons"].notna().tolist() == (~table["in_domain"]).tolist()
    strict = command("predict", *asked, "--strict", "--json")
    assert strict.code == 4 and strict.json["in_domain"] == 27 - outside
    assert pd.read_csv(output).equals(table)


def test_strict_accepts_a_cohort_that_is_inside(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    output = tmp_path / "p.csv"
    assert command("predict", tiny.bundle, tiny.cohort_toml, "--output", output).code == 0
    inside = pd.read_csv(output)["in_domain"].all()
    done = command("predict", tiny.bundle, tiny.cohort_toml, "--output", output, "--strict")
    assert done.code == (0 if inside else 4)


def test_an_older_bundle_predicts_and_says_that_its_domain_is_unknown(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    bundle, output = tmp_path / "model", tmp_path / "p.csv"
    shutil.copytree(tiny.bundle, bundle)
    change_config(bundle, lambda config: config["about"].pop("domain"))
    change_tensors(
        bundle, lambda tensors: [tensors.pop(f"domain.{name}") for name in ("shift", "scale", "components")]
    )
    done = command("predict", bundle, tiny.cohort_toml, "--features", tiny.features, "--output", output)
    assert done.code == 0 and "not known" in done.err
    table = pd.read_csv(output)
    assert table["in_domain"].isna().all() and table["reasons"].isna().all()
    strict = command(
        "predict", bundle, tiny.cohort_toml, "--features", tiny.features, "--output", output, "--strict"
    )
    assert strict.code == 4


# Abstention.


def test_abstention_adds_a_column_and_says_where_it_comes_from(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    output = tmp_path / "p.csv"
    asked = ("predict", tiny.bundle, tiny.cohort_toml, "--features", tiny.features, "--output", output)
    for _ in range(2):  # the second run replaces its own table
        done = command(*asked, "--abstain", 0.2)
        assert done.code == 0, done.err
    assert done.err.count("The sets of 24 training patients are not valid") == 1
    assert "held out by the outer folds" in done.err and "Every set contains" not in done.err
    assert pd.read_csv(output)["set"].isin(["positive", "negative", "either"]).all()
    few = command(*asked, "--abstain", 0.01)
    assert few.code == 0 and few.err.count("Every set contains negative") == 1
    assert (pd.read_csv(output)["set"] == "either").all()
    assert command(*asked, "--abstain", 2).code == 2
