"""The report: what it shows of a study, what it leaves out, and that it is one file which asks for nothing."""

import base64
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve
from support.commands import Command
from support.studies import Tiny, hostile_study, weighed

from mil_toolkit.cli import tune as mil_tune
from mil_toolkit.config import StudyConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.evaluation.intervals import Table, draw_patients, percentile_interval
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.report import page
from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.curves import GRID, precision_recall, roc
from mil_toolkit.report.drawing import COLOURS, canvas, style, to_svg
from mil_toolkit.report.figures import scores as figures
from mil_toolkit.report.figures.search import importances, parallel_figure, slice_figures
from mil_toolkit.report.gallery import Naming, cases
from mil_toolkit.report.page import write_report
from mil_toolkit.report.sections import steps
from mil_toolkit.study.ablation import ablate
from mil_toolkit.study.tables import publish_table, read_predictions
from mil_toolkit.study.tune import tune


def written(study: Path, path: Path, **options: Any) -> str:
    write_report(study, path, **options)
    return path.read_text()


@pytest.fixture(scope="module", name="study")
def _study(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study, whose few epochs teach no attention, with one drawn at random."""
    return weighed(Path(shutil.copytree(tiny.study, tmp_path_factory.mktemp("report") / "study")))


@pytest.fixture(scope="module", name="html")
def _html(study: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its report."""
    return written(study, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(name="copied")
def _copied(study: Path, tmp_path: Path) -> Path:
    """A copy of it, for tests to change."""
    return Path(shutil.copytree(study, tmp_path / "study"))


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def text_of(html: str) -> str:
    """What a reader sees, roughly: no markup, no scripts, no pictures."""
    without = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", without))


def thumbnails(html: str) -> list[bytes]:
    return [base64.b64decode(each) for each in re.findall(r"data:image/jpeg;base64,([^\"]+)", html)]


def test_the_report_says_that_the_defaults_were_kept(copied: Path, tmp_path: Path) -> None:
    kept = {"trial": 7, "lead": 0.01, "error": 0.02}
    for told in (kept, None):
        rewrite(copied / "best.json", lambda best, told=told: best.update(passed_over=told))  # type: ignore[misc]
        text = text_of(written(copied, tmp_path / "r.html"))
        assert ("The defaults were kept: trial 7 had the best value" in text) == (told is not None)


# The command.


def test_the_command_writes_the_report_where_it_is_told(
    study: Path, tmp_path: Path, command: Command
) -> None:
    done = command("report", study, "--output", tmp_path / "r.html", "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(tmp_path / "r.html")
    assert done.json["bytes"] == (tmp_path / "r.html").stat().st_size
    assert done.json["notes"] == []


def test_the_report_replaces_an_older_page_and_nothing_else(
    study: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    table.write_text("ID,LABEL\n")
    page.write_text("\n<!DOCTYPE html>\n<p>the older one</p>")
    assert command("report", study, "--output", page).code == 0 and "the older one" not in page.read_text()
    monkeypatch.setattr("mil_toolkit.report.page.render", None)  # is not come to
    for output, said in (
        (table, "is no HTML page"),
        (tmp_path, "is not a file"),
        (table / "x", "Not a directory"),
    ):
        done = command("report", study, "--output", output)
        assert done.code == 2 and said in done.err
    assert table.read_text() == "ID,LABEL\n"


def test_what_is_no_finished_study_is_told(copied: Path, tmp_path: Path, command: Command) -> None:
    nothing = command("report", tmp_path)
    assert nothing.code == 3 and "is no study: it has no config.json" in nothing.err
    (copied / "DONE").unlink()
    (copied / "report.html").unlink(missing_ok=True)  # mil-fit may have left one in the study that all share
    stopped = command("report", copied)
    assert stopped.code == 3 and "has not ended" in stopped.err and not (copied / "report.html").exists()
    for done in (nothing, stopped):
        assert done.out == "" and "Traceback" not in done.err


def test_tune_fit_and_ablate_end_with_the_report(
    tiny: Tiny, copied: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    common = (tiny.cohort_toml, "--features", tiny.features, "--study", copied)
    fitted = command("fit", *common, "--json")
    assert fitted.code == 0 and fitted.json["report"] == str(copied / "report.html")
    assert "Predictions for other patients." in (copied / "report.html").read_text()

    def full(*_: object) -> None:
        raise UsageError("The disk is full.")

    monkeypatch.setattr(page, "publish", full)
    failed = command("fit", *common)
    assert failed.code == 0 and "No report: The disk is full." in failed.out


def test_the_same_folder_gives_the_same_bytes(study: Path, tmp_path: Path, html: str) -> None:
    assert written(study, tmp_path / "again.html") == html


# One file.


def test_the_file_names_no_other_place(html: str) -> None:
    for tag, attribute, value in re.findall(r"<(\w+)[^>]*?\b(href|src|action|data)=\"([^\"]*)\"", html):
        assert value.startswith(("#", "data:")), (tag, attribute, value[:80])
    assert "@import" not in html and "url(http" not in html


def test_the_policy_allows_what_the_file_holds_and_no_more(html: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"{kind} {page._source(inline)}" in policy
    assert not re.search(r"<[^>]+\s(style|on\w+)=", html)  # which the policy would forbid


def test_ids_in_the_page_are_unique_and_every_reference_is_met(html: str) -> None:
    ids = re.findall(r"\sid=\"([^\"]+)\"", html)
    assert len(ids) == len(set(ids))
    asked = re.findall(r"(?:href=\"#|url\(#|for=\"|aria-labelledby=\")([\w-]+)", html)
    assert asked and set(asked) <= set(ids)


# What it says.


def test_the_first_screen_tells_the_outer_score_its_rivals_and_the_optimism(study: Path, html: str) -> None:
    scores = json.loads((study / "scores.json").read_text())
    first = text_of(html.partition('id="scores"')[0])
    value = scores["outer"]["balanced_accuracy"]
    assert f"{value['value']:.3f} 95 % interval {value['low']:.3f} to {value['high']:.3f}" in first
    assert "an optimism of" in first and f"{scores['optimism']['balanced_accuracy']['value']:+.3f}" in first
    for words in (
        "Metadata alone",
        "Number of images alone",
        "Mean embedding",
        "24: 14 tumoral, 10 reactive",
    ):
        assert words in first
    assert "mil-ablate" in first and "no honest score" not in first


def test_without_outer_folds_it_says_loudly_that_there_is_no_honest_score(tiny: Tiny, tmp_path: Path) -> None:
    settings = {"epochs": (2,), "hidden": (32,), "pooling": ("attention",)}
    config = StudyConfig(trials=2, folds=2, outer_folds=0, members=1, settings=settings)
    tune(tiny.cohort, tiny.cache, tmp_path / "s", config, "cpu")
    shown = written(tmp_path / "s", tmp_path / "r.html")
    first = text_of(shown.partition('id="scores"')[0])
    assert "This study has no honest score." in first and "-nested" in first
    attention = read_predictions(tmp_path / "s" / "attention.csv")
    np.testing.assert_allclose(attention.groupby("patient_id")["attention"].sum(), 1, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--trials 3 --folds 3 --members 2 --epochs 20 --outer-folds 3 --seed 4",
        "--objective auc --threshold half --sampler random --pruner none --sensitivity 0.95 --prevalence 0.3",
        "--set pooling=mean,top-k --set class_weights=false --set learning_rate=0.0001234567890123,0.1",
        "--preset founding",
        "--preset founding --objective log_loss --set weight_decay=0.0,1e-05 --set batch_size=8",
        "--quick",
    ],
)
def test_the_commands_to_run_next_are_of_the_same_study(options: str, study: Path) -> None:
    made = read_contents(study)
    told = ["c.toml", "--features", "f", "--study", "s", *options.split()]
    config = mil_tune._config(mil_tune._parser().parse_args(told))
    contents = replace(made, study=replace(made.study, config=config))
    honest, first_look = contents, replace(contents, scores={**made.scores, "outer": None})
    for each, changed in ((honest, {"repeats": 3}), (first_look, {"outer_folds": 5})):
        lines = [shlex.split(line) for _, line in steps(each, False) if line.startswith("mil-tune ")]
        proposed = [mil_tune._config(mil_tune._parser().parse_args(words[1:])) for words in lines]
        assert proposed == [replace(config, **changed)]


@pytest.mark.parametrize(("count", "violet"), [(3, False), (5, True)])
def test_few_trials_have_no_best_fifth_and_slices_name_their_axes(
    count: int, violet: bool, study: Path
) -> None:
    names = ["attention", "gated-attention"] * 3
    rows = [(place, f"{place}.5", "COMPLETE", names[place]) for place in range(count)]
    trials = pd.DataFrame(rows, columns=["number", "value", "state", "pooling"])
    contents = replace(read_contents(study), trials=trials)
    with style():
        parallel, (pooling,) = parallel_figure(contents), slice_figures(contents)
    assert parallel is not None and ("violet" in parallel.caption) == violet
    assert ("var(--accent)" in parallel.svg) == violet
    texts = {each.text: each.get("text-anchor") for each in ElementTree.fromstring(pooling.svg).iter("text")}
    assert texts["gated-attention"] == "end" and texts["attention"] != "end"
    assert "Balanced log loss" in texts


def test_the_configuration_to_copy_is_what_the_search_found(study: Path, html: str) -> None:
    from mil_toolkit.config import parse_settings

    (line,) = re.findall(r"<code>((?:--set [^<]*))</code>", html)
    found = parse_settings([each for each in line.split() if each != "--set"])
    best = json.loads((study / "best.json").read_text())["parameters"]
    assert {name: values[0] for name, values in found.items()} == best


def test_every_metadata_column_is_shown_by_class(html: str) -> None:
    data = html.partition('id="data"')[2].partition('id="attention"')[0]
    heads = re.findall(r"<h3>([^<]+)</h3>", data)
    expected = [
        "Patients of each class",
        "age, years",
        "sex",
        "lymphocyte_count, 10^9/L",
        "Images of a patient",
    ]
    assert heads[:5] == expected and "The saturation mask" in heads


def test_an_ablation_with_masked_features_is_compared(tiny: Tiny, copied: Path, tmp_path: Path) -> None:
    masked = Path(
        shutil.copytree(tiny.features, tmp_path / tiny.features.name.replace("32-", "32-saturation-mask-"))
    )
    ablate(tiny.cohort, [tiny.cache, FeatureCache.open(masked)], copied, None, "cpu")
    shown = written(copied, tmp_path / "r.html")
    mask = text_of(shown.partition("The saturation mask")[2].partition('id="attention"')[0])
    assert "As they are" in mask and "With the mask" in mask and "with the mask minus as they are" in mask
    outer = json.loads((copied / "scores.json").read_text())["outer"]["auc"]
    assert mask.count(f"{outer['value']:.3f}") >= 2  # the copied features give the same scores
    table = text_of(shown.partition('id="ablation"')[2])
    for variant in ("full", "metadata-only", "pooling-mean", masked.name):
        assert variant in table


def test_a_study_of_metadata_alone_has_a_report(tiny: Tiny, tmp_path: Path) -> None:
    config = StudyConfig(trials=2, folds=2, outer_folds=2, members=1, settings={"epochs": (2,)})
    tune(tiny.cohort, None, tmp_path / "s", config, "cpu")
    shown = written(tmp_path / "s", tmp_path / "r.html")
    assert "there is no attention" in shown and not thumbnails(shown)
    assert len(re.findall(r"<li class=\"case", shown)) == 24


def test_an_older_study_without_what_newer_ones_keep_has_a_report(copied: Path, tmp_path: Path) -> None:
    for name in ("patients.json", "sources.json", "audit.json"):
        (copied / name).unlink()
    for each in copied.glob("outer/*/attention.csv"):
        each.unlink()
    shutil.rmtree(copied / "epochs")
    shown = written(copied, tmp_path / "r.html")
    assert "older version" in shown and "keeps no attention" in shown and not thumbnails(shown)


def test_a_broken_file_is_told(copied: Path, tmp_path: Path) -> None:
    (copied / "scores.json").write_text("{")
    with pytest.raises(DataError, match=r"scores\.json cannot be read"):
        write_report(copied, tmp_path / "r.html")


# The gallery.


def test_the_worst_mistakes_come_first_with_every_patient_once(tiny: Tiny, study: Path) -> None:
    found = cases(read_contents(study), Naming(False))
    assert sorted(case.name for case in found) == sorted(tiny.cohort.labelled().patient_ids)
    assert found == sorted(found, key=lambda case: (-case.wrong, -case.error))
    predictions = read_predictions(study / "predictions.csv").set_index("patient_id")
    for case in found:
        row = predictions.loc[case.name]
        assert case.wrong == (row["label"] != row["prediction"]) and case.probability == row["probability"]


def test_images_are_ranked_by_the_attention_of_who_never_saw_them(study: Path) -> None:
    attention = pd.concat(map(read_predictions, study.glob("outer/*/attention.csv")))
    for case in cases(read_contents(study), Naming(False)):
        expected = attention[attention["patient_id"] == case.name].sort_values("attention", ascending=False)
        shown = (*case.highest, *case.lowest)  # all of them, as bags are small
        assert [each.rank for each in shown] == list(range(1, len(expected) + 1))
        np.testing.assert_allclose([each.attention for each in shown], expected["attention"])
        assert case.effective == pytest.approx(1 / (expected["attention"] ** 2).sum())


def test_a_pooling_that_weighs_all_alike_shows_no_ranks(copied: Path, tmp_path: Path) -> None:
    for path in copied.glob("outer/*/attention.csv"):
        table = read_predictions(path)
        sizes = table.groupby("patient_id")["attention"].transform("size")
        publish_table(path, table.assign(attention=1 / sizes))
    shown = written(copied, tmp_path / "r.html")
    assert "which all weigh the same" in shown and "Highest attention" not in shown


def test_thumbnails_hold_nothing_of_the_files_but_the_pixels(
    tiny: Tiny, tmp_path: Path, copied: Path
) -> None:
    cohort = Path(shutil.copytree(tiny.cohort_toml.parent, tmp_path / "cohort"))
    exif = Image.Exif()
    exif[0x010E] = "TAKEN OF JANE DOE"  # ImageDescription
    for path in cohort.glob("images/*/*.jpg"):
        with Image.open(path) as image:
            image.save(path, exif=exif, comment=b"JANE DOE AGAIN")
    toml = str(cohort / "cohort.toml")
    rewrite(copied / "sources.json", lambda told: told.update(cohort=toml))
    changed = write_report(copied, tmp_path / "changed.html")
    assert "changed since they were embedded" in changed.notes[0]  # which the digests in the cache tell
    assert not thumbnails((tmp_path / "changed.html").read_text())
    rewrite(copied / "sources.json", lambda told: told.update(features="gone"))
    found = thumbnails(written(copied, tmp_path / "r.html"))
    assert len(found) > 24
    for content in found:
        assert b"JANE" not in content and b"Exif" not in content
        with Image.open(io.BytesIO(content)) as image:
            assert not image.getexif() and image.size[0] in (104, 160)


def test_without_the_images_the_report_lives_on_the_cache_and_says_so(
    copied: Path, tmp_path: Path, html: str
) -> None:
    rewrite(copied / "sources.json", lambda told: told.update(cohort="gone/cohort.toml"))
    report = write_report(copied, tmp_path / "r.html")
    shown = (tmp_path / "r.html").read_text()
    assert not thumbnails(shown) and "the images cannot be reached" in text_of(shown)
    assert len(report.notes) == 1 and "gone/cohort.toml" in report.notes[0]
    kept = re.compile(r"<b>#\d+</b> [\d.]+ %")
    assert kept.findall(shown) == kept.findall(html)


def test_what_finds_no_room_is_left_out_from_the_least_interesting_on(
    study: Path, tmp_path: Path, html: str
) -> None:
    bare = len(html) - sum(
        len(each) for each in re.findall(r"data:image/jpeg[^\"]+", html.partition('id="cases"')[2])
    )
    most = (bare + len(html)) // 2
    report = write_report(study, tmp_path / "r.html", most_bytes=most)
    assert report.size <= most and "to keep the file small" in report.notes[0]
    each = (tmp_path / "r.html").read_text().partition('id="cases"')[2].split('<li class="case')[1:]
    have = ["data:image" in case for case in each]
    assert have == sorted(have, reverse=True) and 0 < sum(have) < 24
    left = int(re.findall(r"\d+", report.notes[0])[0])
    assert left == 24 - sum(have)


# Anonymous.


def test_an_anonymous_report_names_nobody(tiny: Tiny, copied: Path, tmp_path: Path) -> None:
    place = ["P001/000.jpg = P002/001.jpg", "P003"]
    finding = {"kind": "missing values", "level": "note", "text": "Some.", "advice": "", "where": place}
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
    rewrite(copied / "sources.json", lambda told: told.update(cohort="JANE/DOE.toml"))
    assert "JANE" not in written(copied, tmp_path / "r.html", anonymise=True)
    assert not [age for age in ages if f"age</bdi> <bdi>{age}" in gallery]


# Hostile names.


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    study, names = hostile_study(tmp_path)
    shown = written(study, tmp_path / "r.html")
    assert shown.count("<script>") == 1 and "<img src=x" not in shown and "<b>" not in text_of(shown)
    root = shown.partition("<script>")[0]
    assert not set("\u202e\u200f") & set(root)
    for name in names:
        assert name not in root or name.isprintable()
    for svg in re.findall(r"<svg class=\"chart.*?</svg>", shown, re.DOTALL):
        ElementTree.fromstring(svg)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "'=", "''-"])
def test_a_formula_in_a_csv_is_text_and_comes_back_as_it_was(start: str, tmp_path: Path) -> None:
    patient = f"{start}1+cmd|' /C calc'!A0"
    table = pd.DataFrame({"patient_id": [patient, "P1", "'quoted'"], "image": ["=x.png", "-y.png", "z.png"]})
    table["attention"] = [-0.5, 0.25, 0.25]
    publish_table(tmp_path / "t.csv", table)
    raw = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    cells = [*raw["patient_id"], *raw["image"]]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert raw["patient_id"][1:].tolist() == ["P1", "'quoted'"] and raw["attention"][0] == "-0.5"
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "t.csv"), table, check_dtype=False)


# Figures: oracles.


@pytest.fixture(name="table")
def _table() -> Table:
    random = np.random.default_rng(3)
    labels = (np.arange(60) % 3 > 0).astype(int)
    probabilities = np.round(np.clip(random.normal(0.35 + 0.3 * labels, 0.2, (2, 60)), 0.01, 0.99), 2)  # ties
    ids = tuple(f"P{number:02d}" for number in range(60))
    return Table(ids, labels, np.zeros((2, 60)), probabilities, probabilities > 0.5)


def weighted_roc(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    false, true, _ = roc_curve(labels, probabilities, sample_weight=weights, drop_intermediate=False)
    return np.array([true[false <= each + 1e-9].max() for each in GRID])


def weighted_precision(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    precision, recall, _ = precision_recall_curve(labels, probabilities, sample_weight=weights)
    # Recall falls along the thresholds: the highest one that reaches a recall stands last.
    return np.array([precision[:-1][recall[:-1] >= max(each, 1e-6) - 1e-9][-1] for each in GRID])


@pytest.mark.parametrize(("curve", "oracle"), [(roc, weighted_roc), (precision_recall, weighted_precision)])
def test_curves_and_bands_are_those_of_scikit_learn_under_the_draws(
    curve: Callable[..., Any],
    oracle: Callable[..., np.ndarray],
    table: Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = draw_patients(table.labels, draws=40)
    monkeypatch.setattr("mil_toolkit.report.curves.draw_patients", lambda labels: draws)
    found = curve(table)
    alone = [oracle(table.labels, each, np.ones(60)) for each in table.probabilities]
    np.testing.assert_allclose(found.values, np.mean(alone, axis=0))
    drawn = [np.mean([oracle(table.labels, p, w) for p in table.probabilities], axis=0) for w in draws]
    band = [percentile_interval(np.array(drawn)[:, place]) for place in range(len(GRID))]
    np.testing.assert_allclose(np.stack([found.low, found.high], 1), band)


def test_the_score_of_a_fold_is_that_of_its_patients_alone(study: Path) -> None:
    contents = read_contents(study)
    predictions = contents.predictions
    expected = [roc_auc_score(each["label"], each["probability"]) for _, each in predictions.groupby("fold")]
    assert figures.fold_scores(contents.table, 0, "auc") == pytest.approx(expected)
    one_class = replace(contents.table, folds=contents.table.labels[None].astype(float))
    assert np.isnan(figures.fold_scores(one_class, 0, "auc")).all()


def test_importance_finds_the_parameter_that_matters(copied: Path) -> None:
    random = np.random.default_rng(0)
    rates, decays = 10 ** random.uniform(-3.3, -1.7, 40), 10 ** random.uniform(-3, 0, 40)
    trials = pd.DataFrame({"number": range(40), "value": np.log(rates) ** 2, "state": "COMPLETE"})
    trials.assign(learning_rate=rates, weight_decay=decays).to_csv(copied / "trials.csv", index=False)
    found = importances(read_contents(copied))
    assert list(found) == ["learning_rate", "weight_decay"] and found["learning_rate"] > 0.8
    trials[:9].to_csv(copied / "trials.csv", index=False)
    assert importances(read_contents(copied)) == {}


def test_a_figure_takes_its_colours_from_the_page_and_its_text_as_it_is() -> None:
    with style():
        figure, axes = canvas()
        axes.plot([0, 1], color=COLOURS["accent"])
        axes.set_title("$x_1$ <b> & \u05d0")
        svg = to_svg(figure, "name", 'An "alternative" <text>')
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == 'An "alternative" <text>'
    assert "$x_1$ <b> & \u05d0" in [each.text for each in root.iter("text")]
    assert "var(--accent)" in svg and COLOURS["accent"] not in svg
    assert not [
        each for each in root.iter() if "style" in each.attrib or each.tag in ("style", "script", "metadata")
    ]
