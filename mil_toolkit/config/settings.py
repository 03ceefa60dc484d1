"""Hyperparameters as texts: `--set` options are parsed and written here."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.config.tunable import Settings, Value, tunables
from mil_toolkit.core.errors import UsageError


def parse_settings(items: Sequence[str]) -> dict[str, tuple[Value, ...]]:
    """Parse `NAME=VALUE[,VALUE...]` items; raises UsageError that lists every invalid one.

    >>> parse_settings(["hidden=32,64", "class_weights=false"])
    {'hidden': (32, 64), 'class_weights': (False,)}
    """
    settings: dict[str, tuple[Value, ...]] = {}
    problems: list[str] = []
    for item in items:
        name, _, values = item.partition("=")
        try:
            settings[name] = tuple(parse_value(name, value) for value in values.split(","))
        except ValueError as error:
            problems.append(f"--set {item}: {error}")
    if problems:
        raise UsageError("\n".join(problems))
    return settings


def setting_words(beginning: str) -> list[str]:
    """Return the items of `parse_settings` that may begin in this way, as far as they can be listed.

    >>> setting_words("hid")[:3], setting_words("image_branch=")
    (['image_branch=', 'standardise=', 'components='], ['image_branch=true', 'image_branch=false'])
    """
    name, assigned, values = beginning.partition("=")
    known = tunables(HeadConfig)
    if not assigned:
        return [f"{name}=" for name in known]
    if name not in known:
        return []
    before = beginning.removesuffix(values.rpartition(",")[2])
    is_bool = isinstance(getattr(HeadConfig(), name), bool)
    listed = known[name].choices or ((True, False) if is_bool else known[name].search)
    return [before + _setting_text(value) for value in listed]


def head_config(values: Mapping[str, Value]) -> HeadConfig:
    """Return the HeadConfig with these values; raises UsageError that names every invalid one.

    Numbers may be of other types, such as NumPy's, as long as their text is that of the number.
    """
    parsed: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        try:
            parsed[name] = parse_value(name, str(value))
        except ValueError as error:
            problems.append(f"{name}={value!r}: {error}")
    if problems:
        raise UsageError("\n".join(problems))
    return HeadConfig(**parsed)


def parse_value(name: str, text: str) -> Value:
    """Return the value of a hyperparameter that a text gives; raises ValueError if it may not have it."""
    known = tunables(HeadConfig)
    if name not in known:
        raise ValueError(f"{name!r} is not one of {', '.join(known)}.")
    tunable = known[name]
    if tunable.choices:
        return _parse_choice(name, text, tunable.choices)
    value = _PARSERS[type(getattr(HeadConfig(), name))](text)
    if not isinstance(value, bool | str) and not tunable.contains(value):
        raise ValueError(f"must be {tunable.bounds}, not {text}.")
    return value


def _parse_choice(name: str, text: str, choices: Sequence[Value]) -> Value:
    """Return one of the choices; words may stand beside the values of another type."""
    if text in choices:
        return text
    with contextlib.suppress(ValueError):
        value = _PARSERS[type(getattr(HeadConfig(), name))](text)
        if value in choices:
            return value
    raise ValueError(f"{text!r} is not one of {', '.join(map(_setting_text, choices))}.")


def _parse_bool(text: str) -> bool:
    words = {"true": True, "false": False}
    if text.lower() not in words:
        raise ValueError(f"{text!r} is neither true nor false.")
    return words[text.lower()]


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number.") from None


def _parse_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number.") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite.")
    return value


_PARSERS: dict[type, Callable[[str], Value]] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    str: str,
}


def option_words(values: Mapping[str, Value]) -> list[str]:
    """Return fields as the words of command-line options.

    >>> option_words({"outer_folds": 0})
    ['--outer-folds', '0']
    """
    return [word for name, value in values.items() for word in (option_flag(name), str(value))]


def option_flag(name: str) -> str:
    """Return the option of a field.

    >>> option_flag("outer_folds")
    '--outer-folds'
    """
    return f"--{name.replace('_', '-')}"


def set_options(settings: Settings) -> list[str]:
    """Return settings as the `--set` options of mil-tune, with every digit: the input of `parse_settings`.

    >>> set_options({"hidden": (32, 64), "class_weights": (False,)})
    ['--set', 'hidden=32,64', '--set', 'class_weights=false']
    """
    return [
        word
        for name, values in settings.items()
        for word in ("--set", f"{name}={','.join(map(_setting_text, values))}")
    ]


def _setting_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
