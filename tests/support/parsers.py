"""The argument parsers of the commands."""

import argparse
from collections.abc import Iterator
from importlib import import_module
from unittest.mock import patch

import pytest


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the argument parser of a command."""
    parsers: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, *_: object) -> None:
        parsers.append(parser)
        raise InterruptedError

    with patch.object(argparse.ArgumentParser, "parse_args", keep), pytest.raises(InterruptedError):
        import_module(f"mil_toolkit.cli.{name}").main([])
    return parsers[0]


def actions(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """Yield every argument of a parser and of its sub-commands, with its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from actions(subparser)
        else:
            yield parser, action


def options(name: str) -> set[str]:
    """Return every option of a command."""
    return {option for _, action in actions(parser_of(name)) for option in action.option_strings}
