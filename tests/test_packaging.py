"""The package: entry points, dependencies, changelog, tox, the README's commands, .gitignore."""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.paths import ROOT, configuration, required
from support.processes import wait_until

import mil_toolkit

DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
}  # distributions named differently from their module
TEST_COMMAND = "python3 -m venv .tox-venv && .tox-venv/bin/pip install tox && .tox-venv/bin/tox"
ALL_CORES = "-n auto --maxprocesses 8 --dist loadfile"  # tests of one file share fixtures and a process
DEMO_COMMAND = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/mil-demo"


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


# The package.


def test_every_command_has_an_entry_point() -> None:
    points = lines(configuration("setup.cfg")["options.entry_points"]["console_scripts"])
    commands = {path.stem for path in (ROOT / "mil_toolkit" / "cli").glob("*.py")} - {
        "__init__",
        "command",
        "one_patient",
    }
    names = {name: name if name == "mil" else f"mil-{name}" for name in commands}
    assert sorted(points) == sorted(f"{names[name]} = mil_toolkit.cli.{name}:main" for name in commands)
    for point in points:
        module, _, function = point.partition(" = ")[2].partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_every_folder_with_code_is_a_package_that_setuptools_includes() -> None:
    setup = configuration("setup.cfg")
    assert setup["options"]["packages"] == "find:"
    assert setup["options.packages.find"]["include"] == "mil_toolkit*"
    for folder in {path.parent for path in (ROOT / "mil_toolkit").rglob("*.py")}:
        assert (folder / "__init__.py").exists()
    assert (ROOT / "mil_toolkit" / "py.typed").exists()


def test_the_version_is_declared_once() -> None:
    declared = configuration("setup.cfg")["metadata"]["version"]
    assert declared == "attr: mil_toolkit.core.version.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", mil_toolkit.__version__)


def test_the_changelog_names_the_version() -> None:
    """Released, or as the next release in the section of unreleased changes, which comes first."""
    sections = re.split(r"^## \[", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    assert sections[0].startswith("Unreleased]\n")
    released = any(section.startswith(f"{mil_toolkit.__version__}] - ") for section in sections[1:])
    assert released or f" {mil_toolkit.__version__}:" in sections[0]
    for section in sections:
        kinds = re.findall(r"^### (\w+)", section, re.MULTILINE)
        assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_imported_distribution_is_required() -> None:
    requirements = {
        re.split(r"[><=]", line)[0]
        for line in lines(configuration("setup.cfg")["options"]["install_requires"])
    }
    imported = {
        head for path in (ROOT / "mil_toolkit").rglob("*.py") for head in heads(ast.parse(path.read_text()))
    }
    foreign = imported - set(sys.stdlib_module_names) - {"mil_toolkit"}
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} == requirements


def heads(tree: ast.AST) -> set[str]:
    """Return the top-level names of all imported modules."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_the_package_itself_imports_nothing_heavy() -> None:
    script = "import sys; before = set(sys.modules); import mil_toolkit; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"mil_toolkit", "mil_toolkit.core", "mil_toolkit.core.version"}


# The set-up.


def test_the_readme_has_both_commands_on_lines_of_their_own() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    assert readme.count(DEMO_COMMAND) == 1 and readme.count(TEST_COMMAND) == 1


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (pattern,) = re.findall(r"grep -E '([^']+)' README\.md", script)
    matches = [line for line in (ROOT / "README.md").read_text().splitlines() if re.search(pattern, line)]
    assert matches == [TEST_COMMAND]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_tox_passes_on_ci() -> None:
    tox = configuration("tox.ini")
    assert lines(tox["tox"]["env_list"].replace(", ", "\n")) == ["lint", "py"]
    assert "CI" in lines(tox["testenv"]["pass_env"].replace(",", "\n"))


def test_tox_checks_style_spelling_types_and_tests() -> None:
    tox = configuration("tox.ini")
    assert lines(tox["testenv"]["commands"]) == [
        "mypy",
        "pytest {posargs:-n auto --maxprocesses 8 --dist loadfile}",
    ]
    assert lines(tox["testenv:lint"]["commands"]) == ["ruff check .", "ruff format --check .", "codespell"]
    assert configuration("setup.cfg")["mypy"]["files"] == "mil_toolkit, tests, benchmarks, docs"
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["line-length"] == 110
    assert {"B", "D101", "D103", "E501", "I", "RUF", "SIM", "UP"} <= set(ruff["lint"]["extend-select"])
    assert ruff["lint"]["per-file-ignores"] == {"tests/**": ["D101", "D103"]}


def test_contributors_install_what_tox_installs() -> None:
    tox, text = configuration("tox.ini"), (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    (extras,) = re.findall(r"^pip install -e '\.\[(.+)\]'$", text, re.MULTILINE)
    assert extras.split(",") == lines(tox["testenv"]["extras"])
    packages = {
        package
        for line in re.findall(r"^pip install (?!-e)(.+)$", text, re.MULTILINE)
        for package in shlex.split(line)
    }
    expected = {*lines(tox["testenv"]["deps"]), *lines(tox["testenv:lint"]["deps"]), "pre-commit"}
    assert packages == expected


@pytest.mark.skipif("TOX_ENV_NAME" not in os.environ, reason="does not run in tox")
def test_tox_has_passed_on_ci() -> None:
    """As in the environment of the process that started tox."""
    process, outside = os.getppid(), environment(os.getppid())
    while "TOX_ENV_NAME" in outside:  # pytest, which starts workers
        process = parent(process)
        outside = environment(process)
    assert os.environ.get("CI") == outside.get("CI")


def environment(process: int) -> dict[str, str]:
    variables = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(variable.partition("=")[::2] for variable in variables)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_environment_of_a_process_and_its_parent_are_read() -> None:
    program = ["sleep", "100"]
    with subprocess.Popen(program, env={"TOX_ENV_NAME": "py", "PATH": os.environ["PATH"]}) as child:
        wait_until(lambda: Path(f"/proc/{child.pid}/cmdline").read_bytes().startswith(b"sleep"))
        assert environment(child.pid)["TOX_ENV_NAME"] == "py" and parent(child.pid) == os.getpid()
        child.kill()


def test_a_missing_requirement_skips_a_test_but_fails_it_under_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert required(tmp_path) == tmp_path
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        required(tmp_path / "absent")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        required(tmp_path / "absent")


# Git.


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("cache/lymphocytosis/spec.json", True),
        ("cache/README.md", False),
        ("studies/first/config.json", True),
        ("studies/README.md", False),
        ("tests/cache/file.py", False),
        ("mil_toolkit/studies/file.py", False),
        ("mil_toolkit/cache.py", False),
        ("demo/cohort.toml", True),
        ("mil_toolkit/demo.py", False),
    ],
)
def test_git_ignores_results_only_at_the_root(path: str, ignored: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    done = subprocess.run(["git", "check-ignore", "-q", path], cwd=tmp_path, check=False)
    assert done.returncode == (0 if ignored else 1)
