"""mil: every command under one name, as in `mil extract` for mil-extract."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mil_toolkit.cli.command import (
    EscapingParser,
    Outcome,
    escape_what_cannot_be_encoded,
    parse,
    print_outcome,
)
from mil_toolkit.core.completion import SHELLS, complete, completion_script, pass_on_completion
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.version import __version__

COMMANDS = {
    "init": "draft a cohort.toml from a table and a folder of images",
    "extract": "embed all images of a cohort",
    "tune": "search hyperparameters, and score the procedure by nested cross-validation",
    "ablate": "score a study's configuration without some of its parts",
    "report": "write the report of a study",
    "fit": "train the final model",
    "predict": "apply a model to a cohort",
    "validate": "validate a model on another cohort, and recalibrate it there",
    "cache": "inspect, verify, prune and exchange embeddings",
    "demo": "show every step on a synthetic cohort",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names with the words that follow."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = pass_on_completion(COMMANDS) or next(iter(words), "")
    if name in COMMANDS:
        command: int = import_module(f"mil_toolkit.cli.{name}").main(words[1:])
        return command
    parser = _parser()
    complete(parser)
    escape_what_cannot_be_encoded()
    arguments = parse(parser, words)  # or shows the help or the version, or names the unknown word
    if arguments.completion is None:
        parser.error("the name of a command is missing.")
    if arguments.command is not None:
        parser.error(f"argument --completion: not allowed with the command {arguments.command}")
    return _print_completion(parser, arguments.completion)


def _print_completion(parser: argparse.ArgumentParser, shell: str) -> int:
    """Print the script that switches on completion; ends with a usage error without argcomplete."""
    try:
        script = completion_script(shell, ["mil", *(f"mil-{name}" for name in COMMANDS)])
    except UsageError as error:
        parser.error(str(error))
    return print_outcome(parser.prog, Outcome(script, {}), as_json=False)


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())
    parser = EscapingParser(
        prog="mil",
        usage="mil COMMAND [OPTIONS]",
        description=f"The commands of mil_toolkit. `mil COMMAND` is the same as `mil-COMMAND`.\n\n{listed}",
        epilog="mil COMMAND --help lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mil_toolkit {__version__}")
    parser.add_argument(
        "--completion",
        choices=SHELLS,
        help='print a script that lets the shell complete commands: eval "$(mil --completion bash)"',
    )
    parser.add_argument("command", nargs="?", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser
