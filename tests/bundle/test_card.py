"""The model card: what it contains, and that names in it are shown as text only."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.card import model_card, plain
from mil_toolkit.core.records import from_json, to_json
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.records import PassedOver
from mil_toolkit.study.by_outcome import OUTCOME_STUDIES
from mil_toolkit.study.records import ColumnRecord, StudyScores

HOSTILE = (
    "</table><script>alert(1)</script> [a](javascript:b) ![i](x) `c` **d** | _e_ ~~f~~ &lt; https://g.h"
    " www.i.j\n# K"
)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Rendered(HTMLParser):
    """The tags and the text of a document as a browser would see them."""

    def __init__(self, markdown: str):
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(MARKDOWN.render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name not in ("class", "style")]
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(name="bundle", scope="module")
def _bundle(tiny: Tiny) -> ModelBundle:
    return ModelBundle.load(tiny.bundle)


def card(bundle: ModelBundle, scores: StudyScores | None = None, **about: Any) -> str:
    return model_card(replace(bundle.about, **about), scores or bundle.scores, bundle.head.member_count)


def test_the_folder_holds_the_card_of_its_model(tiny: Tiny, bundle: ModelBundle) -> None:
    assert (tiny.bundle / "README.md").read_text() == card(bundle)


def test_the_card_describes_data_procedure_scores_and_limits(tiny: Tiny, bundle: ModelBundle) -> None:
    rendered = Rendered(card(bundle))
    text = " ".join(rendered.text.split())
    positives, negatives = ((tiny.cohort.labels == label).sum() for label in (1, 0))
    assert bundle.about.features is not None
    for words in (
        f"24 labelled patients with {bundle.about.images} images, of which {positives} are tumoral",
        f"of which {positives} are tumoral and {negatives} reactive",
        "The search tried 2 configurations of the head on 2 folds",
        "not a medical device",
        "mil-predict FOLDER_OF_THIS_CARD new_cohort.toml",
        "resnet18",
        str(bundle.about.features.spec["weight_digest"]),
        tiny.cache.recorded(tiny.cohort.patient_ids)[0],
        "lymphocyte_count",
        "10^9/L",
        "Intended use",
        "Limits",
        "The default configuration was itself chosen on the 90 labelled patients of the lymphocytosis",
    ):
        assert words in text


def test_every_score_has_its_interval_next_to_baselines_and_optimism(tiny: Tiny, bundle: ModelBundle) -> None:
    scores = json.loads((tiny.study / "scores.json").read_text())
    rows = {
        cells[0]: cells[1:]
        for line in card(bundle).splitlines()
        if line.startswith("|")
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    }
    for metric in METRICS:
        for part, cell in zip(("outer", "inner", "optimism"), rows[metric], strict=True):
            score = scores[part][metric]
            shown = [
                "-" if score[each] is None else f"{score[each]:.3f}" for each in ("value", "low", "high")
            ]
            assert cell == "{} ({} to {})".format(*shown)
    assert scores["rivals"].keys() == set(OUTCOME_STUDIES["binary"].rivals)
    for name, gain in scores["gains"].items():
        assert f"{gain['differences']['balanced_accuracy']['value']:+.3f}" in rows[name][2]


def test_a_study_without_outer_folds_has_no_score_to_quote(bundle: ModelBundle) -> None:
    text = card(bundle, replace(bundle.scores, outer=None))
    assert "Balanced accuracy on held-out patients: not evaluated." in text
    assert "nested cross-validation" not in text and "to quote" not in text


def test_defaults_that_were_kept_are_mentioned(bundle: ModelBundle) -> None:
    other = PassedOver(trial=7, lead=0.01, error=0.02)
    for passed_over, expected in ((other, True), (None, False)):
        text = card(bundle, replace(bundle.scores, passed_over=passed_over))
        assert ("The defaults were kept: trial 7 had the best value" in text) == expected
        assert ("on the out-of-fold predictions of the defaults." in text) == expected
    values = to_json(bundle.scores)
    assert isinstance(values, dict)
    older = {name: value for name, value in values.items() if name != "passed_over"}
    assert "were kept" not in card(bundle, from_json(older, StudyScores, Path("scores.json")))


def test_the_card_of_a_model_without_images_mentions_none(bundle: ModelBundle) -> None:
    text = card(bundle, features=None, images=0)
    assert "does not look at images" in text and "blood smear" not in text and "Attention" not in text


def test_the_card_says_what_abstention_stores(bundle: ModelBundle) -> None:
    stored = "`calibration`, holds a number for each prediction of a held-out labelled patient, by class"
    assert stored in card(bundle)
    assert "calibration`, holds" not in card(bundle, calibration=None)


def test_hostile_names_are_shown_as_text(bundle: ModelBundle) -> None:
    assert bundle.about.features is not None
    spec = {**bundle.about.features.spec, "backbone": HOSTILE, "weights": "file"}
    features = replace(bundle.about.features, recorded=[HOSTILE], spec=spec)
    columns = [ColumnRecord(HOSTILE, "number", None, HOSTILE)]
    names = {"study": HOSTILE, "cohort": HOSTILE, "class_names": (HOSTILE, HOSTILE)}
    rendered = Rendered(card(bundle, features=features, columns=columns, **names))
    assert rendered.tags == Rendered(card(bundle)).tags
    assert rendered.text.count(" ".join(HOSTILE.split())) >= 9
    assert rendered.text.count("Limits") == 1


@given(st.text(max_size=40))
def test_any_name_is_one_line_of_plain_text(name: str) -> None:
    rendered = Rendered(f"of {plain(name)} and")
    assert rendered.tags == {"p"}
    expected = "".join(each if each.isprintable() else " " for each in f"of {name} and")
    assert rendered.text.split() == expected.split()


@pytest.mark.parametrize("name", ["lymphocyte_count", "10^9/L", "resnet34-imagenet-224", "Lyon (2020), n. 3"])
def test_usual_names_are_not_escaped(name: str) -> None:
    assert plain(name) == name


def test_the_card_lists_the_items_of_tripod(bundle: ModelBundle) -> None:
    about = bundle.about
    card = model_card(about, bundle.scores, 2)
    assert about.items is not None and "## Items of TRIPOD+AI" in card
    assert all(f"| {item.number} | {item.topic} |" in card for item in about.items)
    assert "TRIPOD" not in model_card(replace(about, items=None), bundle.scores, 2)
