"""The documentation site: it builds without a warning, has every part of the code, and needs no network."""

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from reference_texts import GENERATED, escaped, summary_of
from site_pages import with_definitions, with_local_links, with_schemes
from support.browsers import open_browser
from support.parsers import actions, parser_of
from support.paths import COMMANDS, ROOT, configuration, installed

import mil_toolkit
from mil_toolkit.backbones.backbones import BACKBONES
from mil_toolkit.backbones.encoders import ENCODERS
from mil_toolkit.cli import mil
from mil_toolkit.cohort.declaration import COHORT_KEYS, METADATA_KEYS, SPLIT_KEYS, STUDY_KEYS
from mil_toolkit.cohort.kinds import KINDS as METADATA_KINDS
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.metrics import METRIC_NAMES
from mil_toolkit.config.presets import PRESETS, STARTS
from mil_toolkit.config.tunable import tunables
from mil_toolkit.model.poolings import POOLINGS
from mil_toolkit.outcomes.kinds import KINDS as OUTCOMES

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))


@pytest.fixture(scope="module", name="site")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built as `tox -e docs` builds it."""
    for module in ("sphinx", "myst_parser", "furo"):
        installed(module)
    folder = tmp_path_factory.mktemp("site")
    command = configuration("tox.ini")["testenv:docs"]["commands"]
    program, *flags = command.replace("{env_tmp_dir}", str(folder)).split()[:-1]
    assert program == "sphinx-build" and {"-W", "-n"} <= {*flags} and flags[-1] == "docs"
    argv = [sys.executable, "-m", "sphinx", "-q", *flags[:-1], str(DOCS), str(folder / "html")]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder / "html"


@pytest.fixture(scope="module", name="objects")
def _objects(site: Path) -> set[tuple[str, str]]:
    """The type and the name of every object that the site defines, from its inventory."""
    lines = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    matches = [re.match(r"(.+?) (\w+:\w+) -?\d+ ", line) for line in lines]
    return {(match[2], match[1]) for match in matches if match}


def missing_words(page: Path, section: str, words: Iterable[str]) -> list[str]:
    """Return the words that the section of a page with this id does not show as code."""
    (text,) = re.findall(rf'<section id="{section}">(.*?)</section>', page.read_text(), re.DOTALL)
    shown = {" ".join(re.findall(r">([^<]+)<", each)) for each in re.findall(r"<code.*?</code>", text)}
    return [word for word in words if word not in shown]


def test_every_page_is_built(site: Path) -> None:
    assert [page for page in PAGES if not (site / f"{page}.html").is_file()] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_has_an_entry(name: str, objects: set[tuple[str, str]]) -> None:
    assert name in mil.COMMANDS
    for parser, action in actions(parser_of(name)):
        program = parser.prog.replace(" ", "-")  # as Sphinx names it
        for option in action.option_strings:
            entry = ("std:cmdoption", f"{program}.{option}")
            assert entry in objects or option in ("-h", "--help"), entry
        if not action.option_strings:
            entry = ("std:cmdoption", f"{program}.{action.metavar or action.dest}")
            assert entry in objects, entry


def test_every_hyperparameter_has_an_entry(objects: set[tuple[str, str]]) -> None:
    entries = {name for kind, name in objects if kind == "std:confval"}
    assert entries == tunables(HeadConfig).keys()


def test_every_public_name_and_method_has_an_entry(objects: set[tuple[str, str]]) -> None:
    documented = {name for kind, name in objects if kind.startswith("py:")}
    assert {f"mil_toolkit.{name}" for name in mil_toolkit.__all__} <= documented
    assert {"mil_toolkit.MILClassifier.predict_proba", "mil_toolkit.FeatureCache.open"} <= documented


@pytest.mark.parametrize(
    ("page", "section", "words"),
    [
        ("cohort", "all-keys", [*COHORT_KEYS, *METADATA_KEYS, *SPLIT_KEYS, *STUDY_KEYS]),
        ("parts", "outcomes", OUTCOMES),
        ("parts", "backbones", [*ENCODERS, *BACKBONES]),
        ("parts", "poolings", POOLINGS),
        ("parts", "metrics", METRIC_NAMES),
        ("parts", "kinds-of-metadata", METADATA_KINDS),
        ("hyperparameters", "presets-and-starting-points", [*PRESETS, *STARTS]),
    ],
)
def test_a_table_has_every_entry_of_the_code(
    site: Path, page: str, section: str, words: Mapping[str, object]
) -> None:
    assert missing_words(site / "reference" / f"{page}.html", section, words) == []


def test_no_page_loads_anything_from_the_network(site: Path) -> None:
    element = re.compile(r"<(?:audio|embed|iframe|img|link|object|script|source|video)\b[^>]*>")
    for path in site.rglob("*.html"):
        for tag in element.findall(path.read_text()):
            assert not re.search(r"""\b(?:src|srcset|href|data)=["']?(?:[a-z]+:)?//""", tag), f"{path}: {tag}"
    for path in (*site.rglob("*.css"), *site.rglob("*.html")):
        assert not re.search(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""", path.read_text()), path


def test_the_site_holds_nothing_of_the_machine_that_built_it(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert str(ROOT) not in path.read_text() and str(Path.home()) + "/" not in path.read_text(), path


def test_the_search_answers_from_files_without_a_request(site: Path, browser: Any) -> None:
    browser.get(f"{(site / 'search.html').as_uri()}?q=hospital+internet")
    script = """
        const done = arguments[0];
        const look = () => {
            const found = [...document.querySelectorAll('#search-results li a')].map(link => link.href);
            const ended = document.querySelector('#search-results .search-summary, #search-results > p');
            found.length && ended ? done(found) : setTimeout(look, 50);
        };
        look();
    """
    browser.set_script_timeout(60)
    found = browser.execute_async_script(script)
    assert any("howto/offline.html" in address for address in found), found
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert (site / "searchindex.js").as_uri() in requests
    assert [url for url in requests if url.startswith(("http:", "https:", "ws:", "wss:"))] == []


@pytest.fixture(scope="module", name="browser")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


# The texts.


def test_a_text_with_the_characters_of_markdown_is_shown_unchanged() -> None:
    markdown_it = installed("markdown_it")
    for text in ("a*b*c", "<b>&amp", "[x](y)", "a_b_c", "`x`", "a|b", "~~x~~", "\\n", "# x", "{x}", "$x$"):
        html = markdown_it.MarkdownIt().enable(["table", "strikethrough"]).render(f"begins {escaped(text)}")
        shown = (
            re.sub(r"</?p>", "", html).strip().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        )
        assert shown == f"begins {text}"


def test_code_in_the_summary_of_a_docstring_is_shown_as_code() -> None:
    class Documented:
        """Values of `a_b*` and a_b, on
        two lines.

        More.
        """

    assert summary_of(Documented) == r"Values of `a_b*` and a\_b, on two lines."


def test_no_argument_states_its_default_twice_or_as_an_object_of_python() -> None:
    entries = GENERATED["commands"]().split("````{option}")
    twice, of_python = r"\(default: [^)]*\) \(default", r"\(default: \w+\("
    assert [entry for entry in entries if re.search(f"{twice}|{of_python}", entry)] == []


@pytest.mark.parametrize("name", GENERATED)
def test_every_generated_text_is_used_by_a_page(name: str) -> None:
    assert sum(f"```{{generated}} {name}\n" in path.read_text() for path in DOCS.rglob("*.md")) == 1


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](../explanation/evidence.md#scores)", "[a](/explanation/evidence.md#scores)"),
        ("[a](../../CHANGELOG.md)", "[a](/project/changelog.md)"),
        ("[a](../../CHANGELOG.md#x)", "[a](/project/changelog.md#x)"),
        ("[a](../../examples/quickstart.py)", "[a](path:../../examples/quickstart.py)"),
        ("[the `[a]` part](../../tests/cuda)", "the `[a]` part"),
        ("[a](#scores)", "[a](#scores)"),
        ("[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("![a](../images/report-light.png)", "![a](../images/report-light.png)"),
    ],
)
def test_links_to_files_of_the_repository_lead_to_pages_or_copies(link: str, expected: str) -> None:
    page, pages = DOCS / "howto" / "slurm.md", {"CHANGELOG.md": "project/changelog"}
    assert with_local_links(f"See {link}.", page.parent, page, pages) == f"See {expected}."


def test_links_of_a_file_outside_the_folder_are_relative_to_that_file() -> None:
    text = "[a](../docs/howto/slurm.md) [b](defaults.py) [c](defaults.md)"
    page, pages = DOCS / "project" / "benchmarks.md", {"benchmarks/defaults.md": "project/defaults"}
    expected = "[a](/howto/slurm.md) [b](path:../../benchmarks/defaults.py) [c](/project/defaults.md)"
    assert with_local_links(text, ROOT / "benchmarks", page, pages) == expected


def test_a_picture_that_comes_in_light_and_dark_follows_the_scheme(tmp_path: Path) -> None:
    for name in ("both-light.png", "both-dark.png", "alone-light.png"):
        (tmp_path / name).touch()
    text = with_schemes("![A, b.](both-light.png)\n\n![C.](alone-light.png)\n", tmp_path)
    assert re.findall(r"{image} (\S+)\n:alt: (.+)\n:class: (.+)\n", text) == [
        ("both-light.png", "A, b.", "only-light"),
        ("both-dark.png", "A, b.", "only-dark"),
    ]
    assert text.endswith("\n\n![C.](alone-light.png)\n")


def test_lines_of_names_in_a_docstring_become_definitions() -> None:
    lines = ["Return x.", "", "a, b: the first", "    and more", "c: the last", "", "Raises E: never."]
    expected = ["``a``, ``b``", "    the first", "    and more", "``c``", "    the last"]
    assert list(with_definitions(lines)) == [*lines[:2], *expected, "", "Raises E: never."]
