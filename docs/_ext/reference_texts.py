"""Texts of the reference that follow from the code: commands, keys, hyperparameters and tables of parts.

Each function returns Markdown for MyST. `GENERATED` holds them by the name that pages use.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import date
from importlib import import_module
from unittest.mock import patch

import mil_toolkit
from mil_toolkit.backbones.encoders import ENCODERS
from mil_toolkit.cli.mil import COMMANDS
from mil_toolkit.cohort.declaration import (
    COHORT_KEYS,
    METADATA_KEYS,
    SPLIT_KEYS,
    STUDY_KEYS,
    CohortSection,
    SplitsSection,
    StudySection,
)
from mil_toolkit.cohort.kinds import KINDS as METADATA_KINDS
from mil_toolkit.config.extraction import BACKBONE_NAMES
from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.metrics import METRIC_NAMES, OUTCOME_METRICS
from mil_toolkit.config.presets import PRESETS, STARTS
from mil_toolkit.config.settings import set_options
from mil_toolkit.config.tunable import Tunable, Value, tunables
from mil_toolkit.model.poolings import POOLINGS
from mil_toolkit.outcomes.kinds import KINDS as OUTCOMES
from mil_toolkit.outcomes.kinds import keys_of_kind, metric_of

GENERAL = frozenset({"--json", "--quiet", "--verbose", "--version"})  # options of every command, listed last
USAGE_WIDTH = 88
_TYPES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    list: "list",
    dict: "section",
    date: "date",
}
_ROUTING = re.compile(r"set_\w+_request")  # methods that scikit-learn adds to every estimator


def escaped(text: str) -> str:
    """Return a text as Markdown that shows it unchanged, on one line."""
    return _escaped_part(" ".join(text.split()))


def _escaped_part(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


def code(text: object) -> str:
    """Return Markdown that shows a text as code; empty for an empty text."""
    return f"`{text}`" if str(text) else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells that are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def directive(name: str, argument: str, body: str = "", options: Mapping[str, str] | None = None) -> str:
    """Return a directive of MyST."""
    lines = [f":{key}: {value}" for key, value in (options or {}).items()]
    return "\n".join([f"````{{{name}}} {argument}", *lines, *([""] if lines else []), body, "````\n"])


def summary_of(documented: object) -> str:
    """Return the first paragraph of a docstring as Markdown; it has code between backticks."""
    parts = " ".join((documented.__doc__ or "").split("\n\n")[0].split()).split("`")
    return "".join(code(part) if place % 2 else _escaped_part(part) for place, part in enumerate(parts))


# The commands.


class _Parsed(Exception):
    """Ends a command as soon as its parser is complete."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.parser = parser
        super().__init__()


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the argument parser of a command, such as `extract`."""

    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Parsed(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            import_module(f"mil_toolkit.cli.{command}").main([])
        except _Parsed as parsed:
            return parsed.parser
    raise AssertionError(f"mil-{command} has not parsed its arguments")


def commands() -> str:
    """Return a section for every command, with all of its arguments."""
    rows = [(f"[mil-{name}](#mil-{name})", escaped(text)) for name, text in COMMANDS.items()]
    sections = [f"## mil-{name}\n\n{_command(parser_of(name), 3)}" for name in COMMANDS]
    return "\n".join([table(("command", "what it does"), rows), *sections])


def _command(parser: argparse.ArgumentParser, level: int) -> str:
    """Return the description, the usage and the arguments of a command or of a part of it.

    level: of the headings of its parts
    """
    listed = sorted(_arguments(parser), key=_is_general)
    parts = [
        f"{'#' * level} {subparser.prog}\n\n{_command(subparser, level + 1)}"
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for subparser in action.choices.values()
    ]
    return "\n".join(
        [
            f"{escaped(parser.description or '')}\n",
            f"```text\n{_usage(parser)}\n```\n",
            directive("program", parser.prog),
            *(_argument(parser, action) for action in listed),
            *parts,
        ]
    )


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        and action.help != argparse.SUPPRESS
    ]


def _is_general(action: argparse.Action) -> bool:
    return not GENERAL.isdisjoint(action.option_strings)


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = _formatter(parser)
    formatter.add_usage(parser.usage, _arguments(parser), parser._mutually_exclusive_groups)
    return re.sub(r"\x1b\[[\d;]*m", "", formatter.format_help()).strip()  # Python 3.14 colours it


def _formatter(parser: argparse.ArgumentParser) -> argparse.HelpFormatter:
    return parser.formatter_class(prog=parser.prog, width=USAGE_WIDTH)  # type: ignore[call-arg]


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the entry of an argument: all of its names with their values, and its help text."""
    formatter = _formatter(parser)
    if action.option_strings:
        values = "" if action.nargs == 0 else f" {formatter._format_args(action, action.dest.upper())}"
        names = [f"{option}{values}" for option in action.option_strings]
    else:
        names = [str(action.metavar or action.dest)]  # the usage says which of them may be left out
    return directive("option", ", ".join(names), escaped(formatter._expand_help(action)))


# cohort.toml.


def cohort_keys() -> str:
    """Return a table of the keys of each section of cohort.toml, with their types and defaults."""
    sections = {
        "cohort": (COHORT_KEYS, _defaults(CohortSection)),
        "metadata.NAME": (METADATA_KEYS, {}),
        "splits": (SPLIT_KEYS, _defaults(SplitsSection)),
        "study": (STUDY_KEYS, _defaults(StudySection)),
    }
    rows = [
        (
            code(f"[{section}]"),
            code(key),
            _type_words(types),
            code(defaults.get(key, "")),
            _kinds_with(section, key),
        )
        for section, (keys, defaults) in sections.items()
        for key, types in keys.items()
    ]
    return table(("section", "key", "type", "default", "only for the kinds"), rows)


def _defaults(section: type) -> dict[str, str]:
    """Return the defaults of the keys of a section that have one, as TOML."""
    return {
        field.name: _toml(field.default)
        for field in fields(section)
        if field.default not in (MISSING, None, "", ())
    }


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _type_words(types: Sequence[type]) -> str:
    return " or ".join(_TYPES[type_] for type_ in types if (type_, float in types) != (int, True))


def _kinds_with(section: str, key: str) -> str:
    """Return the kinds of outcome, or of metadata, that a key belongs to if it does not belong to all."""
    if section == "cohort":
        kinds = [name for name in OUTCOMES if key in keys_of_kind(name)]
    elif section == "metadata.NAME":
        kinds = [name for name, kind in METADATA_KINDS.items() if key in (*kind.needs, *kind.takes)]
    else:
        kinds = []
    return " ".join(map(code, kinds))


# Hyperparameters.


def hyperparameters() -> str:
    """Return an entry for every hyperparameter: its help text, values, default, search and conditions."""
    defaults = HeadConfig()
    return "\n".join(
        _hyperparameter(name, tunable, getattr(defaults, name))
        for name, tunable in tunables(HeadConfig).items()
    )


def _hyperparameter(name: str, tunable: Tunable, default: Value) -> str:
    values_first = re.match(r"\w+:", tunable.help)  # the help text begins with a value
    text = tunable.help if values_first else tunable.help[0].upper() + tunable.help[1:]
    sentences = [f"{escaped(text)}."]
    if tunable.searched:
        sentences.append(f"Searched by default: {_searched(tunable)}.")
    if tunable.needs:
        sentences.append(f"It has an effect only if {_conditions(tunable)}.")
    options = {"type": _values(tunable, default), "default": code(_text(default)) or "none"}
    return directive("confval", name, " ".join(sentences), options)


def _values(tunable: Tunable, default: Value) -> str:
    """Return the values that a hyperparameter may have, in words."""
    if tunable.choices:
        return ", ".join(code(_text(choice)) for choice in tunable.choices)
    kind = _TYPES[type(default)]
    return kind if isinstance(default, bool | str) else f"{kind}, {tunable.bounds}"


