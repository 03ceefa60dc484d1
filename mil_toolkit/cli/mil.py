"""mil: every command under one name, as in `mil extract` for mil-extract."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mil_toolkit.cli.command import EscapingParser, escape_what_cannot_be_encoded, parse
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
    if words and words[0] in COMMANDS:
        command: int = import_module(f"mil_toolkit.cli.{words[0]}").main(words[1:])
        return command
    escape_what_cannot_be_encoded()
    parser = _parser()
    parse(parser, words)  # shows the help or the version, or names the unknown word
    parser.error("the name of a command is missing.")


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
    parser.add_argument("command", nargs="?", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser
