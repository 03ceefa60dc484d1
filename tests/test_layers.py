"""The layout: imports only from earlier folders, no circular imports, heavy imports only where allowed."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mil_toolkit"
# Each folder, or module beside the folders, imports only from those before it.
LAYERS = (
    "core",
    "config",
    "evaluation",
    "outcomes",
    "cohort",
    "backbones",
    "model",
    "features",
    "training",
    "search",
    "study",
    "bundle",
    "report",
    "validation",
    "estimator",
    "demo",
    "cli",
)
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
CONFIGURATIONS = [name for name in MODULES if name.startswith("config.")]
COMMANDS = [name for name in MODULES if name.startswith("cli.")]
HEAVY = {"torch", "torchvision", "pandas", "numpy", "sklearn", "scipy", "optuna", "h5py", "matplotlib"}
every_module = pytest.mark.parametrize("name", MODULES)


def imported(tree: ast.AST) -> set[str]:
    """Return the full names of the modules that are imported anywhere below this node."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def own(names: set[str]) -> set[str]:
    """Return the names that are modules of the package, without the package's name."""
    return {name.removeprefix("mil_toolkit.") for name in names} & set(MODULES)


def layer(name: str) -> str:
    return name.partition(".")[0]


def circles(imports: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield the modules that import themselves through others."""
    for start in imports:
        reached, open_ends = set[str](), [start]
        while open_ends:
            following = imports[open_ends.pop()] - reached
            reached |= following
            open_ends += following
        if start in reached:
            yield start


def test_every_layer_is_listed_once_and_has_modules() -> None:
    assert set(LAYERS) == {layer(name) for name in MODULES}
    assert len(set(LAYERS)) == len(LAYERS)


@every_module
def test_a_module_imports_only_from_its_own_and_earlier_layers(name: str) -> None:
    place = LAYERS.index(layer(name))
    assert not {other for other in own(imported(parsed(name))) if LAYERS.index(layer(other)) > place}


def test_no_import_is_circular() -> None:
    imports = {name: own(imported(parsed(name))) for name in MODULES}
    assert not list(circles(imports))
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == ["a", "b", "c"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_folder_describes_itself_in_one_line(path: Path) -> None:
    tree = ast.parse(path.read_text())
    summary = ast.get_docstring(tree)
    assert summary
    if path.parent != PACKAGE:
        assert len(summary.splitlines()) == 1
        assert all(isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign) for node in tree.body)


@every_module
def test_only_shards_and_other_tools_files_import_h5py(name: str) -> None:
    heads = {each.partition(".")[0] for each in imported(parsed(name))}
    assert "h5py" not in heads or name in ("features.shards", "features.export", "features.foreign_hdf5")


@every_module
def test_only_the_study_and_the_folders_around_it_import_optuna(name: str) -> None:
    heads = {module.partition(".")[0] for module in imported(parsed(name))}
    assert "optuna" not in heads or layer(name) in ("search", "study") or name == "report.figures.search"


@pytest.mark.parametrize("name", [*CONFIGURATIONS, "core.version", "core.errors", *COMMANDS])
def test_nothing_heavy_is_imported_at_the_top(name: str) -> None:
    top = [node for node in parsed(name).body if isinstance(node, ast.Import | ast.ImportFrom)]
    heads = {module.partition(".")[0] for node in top for module in imported(node)}
    assert not heads & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_imported_without_anything_heavy(name: str) -> None:
    report = f"import sys, mil_toolkit.{name}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
