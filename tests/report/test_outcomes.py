"""Reports and model cards of every kind of outcome."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from support.commands import Command
from support.paths import installed
from support.reports import text_of

from mil_toolkit.evaluation.number_calibration import bland_altman
from mil_toolkit.evaluation.survival_curves import at_risk, log_rank
from mil_toolkit.evaluation.words import p_value
from mil_toolkit.outcomes.kinds import KINDS
from mil_toolkit.report.contents import Contents, read_contents
from mil_toolkit.report.figures.classes import rank_differences
from mil_toolkit.report.gallery import Naming
from mil_toolkit.report.names import metric_name
from mil_toolkit.report.sections.attention import attention_section, best_words
from mil_toolkit.report.sections.survival import survival_scores, survival_use
from mil_toolkit.report.sections.tables import Cell
from mil_toolkit.report.shown import shown_places
from mil_toolkit.report.survival import calibration, null_model, thirds

StudyOf = Callable[[str], Path]
OTHERS = sorted(set(KINDS) - {"binary"})


@pytest.fixture(name="page")
def _page(study_of: StudyOf) -> Callable[[str], str]:
    def read(kind: str) -> str:
        if kind == "survival":
            installed("sksurv")
        return (study_of(kind) / "report.html").read_text()

    return read


def words_of(html: str) -> str:
    """Return what a reader sees or hears: the text and the descriptions of the figures."""
    return text_of(html) + " ".join(re.findall(r'aria-label="([^"]*)"', html))


# Words that belong to other kinds of outcome.
FOREIGN = {
    "classes": r"positives?|negatives?|thresholds?|risks?|survival",
    "ordered": r"positives?|negatives?|thresholds?|risks?|survival",
    "number": r"positive|negative|thresholds?|specificity|AUC|ROC|[Tt]rue class|risks?|survival|event",
    "survival": r"positive|negative|thresholds?|specificity|AUC|ROC|[Tt]rue class|confusion|MAE|RMSE",
}
EVERYWHERE = ("false positive rate", "Class imbalance", "Sensitivity analysis")


@pytest.mark.parametrize("kind", OTHERS)
def test_a_report_has_no_word_of_another_kind_of_outcome(kind: str, page: Callable[[str], str]) -> None:
    words = words_of(page(kind))
    for allowed in EVERYWHERE:
        words = re.sub(allowed, "", words, flags=re.IGNORECASE)
    found = [
        words[max(0, hit.start() - 60) : hit.end() + 40]
        for hit in re.finditer(rf"\b({FOREIGN[kind]})\b", words)
    ]
    assert found == []


@pytest.mark.parametrize("kind", OTHERS)
def test_a_card_has_no_word_of_another_kind_of_outcome(
    kind: str, study_of: StudyOf, page: Callable[[str], str]
) -> None:
    page(kind)
    card = (study_of(kind) / "model" / "README.md").read_text()
    assert re.findall(rf"\b({FOREIGN[kind]})\b", card) == []


@pytest.mark.parametrize("kind", OTHERS)
def test_every_chart_has_a_description_and_ids_are_unique(kind: str, page: Callable[[str], str]) -> None:
    html = page(kind)
    labels = re.findall(r'<svg [^>]*role="img"[^>]*aria-label="([^"]*)"|<svg [^>]*aria-label="([^"]*)"', html)
    assert labels and all(len(one or other) > 20 for one, other in labels)
    assert "nan" not in re.findall(r"\w+", " ".join(one or other for one, other in labels))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("classes", ["Confusion matrix", "Scores of each class", "ROC curve of AML against all others"]),
        ("ordered", ["Confusion matrix", "Scores of each class", "Errors of ranks"]),
        ("number", ["Predicted and observed", "Agreement (Bland and Altman)"]),
        (
            "survival",
            [
                "Survival by predicted third",
                "Calibration at the horizon",
                "Brier scores beside the null model",
            ],
        ),
    ],
)
def test_a_report_draws_what_its_outcome_needs(
    kind: str, titles: list[str], page: Callable[[str], str]
) -> None:
    heads = re.findall(r"<h3>([^<]*)</h3>", page(kind))
    assert set(titles) <= set(heads)
    assert "Scores in subgroups" in page(kind)


# Classes.


def test_the_confusion_matrix_is_shaded_by_the_share_of_the_row(
    study_of: StudyOf, page: Callable[[str], str]
) -> None:
    html, table = page("classes"), read_contents(study_of("classes")).table
    cells = re.findall(r'<td class="(right|wrong) heat(\d+)">([\d.]+)<small>(\d+) %</small></td>', html)
    assert len(cells) == 9
    for place, (look, tenths, patients, percent) in enumerate(cells):
        label, decided = divmod(place, 3)
        inside = table.labels == label
        share = (table.decisions[0, inside] == decided).mean()
        assert float(patients) == share * inside.sum()
        assert int(percent) == pytest.approx(100 * share, abs=0.51)
        assert int(tenths) == round(10 * share)
        assert look == ("right" if label == decided else "wrong")


def test_errors_of_ranks_count_every_patient_once(study_of: StudyOf, page: Callable[[str], str]) -> None:
    page("ordered")
    table = read_contents(study_of("ordered")).table
    counts, ranks = rank_differences(table, 3), np.arange(-2, 3)
    assert counts.sum() == len(table.labels)
    score = table.score(table.scoring.metrics["rank_error"])
    assert (np.abs(ranks) * counts).sum() / counts.sum() == pytest.approx(score)


# Numbers.


def test_the_agreement_is_that_of_bland_and_altman(study_of: StudyOf, page: Callable[[str], str]) -> None:
    words, table = words_of(page("number")), read_contents(study_of("number")).table
    agreement = bland_altman(table.probabilities.mean(0), table.labels)
    for limits in (agreement.bias, agreement.lower, agreement.upper):
        assert f"{limits.value:+.3g} ({limits.low:+.3g} to {limits.high:+.3g})" in words


# Survival.


@pytest.fixture(name="survival")
def _survival(study_of: StudyOf) -> Contents:
    installed("sksurv")
    return read_contents(study_of("survival"))


def test_the_log_rank_test_is_that_of_the_drawn_thirds(
    survival: Contents, page: Callable[[str], str]
) -> None:
    parts, table = thirds(survival.table, 5), survival.table
    assert sum(len(part.times) for part in parts.groups) == len(table.labels)
    groups = np.repeat(range(len(parts.groups)), [len(part.times) for part in parts.groups])
    times, events = (
        np.concatenate([getattr(part, name) for part in parts.groups]) for name in ("times", "events")
    )
    test = log_rank(times, events, groups)
    assert test.statistic is not None
    words = words_of(page("survival"))
    assert f"chi-squared {test.statistic:.2f}" in words
    assert f"p {chi2.sf(test.statistic / 2, 2):.3f} (chi-squared" in words
    assert f"p {test.p_value:.3f} would be too small" in words


def test_numbers_at_risk_stand_under_the_curves(survival: Contents, page: Callable[[str], str]) -> None:
    svg = re.findall(
        r'<svg [^>]*aria-label="Kaplan-Meier curves of held-out.*?</svg>', page("survival"), re.DOTALL
    )[0]
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    row = shown.index("At risk")
    for part in thirds(survival.table, 5).groups:
        place = shown.index(part.name, row)
        first, second = at_risk(part.times, [0, 2])
        assert shown[place + 1 : place + 3] == [str(first), str(second)]


def test_the_calibration_covers_all_patients(survival: Contents) -> None:
    result = calibration(survival.table, 5)
    assert sum(group.patients for group in result.groups) == len(survival.table.labels)
    mean = sum(group.patients * group.predicted for group in result.groups) / len(survival.table.labels)
    assert mean == pytest.approx(result.predicted)
    for group in result.groups:
        risk = group.observed
        assert risk.low <= risk.value <= risk.high and risk.low < risk.high
    score = survival.own_scores["calibration_at_horizon"].value
    assert abs(result.observed.value - result.predicted) == pytest.approx(score)


@pytest.mark.parametrize("kind", ["classes", "ordered"])
def test_counts_follow_the_names_of_classes(kind: str, page: Callable[[str], str], study_of: StudyOf) -> None:
    """Names may be numbers."""
    words, names = words_of(page(kind)), read_contents(study_of(kind)).class_names
    labels = read_contents(study_of(kind)).table.labels
    counts = [f"{name}: {int((labels == number).sum())}" for number, name in enumerate(names)]
    assert ", ".join(counts) in words and f"of {names[0]}: " in words
    card = (study_of(kind) / "model" / "README.md").read_text()
    assert f", by class *{names[0]}*: {int((labels == 0).sum())}, " in card


def test_subgroups_have_no_score_that_weights_by_their_censoring(survival: Contents) -> None:
    subgroups = survival_use(survival).subgroups
    assert subgroups is not None and list(subgroups.heads[2:]) == [metric_name("concordance_harrell")]
    assert "Without Uno's C and the Brier scores" in subgroups.caption


@pytest.mark.parametrize(
    ("kind", "best"),
    [
        ("classes", "most confident correct ones"),
        ("number", "smallest errors"),
        ("survival", "most expected"),
    ],
)
def test_pictures_that_are_left_out_are_named_in_words_of_the_outcome(
    kind: str, best: str, page: Callable[[str], str], study_of: StudyOf
) -> None:
    page(kind)
    contents = read_contents(study_of(kind))
    section = attention_section(contents, Naming(False))
    words = f"to keep the file small: the {best_words(contents, section.words.order)}"
    assert words.startswith(f"to keep the file small: the {best}")


def test_an_unknown_risk_is_neither_drawn_nor_tabulated(survival: Contents) -> None:
    rows = survival.predictions.copy()
    highest = rows.groupby("patient_id")[["risk"]].mean()["risk"].nlargest(12).index
    inside = rows["patient_id"].isin(highest)
    rows.loc[inside, ["time", "event"]] = [3.25, 0]
    contents = replace(survival, predictions=rows)
    result = calibration(contents.table, 5)
    assert result.groups[-1].observed.followed_to == 3.25
    section = survival_scores(contents)
    by_third, by_risk = (
        next(table for table in section.details if table.name == name)
        for name in ("Predicted thirds", "Calibration at the horizon")
    )
    unknown = Cell("unknown", "followed up to 3.25 only")
    assert by_risk.rows[len(result.groups) - 1].cells[2] == unknown and unknown not in by_risk.rows[-1].cells
    assert unknown in by_third.rows[-1].cells
    (chart,) = (chart for chart in section.charts if chart.title == "Calibration at the horizon")
    assert "1 group without a dot: nobody was followed up to the horizon." in chart.caption
    assert "observed unknown (followed up to 3.25 only)" in chart.svg


def test_the_predictions_of_a_single_split_are_those_of_one_model(survival: Contents) -> None:
    contents = replace(survival, predictions=survival.predictions.assign(fold=1))
    parts = thirds(contents.table, 5)
    assert parts.corrected is None and parts.test.p_value is not None
    section = survival_scores(contents)
    words = " ".join(text for chart in section.charts for text in (chart.caption, chart.svg)) + " ".join(
        table.caption for table in section.details
    )
    assert f"over the whole follow-up: p {p_value(parts.test.p_value)} (chi-squared" in words
    assert "halved" not in words and "cross-validated" not in words and "training patients" not in words
    assert words.count("of these same patients for everyone, which favours it") == 2


def test_the_brier_score_stands_beside_that_of_the_null_model(
    survival: Contents, page: Callable[[str], str]
) -> None:
    null = null_model(survival.table, 5)
    own, other = survival.own_scores["integrated_brier"].value, null.scores["integrated_brier"]
    assert own is not None and other.value is not None and other.low is not None
    assert other.low < other.value
    assert null.differences["integrated_brier"].value == pytest.approx(own - other.value)
    assert f"of the null model {other.value:.3f}" in words_of(page("survival"))


def test_the_gallery_tells_events_from_censored_patients(
    survival: Contents, page: Callable[[str], str]
) -> None:
    html, table = page("survival"), survival.table
    for place in shown_places(table)[:5]:
        time, event = table.labels[place]
        risk = table.probabilities[:, place, 0].mean()
        said = f"{'Event' if event else 'Censored'} at {time:.4g}. Predicted risk up to 5: {risk:.3f}"
        assert f'data-name="{table.patient_ids[place]}" data-label="{int(event)}"' in html and said in html


def test_the_overview_counts_events(survival: Contents, page: Callable[[str], str]) -> None:
    times, events = survival.table.labels.T
    early = int(((events == 1) & (times <= 5)).sum())
    text = text_of(page("survival"))
    assert (
        f"{int(events.sum())}, of which {early} up to 5; {int((1 - events).sum())} patients censored" in text
    )


@pytest.mark.parametrize(
    ("kind", "old", "new", "expected"),
    [
        (
            "survival",
            "horizon = 5",
            "horizon = 3",
            "horizon is 3 under [cohort]; the model was fitted with 5.",
        ),
        (
            "number",
            'unit = "%"',
            'unit = "g/L"',
            'unit is "g/L" under [cohort]; the model was fitted with "%".',
        ),
    ],
)
def test_a_cohort_with_another_meaning_of_the_outcome_is_not_predicted(
    kind: str,
    old: str,
    new: str,
    expected: str,
    study_of: StudyOf,
    page: Callable[[str], str],
    tmp_path: Path,
    command: Command,
) -> None:
    page(kind)
    study = study_of(kind)
    toml = study.parent / "cohort" / "cohort.toml"
    other = toml.with_name(f"{kind}.toml")
    other.write_text(toml.read_text().replace(old, new))
    features = json.loads((study / "sources.json").read_text())["features"]
    output = tmp_path / "p.csv"
    done = command("predict", study / "model", other, "--features", features, "--output", output)
    assert done.code == 3 and expected in done.err and not output.exists()
    done = command("predict", study / "model", toml, "--features", features, "--output", output)
    assert done.code == 0 and len(pd.read_csv(output)) == 27


def test_scores_of_survival_can_be_copied(survival: Contents, page: Callable[[str], str]) -> None:
    text = re.findall(r'aria-label="Scores as CSV">(.*?)</pre>', page("survival"), re.DOTALL)[0]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["metric"] for row in rows] == list(survival.table.scoring.metrics)
