"""The page: one file that loads nothing, with hostile names as text."""

import re
from pathlib import Path
from xml.etree import ElementTree

from support.reports import text_of, written
from support.studies import HostileStudy

from mil_toolkit.report.markup import source_of


def test_the_same_folder_gives_the_same_bytes(study: Path, tmp_path: Path, html: str) -> None:
    assert written(study, tmp_path / "again.html") == html


def test_the_file_refers_to_no_other_file(html: str) -> None:
    for tag, attribute, value in re.findall(r"<(\w+)[^>]*?\b(href|src|action|data)=\"([^\"]*)\"", html):
        assert value.startswith(("#", "data:")), (tag, attribute, value[:80])
    assert "@import" not in html and "url(http" not in html


def test_the_policy_allows_only_what_the_file_contains(html: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"{kind} {source_of(inline)}" in policy
    assert not re.search(r"<[^>]+\s(style|on\w+)=", html)  # the policy would forbid these


def test_ids_are_unique_and_all_references_exist(html: str) -> None:
    ids = re.findall(r"\sid=\"([^\"]+)\"", html)
    assert len(ids) == len(set(ids))
    asked = re.findall(r"(?:href=\"#|url\(#|for=\"|aria-labelledby=\")([\w-]+)", html)
    assert asked and set(asked) <= set(ids)


def test_hostile_names_stay_text(hostile_study: HostileStudy, hostile: Path) -> None:
    shown = hostile.read_text()
    assert shown.count("<script>") == 1 and "<img src=x" not in shown and "<b>" not in text_of(shown)
    root = shown.partition("<script>")[0]
    assert not set("\u202e\u200f") & set(root)
    for name in hostile_study.patients:
        assert name not in root or name.isprintable()
    for svg in re.findall(r"<svg class=\"chart.*?</svg>", shown, re.DOTALL):
        ElementTree.fromstring(svg)
