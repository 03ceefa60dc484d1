"""The workflows in .github: what they run exists, actions are pinned, and permissions are minimal."""

import re
from pathlib import Path

import pytest
from support.paths import ROOT, configuration

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


@every_workflow
def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it(path: Path) -> None:
    uses = re.findall(r"uses: (.*)", path.read_text())
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_every_action_has_one_version() -> None:
    uses = {use for path in WORKFLOWS for use in re.findall(r"uses: (.*)", path.read_text())}
    assert len({use.partition("@")[0] for use in uses}) == len(uses)


@every_workflow
def test_a_workflow_may_only_read_and_only_the_upload_may_ask_for_an_identity(path: Path) -> None:
    text = path.read_text()
    assert "\npermissions:\n  contents: read\n\n" in text and "secrets." not in text
    granted = re.findall(r"^ +([\w-]+): write\b", text, re.MULTILINE)
    assert granted == (["id-token"] if path.stem == "release" else [])
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


@every_workflow
def test_every_environment_of_tox_that_a_workflow_runs_exists(path: Path) -> None:
    environments = re.findall(r"run: tox -e (\w+)", path.read_text())
    tox = configuration("tox.ini")
    assert environments
    assert all(name == "py" or f"testenv:{name}" in tox for name in environments)


def test_every_job_of_tests_skips_tests_whose_programs_are_absent() -> None:
    """The runners have neither the programs nor the data that `.ci/run` provides."""
    jobs = re.split(r"\n  (?=\w+:\n)", (ROOT / ".github" / "workflows" / "tests.yml").read_text())
    tests = [job for job in jobs if re.search(r"tox -e (py|lowest|portable)\b", job)]
    assert len(tests) == 3 and all('\n    env:\n      CI: ""' in job for job in tests)


def test_the_matrices_have_every_python_of_the_classifiers() -> None:
    classifiers = configuration("setup.cfg")["metadata"]["classifiers"]
    pythons = re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    matrices = re.findall(r"python: (\[.*\])", text)
    assert [re.findall(r"[\d.]+", matrix) for matrix in matrices] == [pythons] * 2


def test_a_release_begins_with_a_tag_only() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert '\non:\n  push:\n    tags: ["v*"]\n\n' in text
