"""The notebooks run from beginning to end on small cohorts, and are stored without outputs."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.paths import ROOT, installed
from support.programs import installed_programs
from support.studies import Tiny

import mil_toolkit

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
COMMANDS = ("init", "extract", "tune", "fit", "report", "predict")
OPTIONS = {
    "EXTRACT": "--backbone resnet18 --weights random --image-size 32",
    "TUNE": "--trials 1 --epochs 2 --folds 2 --outer-folds 2 --members 1 --workers 1",
}
RUN = """
import sys
import nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=None, kernel_name="python3").execute()
nbformat.write(book, "executed.ipynb")
"""


@pytest.fixture(scope="module", name="programs")
def _programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the commands of this source tree as programs."""
    folder = tmp_path_factory.mktemp("programs")
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from mil_toolkit.cli.mil import main; main()"
    (folder / "mil").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{script}" "$@"\n')
    (folder / "mil").chmod(0o755)
    with installed_programs(folder, COMMANDS):
        yield folder


def cells(name: str, kind: str = "code") -> list[dict[str, Any]]:
    book = json.loads((ROOT / "examples" / name).read_text())
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def run(name: str, folder: Path, programs: Path, variables: Mapping[str, str]) -> str:
    """Run a notebook in a folder, and return the text of its outputs."""
    for module in ("nbclient", "ipykernel"):
        installed(module)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(ROOT / "examples" / name)],
        cwd=folder,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **OPTIONS, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = [output for cell in json.loads((folder / "executed.ipynb").read_text())["cells"]
               for output in cell.get("outputs", ())]  # fmt: skip
    texts = [output.get("text") or output.get("data", {}).get("text/plain") for output in outputs]
    return "\n".join("".join(text) for text in texts if text)


def test_the_notebook_of_the_challenge_ends_with_a_submission(
    tiny: Tiny, programs: Path, tmp_path: Path
) -> None:
    """On a drawn cohort in the layout of the challenge, in a folder that the notebook only reads."""
    source, mounted = tiny.cohort_toml.parent, tmp_path / "input" / "3md3070-dlmi"
    table = pd.read_csv(source / "patients.csv", dtype=str, keep_default_na=False)
    labels = table["DIAGNOSIS"].map({"tumoral": "1", "reactive": "0", "": "-1"})
    mounted.mkdir(parents=True)
    table.assign(DIAGNOSIS=labels, BIRTH=table["BIRTH"].str.replace("/", "-")).rename(
        columns={"DIAGNOSIS": "LABEL", "SEX": "GENDER", "BIRTH": "DOB", "LYMPHOCYTES": "LYMPH_COUNT"}
    ).to_csv(mounted / "clinical_annotation.csv", index=False)
    for part, chosen in (("trainset", labels != "-1"), ("testset", labels == "-1")):
        for patient in table.loc[chosen, "ID"]:
            shutil.copytree(source / "images" / patient, mounted / part / patient)
    working = tmp_path / "working"
    working.mkdir()
    before = sorted(mounted.rglob("*"))

    text = run("lymphocytosis.ipynb", working, programs, {"INPUT": str(mounted.parent), "PACKAGE": ""})

    submission = pd.read_csv(working / "submission.csv")
    assert list(submission.columns) == ["ID", "LABEL"] and {*submission["LABEL"]} <= {0, 1}
    assert {*submission["ID"]} == {*table.loc[labels == "-1", "ID"]}
    assert (working / "attention.csv").exists() and (working / "studies/challenge/report.html").exists()
    assert f"mil_toolkit {mil_toolkit.__version__}" in text
    assert "outer low" in text and "balanced_accuracy" in text and "ID  LABEL" in text
    assert sorted(mounted.rglob("*")) == before


def code_cell(words: str) -> str:
    """Return the only code cell of the challenge's notebook that contains these words."""
    (source,) = (text for cell in cells("lymphocytosis.ipynb") if words in (text := "".join(cell["source"])))
    return source


def execute(source: str, names: dict[str, Any]) -> None:
    """Run the source of a code cell, which assigns variables to `names`."""
    exec(source, names)  # noqa: S102 - a file of this repository


