"""Only the outcomes know their kinds: one table in each layer, and no comparison with a kind elsewhere."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mil_toolkit.bundle.onnx_rules import TORCH_RULES
from mil_toolkit.cohort.outcome_lines import PROPOSALS
from mil_toolkit.cohort.synthetic_outcomes import SYNTHETIC_OUTCOMES
from mil_toolkit.config.metrics import DEFAULT_OUTCOME, OUTCOME_METRICS
from mil_toolkit.demo import DEMO_OUTCOMES
from mil_toolkit.outcomes import binary, classes, labels, number, ordered, survival
from mil_toolkit.outcomes.kinds import DEFAULT, KINDS
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.report.sections.by_outcome import OUTCOME_SECTIONS
from mil_toolkit.study.by_outcome import OUTCOME_STUDIES
from mil_toolkit.training.losses import LOSSES
from mil_toolkit.validation.by_outcome import SHOWN
from mil_toolkit.validation.refits import REFITS

PACKAGE = Path(__file__).parents[2] / "mil_toolkit"
TABLES: Mapping[str, Mapping[str, object]] = {
    "cohort/outcome_lines.py: PROPOSALS": PROPOSALS,
    "cohort/synthetic_outcomes.py: SYNTHETIC_OUTCOMES": SYNTHETIC_OUTCOMES,
    "config/metrics.py: OUTCOME_METRICS": OUTCOME_METRICS,
    "demo.py: DEMO_OUTCOMES": DEMO_OUTCOMES,
    "bundle/onnx_rules.py: TORCH_RULES": TORCH_RULES,
    "report/sections/by_outcome.py: OUTCOME_SECTIONS": OUTCOME_SECTIONS,
    "study/by_outcome.py: OUTCOME_STUDIES": OUTCOME_STUDIES,
    "training/losses.py: LOSSES": LOSSES,
    "validation/by_outcome.py: SHOWN": SHOWN,
    "validation/refits.py: REFITS": REFITS,
}
OUTCOME_CLASSES = {
    name
    for module in (binary, classes, labels, number, ordered, survival)
    for name, value in vars(module).items()
    if isinstance(value, type) and Outcome in value.__mro__
}
DEFAULTS = {"DEFAULT", "DEFAULT_OUTCOME"}
# Kinds of metadata, a record of one, and settings of the attention share a name with a kind of outcome.
OTHERS = re.compile(r"column\.kind|record\.get\('kind'\)|attention_heads")
MODULES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] != "outcomes"
}


def names_a_kind(node: ast.expr) -> bool:
    """Return whether an expression is the name of a kind, or a collection that holds one."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(names_a_kind, node.elts))
    if isinstance(node, ast.Name | ast.Attribute):
        return (node.id if isinstance(node, ast.Name) else node.attr) in DEFAULTS
    return isinstance(node, ast.Constant) and node.value in [*KINDS]


def comparisons(tree: ast.AST) -> Iterator[str]:
    """Yield the comparisons with a kind of outcome, by its name or by its class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(names_a_kind, sides)) and not OTHERS.search(ast.unparse(node)):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            known = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
            known |= {part.attr for part in ast.walk(node.args[1]) if isinstance(part, ast.Attribute)}
            if known & OUTCOME_CLASSES:
                yield ast.unparse(node)
        elif isinstance(node, ast.MatchValue):
            if names_a_kind(node.value):
                yield ast.unparse(node)
        elif isinstance(node, ast.MatchClass) and ast.unparse(node.cls) in OUTCOME_CLASSES:
            yield ast.unparse(node)


def tables(tree: ast.Module) -> Iterator[str]:
    """Yield the names of the tables at the top of a module that have a kind other than `number` as a key."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            keys = {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
            if keys & (KINDS.keys() - {"number"}):
                yield ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def test_no_module_outside_outcomes_compares_a_kind() -> None:
    assert not {f"{name}: {words}" for name, tree in MODULES.items() for words in comparisons(tree)}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("templates/*")), ids=lambda path: path.name)
def test_no_template_knows_a_kind(path: Path) -> None:
    assert not re.search(r"\bkind *(==|!=|(not +)?in +[\[(])", path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "outcome.kind == 'binary'",
        "'survival' != kind",
        "kind in ('classes', 'ordered')",
        "kind not in [DEFAULT]",
        "outcome.kind == kinds.DEFAULT",
        "isinstance(outcome, Survival)",
        "isinstance(outcome, (int, number.FittedNumber))",
        "match kind:\n case 'number': pass",
        "match outcome:\n case Binary(): pass",
    ],
)
def test_comparisons_are_seen(source: str) -> None:
    assert len(list(comparisons(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source", ["column.kind == 'number'", "a.kind != b.kind", "isinstance(x, NumberEncoder)"]
)
def test_other_comparisons_are_not_taken_for_one(source: str) -> None:
    assert not list(comparisons(ast.parse(source)))


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_every_kind_and_no_other(table: str) -> None:
    assert TABLES[table].keys() == KINDS.keys()


def test_every_table_of_a_kind_is_known_here() -> None:
    assert {f"{name}: {table}" for name, tree in MODULES.items() for table in tables(tree)} == set(TABLES)


def test_the_documentation_lists_every_table() -> None:
    text = (PACKAGE.parent / "docs" / "howto" / "extending.md").read_text()
    for table in TABLES:
        path, name = table.split(": ")
        assert f"`{name}` in `mil_toolkit/{path}`" in text


def test_the_flags_of_the_options_agree_with_the_outcomes() -> None:
    assert DEFAULT == DEFAULT_OUTCOME and KINDS[DEFAULT].fixed_classes
    for kind, outcome in KINDS.items():
        assert OUTCOME_METRICS[kind].class_logits == outcome().has_class_logits
        assert OUTCOME_METRICS[kind].two_classes == outcome().fixed_classes


@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_is_narrowed_to_its_own_kind_only(kind: str) -> None:
    outcome = KINDS[kind]()
    assert KINDS[kind].of(outcome) is outcome
    other = binary.Binary() if kind != "binary" else number.Number()
    with pytest.raises(TypeError, match=f"of the kind {other.kind} instead of {kind}"):
        KINDS[kind].of(other)
