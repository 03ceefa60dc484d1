"""TRIPOD+AI items and the methods paragraph: what they say is what the study did."""

from dataclasses import replace

import pytest
from support.studies import Tiny

from mil_toolkit.config.study import GROUPS, SAMPLER_NAMES, StudyConfig
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.study.folder import Study
from mil_toolkit.study.methods import REFERENCES, SAMPLERS, methods_paragraph
from mil_toolkit.study.records import PatientsRecord, Statements, as_list
from mil_toolkit.study.tripod import NOT_STATED, flow, tripod_items


@pytest.fixture(scope="module", name="study")
def _study(tiny: Tiny) -> Study:
    """A finished study with images and metadata."""
    return Study.open(tiny.study)


@pytest.fixture(scope="module", name="patients")
def _patients(study: Study) -> PatientsRecord:
    patients = study.read_patients()
    assert patients is not None
    return patients


def test_items_are_in_the_order_of_the_checklist(study: Study, patients: PatientsRecord) -> None:
    items = tripod_items(study.description, patients, study.read_scores())
    places = [(int(item.number.rstrip("ab")), item.number) for item in items]
    assert places == sorted(places)
    assert all(item.text for item in items)


def test_statements_of_the_cohort_stand_where_they_belong(study: Study, patients: PatientsRecord) -> None:
    stated = Statements("ward A", None, "adults", "cytometry", None, None, 0.1, 0.5)
    items = tripod_items(study.description, replace(patients, statements=stated), study.read_scores())
    texts = {item.topic: item.text for item in items}
    assert (texts["Setting"], texts["Eligibility"]) == ("ward A", "adults")
    assert texts["Reference standard"] == "cytometry"
    assert texts["Dates"] == texts["Intended use"] == NOT_STATED


def test_the_flow_counts_every_row_of_the_table(patients: PatientsRecord) -> None:
    analysed = len(patients.patients)
    assert flow(patients) == f"27 rows in the table: none excluded, 3 without a label, {analysed} analysed"
    others = replace(patients, excluded={"XX": 2, "YY": 1})
    assert "other rows are not recorded" in flow(replace(patients, excluded=None))
    assert "30 rows in the table: 3 excluded (2 XX, 1 YY)" in flow(others)


def test_missing_values_are_counted_by_column(study: Study, patients: PatientsRecord) -> None:
    name = patients.columns[0].name
    first = replace(patients.patients[0], metadata={**patients.patients[0].metadata, name: None})
    changed = replace(patients, patients=[first, *patients.patients[1:]])
    items = tripod_items(study.description, changed, study.read_scores())
    assert next(item.text for item in items if item.topic == "Missing values by column").startswith(
        f"{name} 1"
    )


def test_the_methods_name_the_settings_of_the_study(study: Study) -> None:
    config = StudyConfig(trials=7, folds=4, outer_folds=6, repeats=3, members=2, seed=11)
    text = methods_paragraph(config, study.description.features, Binary())
    for part in ("7 trials", "4 stratified inner folds", "6 stratified outer folds", "repeated 3 times"):
        assert part in text
    assert "2 members" in text and "seed 11" in text
    assert study.description.features is not None
    assert study.description.features.spec["backbone"] in text
    assert "Only clinical values were used" in methods_paragraph(config, None, Binary())
    assert "fully connected" not in text


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((1,), "1 fully connected layer transformed"),
        ((0, 1, 2), "Up to 2 fully connected layers transformed"),
    ],
)
def test_the_methods_name_the_layers_before_the_pooling(
    numbers: tuple[int, ...], words: str, study: Study
) -> None:
    config = StudyConfig(settings={"instance_layers": numbers})
    assert words in methods_paragraph(config, study.description.features, Binary())


@pytest.mark.parametrize(
    ("outer", "words"), [(0, "No patients were held out"), (GROUPS, "one outer fold for each group")]
)
def test_the_methods_say_how_patients_were_held_out(outer: int | str, words: str) -> None:
    assert words in methods_paragraph(StudyConfig(outer_folds=outer), None, Binary())  # type: ignore[arg-type]


def test_every_sampler_has_words() -> None:
    assert set(SAMPLERS) == set(SAMPLER_NAMES)
    assert "searched by a grid" in methods_paragraph(StudyConfig(sampler="grid"), None, Binary())


def test_every_citation_has_a_reference(study: Study) -> None:
    (features,) = as_list(study.description.features)
    normalised = replace(features, spec={**features.spec, "preprocess": "reinhard"})
    texts = [methods_paragraph(StudyConfig(), of, Binary()) for of in (features, normalised)]
    text = " ".join(texts)
    cited = [key for key in REFERENCES if key in text]
    assert set(REFERENCES) - set(cited) == {"Collins 2024"}
