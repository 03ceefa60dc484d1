"""The report in a real browser: no requests, sorting and filtering, keyboard, phone, dark mode, print."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browsers import CUT, EVERYWHERE, NARROW, WIDE, WIDTH, open_browser, show, violations
from support.paths import installed

from mil_toolkit.study.tables import read_predictions

every_look = pytest.mark.parametrize(("size", "scheme"), EVERYWHERE)


@pytest.fixture(scope="module", name="browser")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def shown(browser: Any) -> list[str]:
    """The names of the patients that are visible, in order."""
    script = "return [...document.querySelectorAll('.case:not([hidden])')].map(each => each.dataset.name)"
    return list(browser.execute_script(script))


def events(browser: Any, method: str) -> list[dict[str, Any]]:
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [message["params"] for message in messages if message["method"] == method]


def test_no_label_is_cut_and_notes_keep_a_distance(browser: Any, report: Path) -> None:
    show(browser, report)
    script = """
        const box = each => each.getBoundingClientRect();
        return [...document.querySelectorAll(':is(.grid, .scroll, .pairs) + .note')].map(
            each => box(each).top - box(each.previousElementSibling).bottom);
    """
    gaps = browser.execute_script(script)
    assert browser.execute_script(CUT) == [] and gaps and min(gaps) >= 12


# Nothing is loaded.


@pytest.mark.parametrize("which", ["report", "hostile"])
def test_nothing_is_requested_and_nothing_is_logged(
    which: str, browser: Any, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)
    browser.get_log("performance"), browser.get_log("browser")
    show(browser, path)
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    urls = (each["request"]["url"] for each in events(browser, "Network.requestWillBeSent"))
    asked = [url for url in urls if not url.startswith("chrome:")]  # the browser's own first page
    assert asked[0] == path.as_uri() and all(url.startswith("data:") for url in asked[1:])
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") <= len(asked)


def test_the_policy_blocks_what_is_added(browser: Any, report: Path) -> None:
    show(browser, report)
    add = """
    const done = arguments[0], blocked = [];
    document.addEventListener('securitypolicyviolation', event => blocked.push(event.effectiveDirective));
    const script = document.createElement('script');
    script.textContent = 'window.ran = true';
    document.body.append(script);
    document.body.setAttribute('style', 'color: red');
    const image = document.createElement('img');
    image.src = 'http://127.0.0.1:9/x.png';
    document.body.append(image);
    setTimeout(() => done([window.ran === true, blocked]), 300);
    """
    ran, blocked = browser.execute_async_script(add)
    assert not ran and {"script-src-elem", "style-src-attr", "img-src"} <= set(blocked)
    browser.get_log("browser")


def test_hostile_names_are_shown_literally_and_make_no_elements(browser: Any, hostile: Path) -> None:
    show(browser, hostile)
    count = "return document.querySelectorAll(arguments[0]).length"
    assert browser.execute_script(count, "script") == 1 and browser.execute_script(count, "img[src='x']") == 0
    assert browser.execute_script("return [...document.images].every(each => each.src.startsWith('data:'))")
    names = shown(browser)
    text = browser.execute_script("return document.body.textContent")
    for name in (
        "<script>alert(1)</script>0",
        "\"quoted\" & 'single'2",
        "{{ 7 * 7 }}{% raw %}4",
        "$\\frac{1}{0}$8",
    ):
        assert name in names and name in text
    assert "<b>bad</b>" in text and "two\\nlines7" in names  # on one line, escaped
    assert "$\\frac{1}{0}$" in text or "frac" in text


# The gallery.


def test_patients_are_sorted_by_mouse(browser: Any, report: Path, study: Path) -> None:
    from selenium.webdriver.support.select import Select

    show(browser, report)
    table = read_predictions(study / "predictions.csv").set_index("patient_id")
    first = shown(browser)
    assert sorted(first) == sorted(table.index)
    Select(browser.find_element("id", "sort")).select_by_value("high")
    probabilities = table.loc[shown(browser), "probability"].tolist()
    assert probabilities == sorted(probabilities, reverse=True)
    Select(browser.find_element("id", "sort")).select_by_value("name")
    assert shown(browser) == sorted(table.index)
    Select(browser.find_element("id", "sort")).select_by_value("worst")
    assert shown(browser) == first


def test_patients_are_filtered_by_keyboard(browser: Any, report: Path, study: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, report)
    table = read_predictions(study / "predictions.csv").set_index("patient_id")
    browser.execute_script("document.getElementById('sort').focus()")

    def press(*keys: str) -> None:
        browser.switch_to.active_element.send_keys(*keys)

    press(Keys.TAB)
    press("t")  # tumoral
    positive = set(table.index[table["label"] == 1])
    assert set(shown(browser)) == positive
    assert browser.find_element("id", "shown").text == f"{len(positive)} of 24 patients shown"
    press(Keys.TAB)
    press("m")  # mistakes
    missed = set(table.index[(table["label"] == 1) & (table["prediction"] == 0)])
    assert set(shown(browser)) == missed
    press(Keys.HOME)  # all
    press(Keys.TAB)
    press("p00")
    assert set(shown(browser)) == {patient for patient in positive if patient.startswith("P00")}


def test_the_first_key_skips_the_navigation(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, report)
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("class") == "skip"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.execute_script("return location.hash") == "#overview"


def test_a_command_is_copied_without_a_network(browser: Any, report: Path) -> None:
    show(browser, report)
    button = browser.find_element("css selector", "button[data-copy]")
    button.click()
    later = "return new Promise(done => setTimeout(() => done(arguments[0].textContent), 300))"
    assert browser.execute_script(later, button) == "Copied"
    assert browser.execute_script("return document.activeElement === arguments[0]", button)


# Appearance.


@every_look
def test_the_page_is_accessible(size: tuple[int, int], scheme: str, browser: Any, report: Path) -> None:
    """axe-core finds no serious violation."""
    show(browser, report, size, scheme)
    assert not violations(browser)


@every_look
def test_the_page_of_one_patient_is_accessible_and_loads_nothing(
    size: tuple[int, int], scheme: str, browser: Any, patient_page: Path
) -> None:
    browser.get_log("performance"), browser.get_log("browser")
    show(browser, patient_page, size, scheme)
    asked = [each["request"]["url"] for each in events(browser, "Network.requestWillBeSent")]
    assert all(url.startswith(("data:", "file:", "chrome:")) for url in asked)
    assert browser.get_log("browser") == []
    assert browser.execute_script(WIDTH) <= size[0] and browser.title.startswith("<script>alert(1)<")
    assert browser.execute_script("return document.images.length") > 1
    assert not violations(browser)


@pytest.mark.parametrize(("size", "scheme"), [(NARROW, "dark"), (WIDE, "light")])
@pytest.mark.parametrize("kind", ["classes", "ordered", "number", "survival"])
def test_the_page_of_every_outcome_is_accessible_and_fits(
    kind: str, size: tuple[int, int], scheme: str, browser: Any, study_of: Callable[[str], Path]
) -> None:
    if kind == "survival":
        installed("sksurv")
    show(browser, study_of(kind) / "report.html", size, scheme)
    assert not violations(browser)
    assert browser.execute_script(WIDTH) <= size[0]
    assert browser.execute_script(CUT) == []


def test_events_are_told_from_censored_patients_by_keyboard(
    browser: Any, study_of: Callable[[str], Path]
) -> None:
    from selenium.webdriver.common.keys import Keys

    installed("sksurv")
    study = study_of("survival")
    show(browser, study / "report.html")
    table = read_predictions(study / "predictions.csv").set_index("patient_id")
    browser.execute_script("document.getElementById('sort').focus()")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys("c")  # censored
    assert set(shown(browser)) == set(table.index[table["event"] == 0])
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "filter-name"  # nothing is decided


@pytest.mark.parametrize("which", ["report", "hostile"])
def test_a_phone_scrolls_in_one_direction_only(
    which: str, browser: Any, request: pytest.FixtureRequest
) -> None:
    show(browser, request.getfixturevalue(which), NARROW)
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    assert browser.execute_script(WIDTH) <= NARROW[0]


def test_colours_follow_the_scheme_in_figures_too(browser: Any, report: Path) -> None:
    script = """
    const of = (each, name) => getComputedStyle(each)[name];
    return [of(document.body, 'backgroundColor'), of(document.querySelector('.chart text'), 'fill')];
    """
    looks = []
    for scheme in ("light", "dark"):
        show(browser, report, scheme=scheme)
        looks.append([brightness(each) for each in browser.execute_script(script)])
    (light_page, light_text), (dark_page, dark_text) = looks
    assert light_page > 200 and dark_page < 60
    assert light_text < 130 and dark_text > 150


def brightness(colour: str) -> float:
    return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_it_prints_without_its_controls(browser: Any, report: Path) -> None:
    show(browser, report, scheme="dark", media="print")
    script = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert browser.execute_script(script, "nav") == browser.execute_script(script, ".controls") == "none"
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert brightness(paper) == 255
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 50_000
