"""The page of a validation: what it shows of every outcome, hostile names, and a real browser."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.browsers import CUT, EVERYWHERE, NARROW, WIDTH, open_browser, show, violations
from support.other_cohorts import Other
from support.reports import text_of
from support.studies import HOSTILE

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.membership import ANONYMOUS
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.outputs import check_outputs
from mil_toolkit.evaluation.words import with_interval
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.report.page import write_report
from mil_toolkit.study.subgroups import subgroups
from mil_toolkit.validation.layout import lay_out
from mil_toolkit.validation.page import page_output, write_page
from mil_toolkit.validation.validate import Validated, validate

CHOSEN = "intercept+threshold"
CaseOf = Callable[[str], tuple[ModelBundle, Cohort]]


@pytest.fixture(scope="module", name="page")
def _page(validated: Validated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "validation.html"
    assert write_page(path, validated, CHOSEN, Path("recalibrated")) == path.stat().st_size
    return path


@pytest.fixture(scope="module", name="hostile")
def _hostile(validated: Validated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with hostile names of cohort, study, patients, groups and categories, and hostile reasons."""
    count = len(validated.sample.domain)
    names = [f"{HOSTILE[place % len(HOSTILE)]}{place}" for place in range(count)]
    domain = pd.DataFrame(
        {"patient_id": validated.sample.table.patient_ids, "in_domain": False, "reasons": names}
    )
    patients = [
        replace(patient, group=HOSTILE[place % 3], metadata={**patient.metadata, "sex": HOSTILE[place % 4]})
        for place, patient in enumerate(validated.sample.record.patients)
    ]
    stored = replace(validated.sample.record, patients=patients)
    sample = replace(validated.sample, domain=domain, record=stored)
    of_old = {group.level: group for group in validated.record.subgroups}
    some = next(iter(of_old.values()))
    scores = [replace(some, variable=group.variable, level=group.level) for group in subgroups(stored)]
    record = replace(
        validated.record, cohort=HOSTILE[0], study=HOSTILE[1], notes=[HOSTILE[2]], subgroups=scores
    )
    path = tmp_path_factory.mktemp("hostile") / "validation.html"
    write_page(path, replace(validated, record=record, sample=sample), CHOSEN, Path(HOSTILE[4]))
    return path


def test_it_shows_the_flow_both_scores_and_their_difference(validated: Validated, page: Path) -> None:
    text, record = text_of(page.read_text()), validated.record
    assert "In the table 30 Excluded by cohort.toml 1 Without a known outcome 3 Without images 2" in text
    assert "Already in training 4 Scored 20" in text
    assert record.outer is not None
    for score in (record.scores["balanced_accuracy"], record.outer["balanced_accuracy"]):
        assert with_interval(score) in text
    assert with_interval(record.differences["balanced_accuracy"], "+") in text
    standing, refitted = text.index("As it stands The model"), text.index("Refitted here What follows")
    assert standing < text.index("Confusion matrix") < refitted < text.index("Scores after each refit")
    assert "Shift to a stated prevalence of 0.3" in text and "Intercept, then threshold" in text
    assert "recalibrated holds the model with this refit" in text and "20 are needed" in text


def test_the_page_depends_on_nothing_else(validated: Validated, page: Path, tmp_path: Path) -> None:
    write_page(tmp_path / "again.html", validated, CHOSEN, Path("recalibrated"))
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    html = page.read_text()
    assert "http" not in html.replace("http-equiv", "") and html.count("<script") == 1


def test_it_replaces_only_its_like(validated: Validated, page: Path, study_of: Any, tmp_path: Path) -> None:
    copied = tmp_path / "validation.html"
    copied.write_bytes(page.read_bytes())
    check_outputs({"--output": page_output(copied)})
    with pytest.raises(UsageError, match="is not a report"):
        write_report(study_of("binary"), copied)
    for content in (b"", b"<!doctype html><title>mine</title>"):
        copied.write_bytes(content)
        with pytest.raises(UsageError, match="is not a page of mil-validate"):
            check_outputs({"--output": page_output(copied)})


def test_hostile_names_stay_text(hostile: Path) -> None:
    html = hostile.read_text()
    assert html.count("<script") == 1 and "<img src=x" not in html and "onerror=alert" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;0" in html and "{{ 7 * 7 }}{% raw %}" in html
    assert "\u202e" not in html


