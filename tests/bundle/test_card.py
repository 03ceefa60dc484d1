"""The model card: what it has to tell, and that no name in it does more than show."""

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support.studies import Tiny

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.card import model_card, plain
from mil_toolkit.evaluation.metrics import METRICS

HOSTILE = "</table><script>alert(1)</script> [a](javascript:b) ![i](x) `c` **d** | _e_ ~~f~~ &lt; https://g.h www.i.j\n# K"
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


def card(bundle: ModelBundle, scores: Mapping[str, Any] | None = None, **about: Any) -> str:
    return model_card({**bundle.about, **about}, scores or bundle.scores, bundle.head.member_count)


def test_the_folder_holds_the_card_of_its_model(tiny: Tiny, bundle: ModelBundle) -> None:
    assert (tiny.bundle / "README.md").read_text() == card(bundle)


def test_the_card_tells_data_procedure_scores_and_limits(tiny: Tiny, bundle: ModelBundle) -> None:
    rendered = Rendered(card(bundle))
    text = " ".join(rendered.text.split())
    positives, negatives = ((tiny.cohort.labels == label).sum() for label in (1, 0))
    for told in (
        f"24 labelled patients with {bundle.about['images']} images, of these {positives} tumoral and {negatives} reactive",
        "The search tried 2 configurations of the head on 2 folds",
        "not a medical device",
        "mil-predict FOLDER_OF_THIS_CARD new_cohort.toml",
        "resnet18",
        bundle.about["features"]["spec"]["weight_digest"],
        tiny.cache.recorded(tiny.cohort.patient_ids)[0],
        "lymphocyte_count",
        "10^9/L",
        "Intended use",
        "Limits",
    ):
        assert told in text


def test_every_score_stands_with_its_interval_beside_rivals_and_optimism(
    tiny: Tiny, bundle: ModelBundle
) -> None:
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
    assert scores["rivals"].keys() == {"metadata_logistic", "bag_size", "mean_logistic"}
    for name, gain in scores["gains"].items():
        assert f"{gain['differences']['balanced_accuracy']['value']:+.3f}" in rows[name][2]


def test_a_study_without_outer_folds_says_so(bundle: ModelBundle) -> None:
    text = card(bundle, {**bundle.scores, "outer": None})
    assert "Expected score: not evaluated." in text and "Expected balanced accuracy" not in text


def test_the_defaults_that_were_kept_are_told(bundle: ModelBundle) -> None:
    kept = {"trial": 7, "lead": 0.01, "error": 0.02}
    for told, expected in ((kept, True), (None, False)):
        text = card(bundle, {**bundle.scores, "passed_over": told})
        assert ("The defaults were kept: trial 7 had the best value" in text) == expected
        assert ("predictions of the defaults, calibration" in text) == expected
    older = {name: value for name, value in bundle.scores.items() if name != "passed_over"}
    assert "were kept" not in card(bundle, older)


def test_a_model_without_images_speaks_of_none(bundle: ModelBundle) -> None:
    text = card(bundle, features=None, images=0)
    assert "looks at no images" in text and "blood smear" not in text and "Attention" not in text


def test_hostile_names_show_and_do_nothing_else(bundle: ModelBundle) -> None:
    features = {**bundle.about["features"], "recorded": [HOSTILE]}
    features["spec"] = {**features["spec"], "backbone": HOSTILE, "weights": "file"}
    columns = [{"name": HOSTILE, "kind": "number", "transform": None, "unit": HOSTILE}]
    names = {"study": HOSTILE, "cohort": HOSTILE, "class_names": [HOSTILE, HOSTILE]}
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
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert plain(name) == name
