"""`KINDS`: the kinds of outcome by name, and which of them a cohort.toml declares."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from mil_toolkit.config.metrics import DEFAULT_OUTCOME
from mil_toolkit.core.records import to_json
from mil_toolkit.evaluation.metrics import Metric
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.classes import Classes
from mil_toolkit.outcomes.number import Number
from mil_toolkit.outcomes.ordered import Ordered
from mil_toolkit.outcomes.outcome import DecisionRule, Outcome
from mil_toolkit.outcomes.survival import Survival

KINDS: dict[str, type[Outcome]] = {
    "binary": Binary,
    "ordered": Ordered,  # before classes, whose keys it shares
    "classes": Classes,
    "number": Number,
    "survival": Survival,
}
DEFAULT = DEFAULT_OUTCOME


def keys_of_kind(kind: str) -> tuple[str, ...]:
    """Return the keys under `[cohort]` that a kind has, its own and those that it shares with others."""
    return tuple(field.name for field in fields(KINDS[kind]))  # type: ignore[arg-type]


def kind_of(given: Collection[str]) -> str:
    """Return the kind that the keys of `[cohort]` declare: the first of which they contain an own key."""
    return next((name for name, kind in KINDS.items() if kind.own_keys & set(given)), DEFAULT)


def foreign_key_problems(given: Collection[str]) -> Iterator[str]:
    """Yield the keys of `[cohort]` that belong to other kinds of outcome than the one it declares."""
    declared = kind_of(given)
    others = {key: kind for kind in reversed(KINDS) for key in keys_of_kind(kind)}
    others |= {key: name for name, kind in KINDS.items() for key in kind.own_keys}
    for key in given:
        if key in others and key not in keys_of_kind(declared):
            own = ", ".join(sorted(KINDS[declared].own_keys & set(given)))
            reason = f"{own} declares the outcome {declared}" if own else f"the outcome is {declared}"
            yield f"{key} belongs to the outcome {others[key]}, but {reason}. Keep the keys of one outcome."


def metric_of(name: str) -> Metric:
    """Return the first metric of this name among all kinds; all of one name agree in what is better."""
    return next(metrics[name] for kind in KINDS.values() if name in (metrics := kind().scoring.metrics))


@dataclass(frozen=True)
class OutcomeRecord:
    """An outcome in a JSON file: its kind, and the values of its fields."""

    kind: str
    declared: dict[str, Any]  # by key of cohort.toml, parsed as the fields of the kind

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind[:100]!r} is not one of {', '.join(KINDS)}")
        if self.kind == DEFAULT:
            raise ValueError(f"kind: {DEFAULT} is not written; it is the kind without a record")
        if unknown := self.declared.keys() - set(keys_of_kind(self.kind)):
            raise ValueError(f"declared: {min(unknown)[:100]!r} is not a key of {self.kind}")
        outcome_of(self)


def record_of(outcome: Outcome) -> OutcomeRecord | None:
    """Return the outcome for a JSON file; None for the default kind, whose class names stand elsewhere."""
    if outcome.kind == DEFAULT:
        return None
    declared = to_json(outcome)
    assert isinstance(declared, dict)
    return OutcomeRecord(outcome.kind, declared)


def outcome_of(record: OutcomeRecord | None) -> Outcome:
    """Return the outcome of a JSON file, without the declared words for the default kind."""
    return KINDS[DEFAULT]() if record is None else msgspec.convert(record.declared, KINDS[record.kind])


def decode_decision(kind: type, value: object) -> DecisionRule:
    """Return a decision rule from parsed JSON, whose key `kind` names the outcome; see `core.records`.

    Raises ValueError for other content.
    """
    name = value.get("kind", DEFAULT) if isinstance(value, dict) else DEFAULT
    if name not in KINDS:
        raise ValueError(f"{str(name)[:100]!r} is not one of {', '.join(KINDS)}")
    try:
        return KINDS[name].parse_decision(value)  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise ValueError(f"{reason} in {path[1:-1]}" if path else reason) from None
