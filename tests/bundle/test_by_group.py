"""Bundles of models that standardise embeddings within groups of patients."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import Command
from support.sites import Sites, sites_cache, sites_cohort
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.fit import fit
from mil_toolkit.bundle.one_patient import OnePatient, predict_one
from mil_toolkit.bundle.onnx import publish_onnx
from mil_toolkit.bundle.predict import extract_as_trained, predict
from mil_toolkit.bundle.saliency import BagOutput
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.maps import maps_of
from mil_toolkit.training.patients import Patients
from mil_toolkit.validation.validate import validate


@pytest.fixture(scope="module", name="bundle")
def _bundle(sites_model: Path) -> ModelBundle:
    """The model of the study, as a bundle holds it."""
    return ModelBundle.load(sites_model)


def test_a_new_site_is_standardised_by_its_own_patients(
    bundle: ModelBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert bundle.head.by_group
    cohort = sites_cohort([6, 6])
    tables = [
        predict(bundle, cohort, sites_cache(tmp_path / str(shift), cohort, shift)).table
        for shift in (0.0, 3.0)
    ]
    plain, shifted = (table["probability"].to_numpy() for table in tables)
    np.testing.assert_allclose(shifted, plain, atol=0.02)  # float16 embeddings
    assert plain[cohort.labels == 1].min() > np.median(plain[cohort.labels == 0])
    assert tables[1]["in_domain"].mean() > 0.7
    assert "Embeddings are standardised within 2 groups by the moments of its own patients." in caplog.text


def test_a_cohort_without_groups_is_refused(bundle: ModelBundle, sites: Sites) -> None:
    alone = replace(sites.cohort, groups=None)
    with pytest.raises(DataError, match="one patient alone is not enough"):
        predict(bundle, alone, sites.cache)
    with pytest.raises(DataError, match="one patient alone is not enough"):  # before any image is read
        extract_as_trained(bundle, replace(alone, images=dict.fromkeys(alone.patient_ids, ())))
    with pytest.raises(DataError, match="one patient alone is not enough"):
        bundle.apply(replace(Patients.of(sites.cohort, sites.cache).take(np.array([3])), groups=None))


def validate_without_groups(bundle: ModelBundle, sites: Sites, folder: Path) -> None:
    validate(bundle, replace(sites.cohort, groups=None, outcome=Binary("LABEL")), sites.cache)


def predict_one_patient(bundle: ModelBundle, sites: Sites, folder: Path) -> None:
    predict_one(bundle, OnePatient({}, folder / "nowhere", date(2020, 1, 1)))  # before any image is read


def draw_maps_of_a_report(bundle: ModelBundle, sites: Sites, folder: Path) -> None:
    study = Path(shutil.copytree(sites.study, folder / "study"))
    bundle.save(study / "model")
    maps_of(read_contents(study), [], None)


def compute_saliency(bundle: ModelBundle, sites: Sites, folder: Path) -> None:
    BagOutput.of(bundle.head, Patients.of(sites.cohort, sites.cache).take(np.array([3])), [1.0])


@pytest.mark.parametrize(
    ("command", "error", "problem"),
    [
        (validate_without_groups, DataError, "one patient alone is not enough"),
        (predict_one_patient, UsageError, "one patient alone is not enough. Name a COHORT.toml"),
        (draw_maps_of_a_report, UsageError, "--saliency: the model standardises embeddings within groups"),
        (compute_saliency, DataError, "group S0 has 1 patient"),
    ],
)
def test_patients_without_their_group_are_refused(
    command: Callable[[ModelBundle, Sites, Path], None],
    error: type[Exception],
    problem: str,
    bundle: ModelBundle,
    sites: Sites,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=problem):
        command(bundle, sites, tmp_path)


def test_a_small_group_is_refused_with_all_other_problems(bundle: ModelBundle, sites: Sites) -> None:
    assert sites.cohort.groups is not None
    groups = np.where(np.arange(len(sites.cohort)) == 3, "X", sites.cohort.groups)
    wrong = replace(sites.cohort, groups=groups, columns=(), metadata=sites.cohort.metadata[[]])
    with pytest.raises(DataError) as caught:
        predict(bundle, wrong, sites.cache)
    problems = "\n".join(caught.value.problems)
    assert "group X has 1 patient; standardise=group needs at least 10 patients" in problems
    assert "noise" in problems


def test_the_card_says_that_groups_are_needed(bundle: ModelBundle, tiny: Tiny) -> None:
    folder = tiny.bundle
    assert "never one patient alone" not in (folder / "README.md").read_text()
    from mil_toolkit.bundle.card import model_card

    card = model_card(bundle.about, bundle.scores, 1, bundle.head.by_group)
    assert "never one patient alone" in card and "transductive" in card and "those of disease too" in card


def test_the_configuration_of_a_bundle_is_checked(bundle: ModelBundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["head"]["config"]["standardise"] == "group"


def test_onnx_is_refused(bundle: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sees one patient at a time"):
        publish_onnx(bundle, tmp_path)
    assert not list(tmp_path.iterdir())


def test_fine_tuning_is_refused(sites: Sites, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="--finetune: searches of this study could standardise embeddings within groups"
    ):
        fit(sites.cohort, sites.cache, sites.study, tmp_path / "model", "cpu", FinetuneConfig())
    assert not (tmp_path / "model").exists()


def test_the_commands_work_on_a_cohort_with_groups(
    tiny: Tiny, tiny_options: list[object], tmp_path: Path, command: Command
) -> None:
    table = pd.read_csv(tiny.cohort_toml.parent / "patients.csv", dtype=str, keep_default_na=False)
    sites = [f"S{number % 2}" for number in range(len(table))]
    table.assign(SITE=sites).to_csv(tmp_path / "sites.csv", index=False)
    text = tiny.cohort_toml.read_text().replace('id = "ID"', 'id = "ID"\ngroup = "SITE"')
    text = text.replace('"patients.csv"', f'"{tmp_path}/sites.csv"')
    toml, study = tmp_path / "cohort.toml", tmp_path / "study"
    toml.write_text(text.replace('"images"]', f'"{tiny.cohort_toml.parent}/images"]'))
    options = [toml, *tiny_options[1:], "--set", "standardise=group", "--outer-folds", 0, "--study", study]
    tuned = command("tune", *options)
    assert tuned.code == 0 and "without labels (a transductive step)" in tuned.out
    assert "transductive step" in (study / "report.html").read_text()
    refused = command("fit", toml, "--study", study, "--features", tiny.features, "--onnx")
    assert (
        refused.code == 2 and "ONNX: the model standardises" in refused.err and not (study / "model").exists()
    )
    assert command("fit", toml, "--study", study, "--features", tiny.features).code == 0
    assert "never one patient alone" in (study / "model" / "README.md").read_text()
    predict_options = ("--features", tiny.features, "--output", tmp_path / "predictions.csv")
    assert command("predict", study / "model", toml, *predict_options).code == 0
    refused = command(
        "predict", study / "model", tiny.cohort_toml, *predict_options[:3], tmp_path / "other.csv"
    )
    assert refused.code == 3 and "These patients have no groups" in refused.err
    assert not (tmp_path / "other.csv").exists()
    images = tiny.cohort_toml.parent / "images" / "P003"
    refused = command("predict", study / "model", "--images", images, "--output", tmp_path / "other.csv")
    assert refused.code == 2 and "one patient alone is not enough" in refused.err
    refused = command("report", study, "--saliency", "--output", tmp_path / "other.html")
    assert refused.code == 2 and "--saliency: the model standardises" in refused.err
    assert not {tmp_path / "other.csv", tmp_path / "other.html"} & set(tmp_path.iterdir())