def test_figures_say_which_refit_they_show_and_a_threshold_has_none(validated: Validated) -> None:
    for chosen, words in (
        (CHOSEN, "The refit shown: Intercept, then threshold."),
        ("slope", "The refit shown: Intercept."),
        ("prevalence", "The refit shown: Shift to a stated prevalence of 0.3."),
    ):
        page = lay_out(validated, chosen)
        assert page.refitted and all(words in chart.caption for chart in (*page.refitted, *page.use))
    page = lay_out(validated, "threshold")
    assert page.refitted == [] and page.use and "refit" not in page.use[0].caption


def test_a_new_bundle_that_recognises_nobody_is_not_said_to_know_the_patients(validated: Validated) -> None:
    about = replace(validated.bundle.about, fitted_on=ANONYMOUS)
    anonymous = replace(validated, bundle=replace(validated.bundle, about=about))
    named, unknown = (lay_out(each, CHOSEN, "new").saved or "" for each in (validated, anonymous))
    assert "now count as known to it" in named and "does not recognise" not in named
    assert "now count as known to it" not in unknown and "does not recognise these patients" in unknown


def test_an_anonymous_page_lists_no_patients(validated: Validated, tmp_path: Path) -> None:
    domain = validated.sample.domain.assign(in_domain=False, reasons="age is 93")
    groups = [group for group in validated.record.subgroups if group.variable != "domain"]
    record = replace(validated.record, subgroups=groups)
    outside = replace(validated, record=record, sample=replace(validated.sample, domain=domain))
    write_page(tmp_path / "named.html", outside, CHOSEN)
    write_page(tmp_path / "anonymous.html", outside, CHOSEN, anonymise=True)
    named, anonymous = ((tmp_path / name).read_text() for name in ("named.html", "anonymous.html"))
    for patient in validated.sample.patients.ids:
        assert f"<bdi>{patient}</bdi>" in named and patient not in anonymous
    assert "age is 93" in named and "age is 93" not in anonymous
    assert "not listed, because this page is anonymous" in anonymous


# In a browser.


@pytest.fixture(scope="module", name="browser")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.mark.parametrize(("size", "scheme"), EVERYWHERE)
def test_the_page_is_accessible_and_fits(
    size: tuple[int, int], scheme: str, browser: Any, page: Path
) -> None:
    show(browser, page, size, scheme)
    assert not violations(browser)
    assert browser.execute_script(WIDTH) <= size[0] and browser.execute_script(CUT) == []


@pytest.mark.parametrize("kind", ["classes", "ordered", "number", "survival"])
def test_the_page_of_every_outcome_is_accessible_and_fits(
    kind: str, browser: Any, case_of: CaseOf, other: Other, tmp_path: Path
) -> None:
    bundle, cohort = case_of(kind)
    validated = validate(bundle, cohort, FeatureCache.open(other.features), ("intercept",))
    write_page(tmp_path / "validation.html", validated, "intercept")
    balanced = "judge a refit by the Brier score" in text_of((tmp_path / "validation.html").read_text())
    assert balanced == (kind in ("classes", "ordered"))
    show(browser, tmp_path / "validation.html", NARROW, "dark")
    assert not violations(browser)
    assert browser.execute_script(WIDTH) <= NARROW[0] and browser.execute_script(CUT) == []


def test_hostile_names_make_no_elements_and_nothing_is_requested(browser: Any, hostile: Path) -> None:
    browser.get_log("performance"), browser.get_log("browser")
    show(browser, hostile, NARROW)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        part["params"]["request"]["url"] for part in messages if part["method"] == "Network.requestWillBeSent"
    ]
    asked = [url for url in asked if not url.startswith("chrome:")]
    assert asked[0] == hostile.as_uri() and all(url.startswith("data:") for url in asked[1:])
    assert browser.get_log("browser") == []
    count = "return document.querySelectorAll(arguments[0]).length"
    assert browser.execute_script(count, "script") == 1 and browser.execute_script(count, "img") == 0
    assert "<script>alert(1)</script>0" in browser.execute_script("return document.body.textContent")
    assert not violations(browser) and browser.execute_script(WIDTH) <= NARROW[0]