def _searched(tunable: Tunable) -> str:
    if tunable.search:
        return ", ".join(code(_text(value)) for value in tunable.search)
    return f"{tunable.low:g} to {tunable.high:g}{' on a logarithmic scale' if tunable.log else ''}"


def _conditions(tunable: Tunable) -> str:
    conditions = (
        f"{code(name)} is {' or '.join(code(_text(value)) for value in values)}"
        for name, values in tunable.needs.items()
    )
    return " and ".join(conditions)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def presets() -> str:
    """Return the settings of every preset and of every starting point."""
    chosen = {
        **PRESETS,
        **{name: {key: (value,) for key, value in start.items()} for name, start in STARTS.items()},
    }
    kinds = {**dict.fromkeys(PRESETS, "preset"), **dict.fromkeys(STARTS, "starting point")}
    rows = [
        (code(name), kinds[name], " ".join(map(code, set_options(settings)[1::2])) or "the defaults")
        for name, settings in chosen.items()
    ]
    return table(("name", "what it is", "settings"), rows)


# Tables of parts.


def poolings() -> str:
    """Return a table of the poolings."""
    return table(
        ("`pooling`", "what it does"), [(code(name), summary_of(part)) for name, part in POOLINGS.items()]
    )


def backbones() -> str:
    """Return a table of the words that `mil-extract --backbone` takes; timm's models are one of them."""
    own = [(code(name), "", "", "") for name in BACKBONE_NAMES]
    encoders = [
        (code(name), code(encoder.model), str(encoder.width), escaped(encoder.licence))
        for name, encoder in ENCODERS.items()
    ]
    return table(("`--backbone`", "network of timm", "width", "licence of the weights"), own + encoders)


def outcomes() -> str:
    """Return a table of the kinds of outcome, with their keys under `[cohort]` and their default metrics."""
    rows = [
        (
            code(name),
            summary_of(kind),
            " ".join(map(code, keys_of_kind(name))),
            code(OUTCOME_METRICS[name].objective),
            code(OUTCOME_METRICS[name].primary),
        )
        for name, kind in OUTCOMES.items()
    ]
    return table(("kind", "what is predicted", "keys", "objective", "primary metric"), rows)


def metrics() -> str:
    """Return a table of the metrics: which is better, and the kinds of outcome that have them."""
    rows = [
        (
            code(name),
            "higher" if metric_of(name).higher_is_better else "lower",
            ", ".join(kind for kind, known in OUTCOME_METRICS.items() if name in known.names),
        )
        for name in METRIC_NAMES
    ]
    return table(("metric", "better", "outcomes"), rows)


def metadata_kinds() -> str:
    """Return a table of the kinds of metadata."""
    rows = [
        (
            code(name),
            "a number" if kind.numeric else "a word",
            " ".join(map(code, kind.needs)),
            " ".join(map(code, kind.takes)),
        )
        for name, kind in METADATA_KINDS.items()
    ]
    return table(("`kind`", "what a cell becomes", "required keys", "optional keys"), rows)


# The Python interface.


def python_interface() -> str:
    """Return the documentation of every public name, from its docstring."""
    return "\n".join(_sections_of_names())


def _sections_of_names() -> Iterator[str]:
    for name in mil_toolkit.__all__:
        public = getattr(mil_toolkit, name)
        lines = [f".. auto{'class' if isinstance(public, type) else 'function'}:: mil_toolkit.{name}"]
        if isinstance(public, type):
            routing = [member for member in dir(public) if _ROUTING.fullmatch(member)]
            lines += ["   :members:", f"   :exclude-members: {', '.join(['__init__', *routing])}"]
        yield f"## {name}\n\n" + "\n".join(["````{eval-rst}", *lines, "````\n"])


GENERATED: Mapping[str, Callable[[], str]] = {
    "backbones": backbones,
    "cohort-keys": cohort_keys,
    "commands": commands,
    "hyperparameters": hyperparameters,
    "metadata-kinds": metadata_kinds,
    "metrics": metrics,
    "outcomes": outcomes,
    "poolings": poolings,
    "presets": presets,
    "python-interface": python_interface,
}
