"""The gallery of patients: order, attention and names."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.reports import rewrite, thumbnails, written
from support.studies import Tiny

from mil_toolkit.report import shown as shown_module
from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.gallery import Naming, _classes, cases
from mil_toolkit.report.sections.attention import attention_section
from mil_toolkit.study.tables import class_column, publish_table, read_predictions


def test_the_worst_mistakes_come_first_with_every_patient_once(tiny: Tiny, study: Path) -> None:
    found = cases(read_contents(study), Naming(False))
    assert sorted(case.name for case in found) == sorted(tiny.cohort.labelled().patient_ids)
    assert found == sorted(found, key=lambda case: (-case.wrong, -abs(case.label - case.probability)))
    predictions = read_predictions(study / "predictions.csv").set_index("patient_id")
    for case in found:
        row = predictions.loc[case.name]
        assert case.wrong == (row["label"] != row["prediction"]) and case.probability == row["probability"]


def test_of_very_many_patients_the_worst_and_the_best_are_shown(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = read_contents(study)
    everyone = cases(contents, Naming(False))
    section = attention_section(contents, Naming(False))
    assert section.cases == everyone and "All patients with their predictions" in section.summary
    monkeypatch.setattr(shown_module, "MOST_WORST", 3)
    monkeypatch.setattr(shown_module, "MOST_BEST", len(everyone) - 3)
    assert cases(contents, Naming(False)) == everyone
    monkeypatch.setattr(shown_module, "MOST_BEST", 2)
    section = attention_section(contents, Naming(False))
    assert section.cases == everyone[:3] + everyone[-2:]
    assert f"Of {len(everyone)} patients with their predictions" in section.summary
    assert "predictions.csv has all" in section.summary


def test_attention_is_read_of_the_patients_who_are_shown(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone, attention = cases(read_contents(study), Naming(False)), read_contents(study).attention
    assert attention is not None and set(attention["patient_id"]) == {case.stored for case in everyone}
    monkeypatch.setattr(shown_module, "MOST_WORST", 2)
    monkeypatch.setattr(shown_module, "MOST_BEST", 1)
    contents = read_contents(study)
    found = [*everyone[:2], everyone[-1]]
    assert contents.attention is not None
    assert set(contents.attention["patient_id"]) == {case.stored for case in found}
    assert cases(contents, Naming(False)) == found


def test_images_are_ranked_by_attention_of_models_that_did_not_see_the_patient(study: Path) -> None:
    attention = pd.concat(map(read_predictions, study.glob("outer/*/attention.csv")))
    for case in cases(read_contents(study), Naming(False)):
        expected = attention[attention["patient_id"] == case.name].sort_values("attention", ascending=False)
        shown = case.shown_images  # all of them, as bags are small
        assert [each.rank for each in shown] == list(range(1, len(expected) + 1))
        np.testing.assert_allclose([each.attention for each in shown], expected["attention"])
        assert case.attention is not None
        assert case.attention.effective == pytest.approx(1 / (expected["attention"] ** 2).sum())


def test_equal_attention_shows_no_ranks(copied: Path, tmp_path: Path) -> None:
    for path in copied.glob("outer/*/attention.csv"):
        table = read_predictions(path)
        sizes = table.groupby("patient_id")["attention"].transform("size")
        publish_table(path, table.assign(attention=1 / sizes))
    shown = written(copied, tmp_path / "r.html")
    assert "all with equal attention" in shown and "Highest attention" not in shown


def test_an_anonymous_report_does_not_name_patients_or_files(
    tiny: Tiny, copied: Path, tmp_path: Path
) -> None:
    places = ["P001/000.jpg = P002/001.jpg", "P003"]
    finding = {"kind": "missing values", "level": "note", "text": "Some.", "advice": "", "where": places}
    (copied / "audit.json").write_text(json.dumps([finding]))
    shown = written(copied, tmp_path / "r.html", anonymise=True)
    words = re.sub(r"data:image/jpeg[^\"]+", "", shown)
    labelled = tiny.cohort.labelled()
    for patient in labelled.patient_ids:
        assert patient not in words
        for name in labelled.image_names[patient]:
            assert name not in words
    assert str(tiny.folder) not in words and "/cohort.toml" not in words
    assert "Patient 1" in words and "image 1" in words and len(thumbnails(shown)) > 24
    ages = {f"{value:.4g}" for value in labelled.metadata["age"] if value == value}  # noqa: PLR0124
    gallery = words.partition('id="cases"')[2]
    rewrite(copied / "sources.json", lambda sources: sources.update(cohort="JANE/DOE.toml"))
    assert "JANE" not in written(copied, tmp_path / "r.html", anonymise=True)
    assert not [age for age in ages if f"age</bdi> <bdi>{age}" in gallery]


def test_of_many_classes_the_true_one_and_the_two_most_probable_others_are_shown() -> None:
    names = [f"class {number}" for number in range(5)]
    rows = pd.DataFrame({"image": ["a", "b"], "attention": [0.4, 0.6]})
    rows = rows.assign(**{class_column(name): [0.3, 0.7] for name in names})
    predicted = np.array([0.3, 0.05, 0.4, 0.05, 0.2])
    for true, expected in ((1, [0, 1, 2]), (2, [0, 2, 4]), (4, [0, 2, 4]), (0, [0, 2, 4])):
        shown = _classes(rows, true, predicted, Naming(False))
        assert [of_class.name for of_class in shown] == [names[place] for place in expected]
        assert [of_class.name for of_class in shown if of_class.is_true] == [names[true]]
        assert [image.stored for image in shown[0].images] == ["b", "a"]
