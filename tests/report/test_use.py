"""The sections on use and on reporting."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.reports import text_of, written

from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.records import Estimate, Score
from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.drawing import style
from mil_toolkit.report.figures.use import decision_figure
from mil_toolkit.report.sections.reporting import reporting_section
from mil_toolkit.report.sections.use import use_section
from mil_toolkit.study.records import CurvePoint, LearningCurve, LearningPoint

SCORE = Score(0.8, 0.7, 0.9, 24, 1)
CURVE = LearningCurve(
    "balanced_accuracy",
    [LearningPoint(share, 20 * share, SCORE) for share in (0.4, 0.6, 1.0)],
    [CurvePoint(size, Estimate(0.8, 0.7, 0.9)) for size in (8.0, 20.0, 60.0)],
    Estimate(0.01, -0.01, 0.015),
    0.1,
    96,
    {"80 %": "too few patients"},
)


def test_the_report_shows_calibration_net_benefit_and_the_items(html: str) -> None:
    text = text_of(html)
    for part in ("Decision curve", "Subgroups", "Sample size for a regression", "corrected resampled t-test"):
        assert part in text
    assert "Intercept" in text or "separate the classes" in text
    for part in ("TRIPOD+AI", "Flow of participants", "Methods", "References"):
        assert part in text


def test_the_decision_curve_names_its_figures_and_the_range_of_the_clinic(study: Path) -> None:
    contents = read_contents(study)
    assert contents.patients is not None and contents.patients.statements is not None
    narrow = replace(contents.patients.statements, lowest_threshold=0.2, highest_threshold=0.4)
    changed = replace(contents, patients=replace(contents.patients, statements=narrow))
    with style():
        svg = decision_figure(changed).svg
    label = ElementTree.fromstring(svg).get("aria-label") or ""
    assert "at 0.20 the model" in label and "at 0.40 the model" in label and "metadata only" in label


def test_studies_of_older_versions_have_no_metadata_curve(study: Path) -> None:
    with style():
        chart = decision_figure(replace(read_contents(study), metadata=None, patients=None))
    assert "Dashed" not in chart.caption and "at 0.05 the model" in chart.svg


def test_a_learning_curve_is_drawn_with_its_advice(study: Path) -> None:
    with style():
        section = use_section(replace(read_contents(study), learning_curve=CURVE))
    assert [chart.title for chart in section.charts] == ["Decision curve", "More patients"]
    notes = " ".join(section.notes)
    assert "40 instead of 20" in notes and "would help little" in notes
    assert "needs about 96 patients" in notes and "80 % of the training patients: too few patients" in notes


@pytest.mark.parametrize(
    ("low", "high", "advice"),
    [(0.03, 0.06, "More patients would help."), (-0.01, 0.05, "too small to tell")],
)
def test_the_advice_follows_the_interval(low: float, high: float, advice: str, study: Path) -> None:
    curve = replace(CURVE, doubled=Estimate(0.02, low, high))
    with style():
        section = use_section(replace(read_contents(study), learning_curve=curve))
    assert advice in " ".join(section.notes)


def test_subgroups_of_one_class_show_only_their_size(study: Path) -> None:
    with style():
        table = use_section(read_contents(study)).subgroups
    assert table is not None
    for row in table.rows:
        counts, *scores = row.cells
        assert counts is not None
        patients, positives = int(counts.value), int(counts.interval.split()[0])
        assert (scores[0] is None) == (positives in (0, patients))


def test_scores_can_be_copied_as_csv_and_latex(study: Path) -> None:
    contents = read_contents(study)
    section = reporting_section(contents)
    rows = list(csv.DictReader(io.StringIO(section.csv)))
    assert [row["metric"] for row in rows] == list(METRICS)
    accuracy = contents.own_scores["accuracy"]
    shown = next(row for row in rows if row["metric"] == "accuracy")
    assert float(shown["value"]) == pytest.approx(accuracy.value, abs=5e-4)
    assert section.latex.count(r"\\") == len(METRICS) + 1 and "_" not in section.latex


def test_a_study_without_outer_folds_is_called_optimistic(study: Path, tmp_path: Path) -> None:
    contents = read_contents(study)
    plain = replace(contents, scores=replace(contents.scores, outer=None))
    assert plain.metadata_table is None
    html = written(study, tmp_path / "report.html")
    assert "All of it is optimistic here" not in html
