"""No module but `core.reading` opens a file for reading, so that its checks and limits apply everywhere."""

import ast
from collections.abc import Iterator

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "mil_toolkit"
# `core` is the place for it. The others: files of the kernel, templates of the package, pipes of a process.
EXEMPT = (
    *("core/reading.py", "core/files.py", "core/locks.py", "core/access.py", "core/cores.py"),
    *("core/memory.py", "core/posix_files.py", "core/windows_files.py"),
    *("report/markup.py", "features/isolation.py"),
)
PATH_METHODS = {"read_bytes", "read_text"}
READERS = {"File", "load", "safe_open", "load_file", "read_csv", "read_excel", "connect", "loadtxt", "fdopen"}
CHECKS = {"open_input", "check_input"}  # a function that calls one of them may pass the path to a library
OPENED = {"open_input", "BytesIO", "StringIO", "open_file_image"}  # return files that are open already


def name_of(node: ast.expr) -> str:
    """Return the last part of the name of what is called."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_opened(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and name_of(node.func) in OPENED


def open_files(tree: ast.AST) -> Iterator[str]:
    """Yield the names that are bound to open files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and is_opened(node.context_expr):
            yield getattr(node.optional_vars, "id", "")
        elif isinstance(node, ast.Assign) and is_opened(node.value):
            yield from (getattr(target, "id", "") for target in node.targets)


def opens_path(call: ast.Call, opened: set[str]) -> bool:
    """Return whether a call may open a file by its path."""
    name, owner = name_of(call.func), getattr(getattr(call.func, "value", None), "id", "")
    first = call.args[0] if call.args else None
    if name in PATH_METHODS:
        return True
    if name == "open":  # of a path, of Image, or the function; not of classes such as FeatureCache
        by_path = owner in ("", "os", "Image") or not owner[:1].isupper()
        is_open = owner in ("cls", "archive") or is_opened(first) or getattr(first, "id", None) in opened
        return by_path and not is_open
    if name in READERS and isinstance(call.func, ast.Attribute | ast.Name):
        is_bytes = owner == "json" or (name == "load" and owner not in ("np", "numpy", "torch"))
        return not (is_bytes or is_opened(first) or getattr(first, "id", None) in opened)
    return False


def readings(source: str) -> list[int]:
    """Return the lines of a module in which a file may be opened by its path."""
    tree = ast.parse(source)
    opened = {*open_files(tree)}
    checked = {id(call) for function in ast.walk(tree) if checks_path(function) for call in calls(function)}
    unchecked = (call for call in calls(tree) if id(call) not in checked)
    return sorted(call.lineno for call in unchecked if opens_path(call, opened))


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def checks_path(node: ast.AST) -> bool:
    """Return whether this is a function that calls `open_input` or `check_input`."""
    return isinstance(node, ast.FunctionDef) and any(name_of(call.func) in CHECKS for call in calls(node))


def modules() -> list[str]:
    paths = (str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
    return sorted(path for path in paths if path not in EXEMPT)


@pytest.mark.parametrize("module", modules())
def test_no_other_module_opens_a_file_for_reading(module: str) -> None:
    source = (PACKAGE / module).read_text(encoding="utf-8")
    lines = source.splitlines()
    assert [lines[number - 1] for number in readings(source) if "os.devnull" not in lines[number - 1]] == []


@pytest.mark.parametrize(
    "statement",
    [
        "open(path)",
        "path.open('rb')",
        "(folder / name).open()",
        "os.open(path, os.O_RDONLY)",
        "path.read_bytes()",
        "Path('x').read_text()",
        "h5py.File(path, 'r')",
        "np.load(path)",
        "torch.load(path)",
        "safe_open(path, 'pt')",
        "safetensors.torch.load_file(path)",
        "Image.open(path)",
        "pd.read_csv(path)",
        "sqlite3.connect(path)",
    ],
)
def test_the_ways_of_opening_a_file_are_known(statement: str) -> None:
    assert readings(f"x = {statement}") == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "FeatureCache.open(folder)",
        "cls.open(folder)",
        "json.loads(text)",
        "load(content)",
        "Image.open(io.BytesIO(content))",
        "pd.read_csv(io.BytesIO(read_input(path, 1)))",
        "read_input(path, 1)",
    ],
)
def test_other_calls_are_not_taken_for_it(statement: str) -> None:
    assert readings(f"x = {statement}") == []


def test_a_checked_path_may_be_passed_to_a_library() -> None:
    function = "def read(path):\n    {}(path)\n    return safe_open(path, 'pt')"
    assert readings(function.format("check_input")) == []
    assert readings(function.format("print")) == [3]


def test_files_that_are_open_already_may_be_read() -> None:
    assert not readings("with open_input(path) as file, h5py.File(file, 'r') as h5:\n    np.load(file)")
