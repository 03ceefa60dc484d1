"""The recipes of containers: what they copy suffices, and they neither run as root nor hold weights."""

import re

import pytest
import torch
from support.paths import ROOT

NEEDED = {"pyproject.toml", "setup.cfg", "README.md", "LICENSE", "mil_toolkit"}


def test_docker_sees_and_copies_what_the_package_is_built_from_and_nothing_else() -> None:
    recipe = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE) for name in line.split()]
    seen = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(copied) == set(seen) == NEEDED


def test_every_image_ends_as_a_user_without_rights_and_runs_mil() -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[2:]
    assert {re.match(r"base AS (\w+)\n", stage)[1] for stage in stages} == {"cpu", "cuda"}  # type: ignore[index]
    for stage in stages:
        assert re.findall(r"^USER (\w+)$", stage, re.MULTILINE) == ["1000"]
        assert '\nENTRYPOINT ["mil"]\n' in stage


def test_a_user_without_a_home_keeps_downloads_in_the_folder_of_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`docker run --user` with an id that the image does not know leaves HOME=/, which is not writable."""
    base, *stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    (variable, folder) = re.findall(r"^ENV (XDG_\w+)=(\S+)$", base, re.MULTILINE)[0]
    assert all("\nWORKDIR /data\n" in stage for stage in stages)
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv(variable, folder)
    assert torch.hub.get_dir() == "/data/.cache/torch/hub"


def test_the_recipe_of_apptainer_copies_the_same_files_and_has_the_same_base() -> None:
    recipe, docker = (ROOT / "apptainer.def").read_text(), (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^    (\S+) /src/\1$", recipe, re.MULTILINE)) == NEEDED
    assert re.findall(r"^From: (\S+)$", recipe, re.MULTILINE) == re.findall(
        r"^FROM (\S+:\S+)", docker, re.MULTILINE
    )


def test_no_recipe_fetches_weights() -> None:
    for name in ("Dockerfile", "apptainer.def"):
        assert not re.search(r"offline|\.pth|safetensors|efficientnet|curl|wget", (ROOT / name).read_text())