def test_without_the_data_of_the_competition_the_notebook_says_what_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INPUT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"not below .*: add the data of the competition"):
        execute(code_cell('clinical_annotation.csv")'), {"os": os, "Path": Path})


@pytest.mark.parametrize("with_outer", [True, False])
def test_the_notebook_shows_scores_with_and_without_outer_folds(
    with_outer: bool, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = json.loads((tiny.study / "scores.json").read_text())
    assert scores["outer"]
    study = tmp_path / "studies" / "challenge"
    study.mkdir(parents=True)
    (study / "scores.json").write_text(json.dumps(scores if with_outer else {**scores, "outer": None}))
    monkeypatch.chdir(tmp_path)
    body, _, last = code_cell("scores.json").rpartition("\n")
    names: dict[str, Any] = {"Path": Path}
    execute(body, names)
    shown = eval(last, names)
    assert ("outer value" in shown) == with_outer and shown["inner value"].notna().any()


@pytest.mark.parametrize("place", ["wheel", "repository", "neither"])
def test_the_notebook_installs_a_wheel_or_the_repository_that_contains_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip` and `mil` are scripts that print their last argument."""
    uploaded, working, programs = (
        tmp_path / "input" / "mine",
        tmp_path / "project" / "examples",
        tmp_path / "bin",
    )
    for folder in (uploaded, working, programs):
        folder.mkdir(parents=True)
    for program in ("pip", "mil"):
        (programs / program).write_text('#!/bin/sh\nfor last; do :; done; echo "$last"\n')
        (programs / program).chmod(0o755)
    wheel, project = uploaded / "mil_toolkit-1.0-py3-none-any.whl", working.parent / "pyproject.toml"
    if place != "neither":
        (wheel if place == "wheel" else project).touch()
    monkeypatch.chdir(working)
    monkeypatch.setattr(os, "environ", {"INPUT": str(tmp_path / "input")})
    execute(code_cell("setdefault"), {})
    variables = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.defpath}"}
    script = code_cell("pip install").removeprefix("%%bash\n")
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True, check=False)
    if place == "neither":
        assert done.returncode == 2 and "No wheel of mil_toolkit is below" in done.stderr
    else:
        installed_from = wheel if place == "wheel" else working.parent
        assert (done.returncode, done.stdout) == (0, f"{installed_from}\n--version\n")


def test_the_notebook_describes_the_challenge_as_the_example_does() -> None:
    (written,) = (
        "".join(cell["source"])
        for cell in cells("lymphocytosis.ipynb")
        if cell["source"][0].startswith("%%writefile lymphocytosis.toml")
    )
    example = (ROOT / "examples" / "lymphocytosis.toml").read_text()
    assert tomllib.loads(written.partition("\n")[2]) == tomllib.loads(example)


def test_the_notebook_of_own_data_ends_with_a_report_and_predictions(
    tiny: Tiny, programs: Path, tmp_path: Path
) -> None:
    source = tiny.cohort_toml.parent
    places = {"TABLE": str(source / "patients.csv"), "IMAGES": str(source / "images")}
    text = run("own_data.ipynb", tmp_path, programs, places)
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert {*predictions["patient_id"]} == {*tiny.cohort.patient_ids}
    assert (tmp_path / "studies/first/report.html").exists()
    assert "CHECK" in text and "inner value" in text and "outer value" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_explains_its_cells(path: Path) -> None:
    book = json.loads(path.read_text())
    assert book["nbformat"] == 4 and book["metadata"]["kernelspec"]["name"] == "python3"
    for cell in cells(path.name):
        assert cell["outputs"] == [] and cell["execution_count"] is None and cell["metadata"] == {}
    kinds = [cell["cell_type"] for cell in book["cells"]]
    assert kinds[0] == "markdown" and "code code code" not in " ".join(kinds)
    assert sum(pair == ("markdown", "code") for pair in pairwise(kinds)) >= 6
    assert "nested" in "".join("".join(cell["source"]) for cell in cells(path.name, "markdown"))
