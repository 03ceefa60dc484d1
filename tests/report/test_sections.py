"""What the sections say about a study."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.reports import rewrite, text_of, thumbnails, written
from support.studies import Tiny

from mil_toolkit.cli import tune as mil_tune
from mil_toolkit.config.settings import parse_settings
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.records import publish_record
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.report.contents import read_contents
from mil_toolkit.report.sections.overview import steps
from mil_toolkit.study.ablation import ablate
from mil_toolkit.study.canary_result import Canary
from mil_toolkit.study.tables import read_predictions
from mil_toolkit.study.tune import tune


def test_the_first_screen_shows_the_outer_score_the_baselines_and_the_optimism(
    study: Path, html: str
) -> None:
    scores = json.loads((study / "scores.json").read_text())
    first = text_of(html.partition('id="scores"')[0])
    value = scores["outer"]["balanced_accuracy"]
    assert f"{value['value']:.3f} 95 % interval {value['low']:.3f} to {value['high']:.3f}" in first
    assert "an optimism of" in first and f"{scores['optimism']['balanced_accuracy']['value']:+.3f}" in first
    for words in (
        "Metadata only",
        "Number of images only",
        "Mean embedding",
        "24: 14 tumoral, 10 reactive",
    ):
        assert words in first
    assert "mil-ablate" in first and "no score on held-out patients" not in first


def test_a_study_without_outer_folds_says_prominently_that_it_has_no_score_to_quote(
    tiny: Tiny, tmp_path: Path
) -> None:
    settings = {"epochs": (2,), "hidden": (32,), "pooling": ("attention",)}
    config = StudyConfig(trials=2, folds=2, outer_folds=0, members=1, settings=settings)
    tune(tiny.cohort, tiny.cache, tmp_path / "s", config, "cpu")
    shown = written(tmp_path / "s", tmp_path / "r.html")
    first = text_of(shown.partition('id="scores"')[0])
    assert "This study has no score on held-out patients." in first and "-nested" in first
    attention = read_predictions(tmp_path / "s" / "attention.csv")
    np.testing.assert_allclose(attention.groupby("patient_id")["attention"].sum(), 1, atol=1e-5)


def test_the_report_says_that_the_defaults_were_kept(copied: Path, tmp_path: Path) -> None:
    kept = {"trial": 7, "lead": 0.01, "error": 0.02}
    for other in (kept, None):
        rewrite(copied / "best.json", lambda best, other=other: best.update(passed_over=other))  # type: ignore[misc]
        text = text_of(written(copied, tmp_path / "r.html"))
        assert ("The defaults were kept: trial 7 had the best value" in text) == (other is not None)


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
def test_the_next_commands_repeat_the_options_of_the_study(options: str, study: Path) -> None:
    made = read_contents(study)
    argv = ["c.toml", "--features", "f", "--study", "s", *options.split()]
    config = mil_tune._config(mil_tune._parser().parse_args(argv))
    contents = replace(made, study=replace(made.study, config=config))
    first_look = replace(contents, scores=replace(made.scores, outer=None))
    for variant, changed in ((contents, {"repeats": 3}), (first_look, {"outer_folds": 5})):
        commands = [step.command for step in steps(variant, False)]
        lines = [shlex.split(line) for line in commands if line.startswith("mil-tune ")]
        proposed = [mil_tune._config(mil_tune._parser().parse_args(words[1:])) for words in lines]
        assert proposed == [replace(config, **changed)]


def test_the_options_to_copy_give_the_chosen_configuration(study: Path, html: str) -> None:
    (line,) = re.findall(r"<code>((?:--set [^<]*))</code>", re.sub("</?span>", "", html))
    settings = parse_settings([each for each in line.split() if each != "--set"])
    best = json.loads((study / "best.json").read_text())["parameters"]
    assert {name: values[0] for name, values in settings.items()} == best


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


def test_the_canary_is_shown_with_what_it_does_not_show(copied: Path, html: str, tmp_path: Path) -> None:
    assert "It did not run" in text_of(html)
    for mean, word in ((0.5, "passed"), (0.7, "failed")):
        canary = Canary.of([mean - 0.02, mean, mean + 0.02, mean])
        publish_record(copied / "canary.json", canary)
        shown = written(copied, tmp_path / "r.html")
        text = text_of(shown).partition("The canary: the procedure on shuffled labels")[2]
        assert text.startswith(f" {word} 4 runs on shuffled labels: outer AUC {mean:.3f}, 95 % interval ")
        assert ("does not show that the patients are independent" in text) == canary.passed
        assert ('<li class="leak"><span class="level">failed' in shown) != canary.passed


def test_a_canary_of_an_older_version_is_shown_with_its_interval(copied: Path, tmp_path: Path) -> None:
    old = {
        "aucs": [0.4, 0.6, 0.5],
        "mean": 0.5,
        "deviation": 0.1,
        "p_value": 1.0,
        "level": 0.01,
        "passed": True,
    }
    (copied / "canary.json").write_text(json.dumps(old | {"passed": True}))
    assert "95 % interval 0.252 to 0.748" in text_of(written(copied, tmp_path / "r.html"))


def test_the_report_says_on_whom_the_defaults_were_chosen(html: str) -> None:
    assert "was itself chosen on the 90 labelled patients of the lymphocytosis challenge" in text_of(html)


def test_scores_with_and_without_the_mask_are_compared(tiny: Tiny, copied: Path, tmp_path: Path) -> None:
    masked = Path(
        shutil.copytree(tiny.features, tmp_path / tiny.features.name.replace("32-", "32-saturation-mask-"))
    )
    ablate(tiny.cohort, [tiny.cache, FeatureCache.open(masked)], copied, None, "cpu")
    shown = written(copied, tmp_path / "r.html")
    mask = text_of(shown.partition("The saturation mask")[2].partition('id="attention"')[0])
    assert "Without the mask" in mask and "With the mask" in mask
    assert "With the mask minus without the mask" in mask
    outer = json.loads((copied / "scores.json").read_text())["outer"]["auc"]
    assert mask.count(f"{outer['value']:.3f}") >= 2  # the copied features give the same scores
    table = text_of(shown.partition('id="ablation"')[2])
    for variant in ("full", "metadata-only", "pooling-mean", masked.name):
        assert variant in table


def test_a_study_on_metadata_only_has_a_report(tiny: Tiny, tmp_path: Path) -> None:
    config = StudyConfig(trials=2, folds=2, outer_folds=2, members=1, settings={"epochs": (2,)})
    tune(tiny.cohort, None, tmp_path / "s", config, "cpu")
    shown = written(tmp_path / "s", tmp_path / "r.html")
    assert "there is no attention" in shown and not thumbnails(shown)
    assert len(re.findall(r"<li class=\"case", shown)) == 24
