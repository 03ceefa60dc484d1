"""The house: every module on its floor, heavy imports where they belong, commands that answer at once."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mil_toolkit"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
COMMANDS = [name for name in MODULES if name.startswith("cli.")]
HEAVY = {"torch", "torchvision", "pandas", "numpy", "sklearn", "scipy", "optuna", "h5py", "matplotlib"}
every_module = pytest.mark.parametrize("name", MODULES)


def floor(name: str) -> float:
    first_line = MODULES[name].read_text().partition("\n")[0]
    match = re.fullmatch(r"# Floor (\d+(?:\.\d+)?): \S.*\.", first_line)
    assert match, f"{name}: the first line {first_line!r} is not '# Floor N: what it holds.'"
    return float(match[1])


def imported(tree: ast.AST) -> set[str]:
    """Full names of the modules that are imported anywhere below this node."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def own(names: set[str]) -> set[str]:
    """Those of the names that are modules of the package, without its name."""
    return {name.removeprefix("mil_toolkit.") for name in names} & set(MODULES)


@every_module
def test_a_module_imports_from_lower_floors_alone(name: str) -> None:
    too_high = {other for other in own(imported(parsed(name))) if floor(other) >= floor(name)}
    assert not too_high


@every_module
def test_only_the_cache_and_its_interop_import_h5py(name: str) -> None:
    heads = {each.partition(".")[0] for each in imported(parsed(name))}
    assert "h5py" not in heads or name in ("features", "interop")


@pytest.mark.parametrize("name", ["hparams", *COMMANDS])
def test_nothing_heavy_is_imported_at_the_top(name: str) -> None:
    top = [node for node in parsed(name).body if isinstance(node, ast.Import | ast.ImportFrom)]
    heads = {each.partition(".")[0] for node in top for each in imported(node)}
    assert not heads & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_imported_without_anything_heavy(name: str) -> None:
    report = f"import sys, mil_toolkit.{name}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
