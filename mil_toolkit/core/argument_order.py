"""`give_back`: options that take several values may come before the positional arguments."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

OPTIONAL = "?"  # argparse's `nargs` of a positional argument that may be missing
SEVERAL = "+"  # argparse's `nargs` of an option that takes all values that follow it


@dataclass
class _Words:
    """The words of a command line.

    positional: places of the words that belong to no option
    runs: for every option that takes several values, its name and the places of its values
    """

    positional: list[int] = field(default_factory=list)
    runs: list[tuple[str, list[int]]] = field(default_factory=list)


class Replaceable(argparse._StoreAction):
    """A positional argument that must be given unless one of some options is.

    options: their names
    """

    options: tuple[str, ...] = ()


def add_replaceable(
    parser: argparse.ArgumentParser, name: str, options: tuple[str, ...], metavar: str, help: str
) -> None:
    """Add a positional argument, the path of a file, that these options replace."""
    action = parser.add_argument(
        name, nargs=OPTIONAL, type=Path, action=Replaceable, metavar=metavar, help=help
    )
    assert isinstance(action, Replaceable)
    action.options = options


def give_back(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Return the words with missing positional arguments first, taken from the end of an option's values.

    In `mil-tune --features A B cohort.toml --study s`, argparse would take all three words for values of
    --features, and miss COHORT.toml. Words that need no change, or that argparse will refuse, are returned
    as they are. Ends the command with a usage error where several options could have taken the arguments.
    """
    split = _split(parser, words)
    expected = [
        action for action in parser._get_positional_actions() if not _is_replaced(parser, action, words)
    ]
    if split is None or any(not isinstance(one, Replaceable) and one.nargs is not None for one in expected):
        return list(words)
    missing = len(expected) - len(split.positional)
    runs = [(name, places) for name, places in split.runs if len(places) > missing]
    if missing <= 0 or not runs:
        return list(words)
    if len(runs) > 1:
        absent = ", ".join(str(action.metavar or action.dest) for action in expected[-missing:])
        names = " and ".join(name for name, _ in runs)
        parser.error(f"{absent} must come before {names}, which take all values that follow.")
    first = sorted([*split.positional, *runs[0][1][-missing:]])
    return [words[place] for place in first] + [
        word for place, word in enumerate(words) if place not in set(first)
    ]


def _is_replaced(parser: argparse.ArgumentParser, action: argparse.Action, words: Sequence[str]) -> bool:
    """Return whether the command line has an option that replaces a positional argument."""
    if not isinstance(action, Replaceable):
        return False
    given = (_option(parser, word.partition("=")[0]) for word in words if word.startswith("--"))
    return any(option is not None and {*option.option_strings} & {*action.options} for option in given)


def _split(parser: argparse.ArgumentParser, words: Sequence[str]) -> _Words | None:
    """Return which words are values of which options; None for an option that the parser does not know."""
    split, place = _Words(), 0
    while place < len(words):
        name, following = words[place], place + 1
        if not _is_option(name):
            split.positional.append(place)
        elif "=" not in name:
            action = _option(parser, name)
            if action is None:
                return None
            if action.nargs == SEVERAL:
                while following < len(words) and not _is_option(words[following]):
                    following += 1
                split.runs.append((action.option_strings[0], list(range(place + 1, following))))
            elif action.nargs is None:
                following += 1
        place = following
    return split


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-")


def _option(parser: argparse.ArgumentParser, name: str) -> argparse.Action | None:
    """Return the option of this name, or the only one whose name begins with it."""
    options = parser._option_string_actions
    if name in options:
        return options[name]
    fitting = [action for option, action in options.items() if option.startswith(name)]
    return fitting[0] if len(fitting) == 1 else None
