"""mil-cache: inspect, verify and prune a cache of embeddings, and exchange it with other tools."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mil_toolkit.cli.command import Outcome, add_verbosity, command_parser, run
from mil_toolkit.core.records import Json
from mil_toolkit.core.text import count_of

FORMATS = ("clam", "trident", "stamp")
IMPORT_FORMATS = (*FORMATS, "bags")
Action = Callable[[argparse.Namespace], Outcome]


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-cache."""
    return run(_parser(), lambda arguments: arguments.action(arguments), argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "mil-cache", "Inspect, verify and prune a cache of embeddings, or exchange it with other tools."
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, action: Action, text: str) -> argparse.ArgumentParser:
        subparser = actions.add_parser(
            name, help=text, description=text, formatter_class=parser.formatter_class
        )
        subparser.set_defaults(action=action)
        subparser.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object"
        )
        add_verbosity(subparser, argparse.SUPPRESS)
        return subparser

    _add_cache(add("info", _info, "show what a cache holds"))
    _add_cache(add("verify", _verify, "check every byte of every shard"))
    _add_cache(add("prune", _prune, "remove shards that newer ones have replaced"))
    _add_export(add("export", _export, "write the embeddings in the layout of another tool"))
    _add_import(add("import", _import, "make a cache from another tool's feature files"))
    return parser


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cache", type=Path, metavar="CACHE_FOLDER", help="folder that mil-extract printed")


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_cache(parser)
    parser.add_argument("--format", choices=FORMATS, required=True, help="tool whose layout is written")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")


def _add_import(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER", help="the tool's folder of feature files")
    add(
        "--format",
        choices=IMPORT_FORMATS,
        required=True,
        help="tool that made the files; bags: .h5, .pt or .npy files of features (N, D)",
    )
    add("--cohort", required=True, metavar="NAME", help="the cohort's name, as in its cohort.toml")
    add("--encoder", metavar="NAME", help="network that made the features, if the files do not say")
    add(
        "--table",
        type=Path,
        metavar="CSV",
        help="patient of each file, in columns case_id,slide_id or PATIENT,FILENAME",
    )
    add("--cache", type=Path, default=Path("cache"), help="folder that contains all caches")


def _info(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.upkeep import summarise_cache

    summary = summarise_cache(arguments.cache)
    lines = [
        f"patients: {summary.patients:,}",
        f"images: {summary.images:,}",
        f"shards: {summary.shards:,}",
        f"superseded: {summary.superseded:,}",
        f"bytes: {summary.bytes:,}",
        f"computed: {', '.join(summary.computed)}",
        "spec:",
    ]
    lines += [f"  {name}: {json.dumps(value)}" for name, value in summary.spec.items()]
    return Outcome("\n".join(lines), asdict(summary))


def _verify(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.upkeep import verify

    shards = verify(arguments.cache)
    return Outcome(
        f"{arguments.cache}: {count_of(shards, 'shard')}, every byte is as it was written.",
        {"shards": shards},
    )


def _prune(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.upkeep import prune

    removed, freed = prune(arguments.cache)
    text = f"{arguments.cache}: {count_of(removed, 'superseded shard')} removed, {freed:,} bytes freed."
    return Outcome(text, {"removed": removed, "bytes": freed})


def _export(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.cache import FeatureCache
    from mil_toolkit.features.export import export_cache

    patients = export_cache(FeatureCache.open(arguments.cache), arguments.format, arguments.output)
    return Outcome(str(arguments.output), {"output": str(arguments.output), "patients": patients})


def _import(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.core.own_folders import check_outside_own_folders
    from mil_toolkit.features.imports import import_features

    check_outside_own_folders(arguments.cache / arguments.cohort)
    cache = import_features(
        arguments.source,
        arguments.format,
        arguments.cache,
        arguments.cohort,
        encoder=arguments.encoder,
        table=arguments.table,
    )
    images = sum(bag.size for bag in cache.winners(cache.patient_ids))
    data: dict[str, Json] = {
        "features": str(cache.folder),
        "patients": len(cache.patient_ids),
        "images": images,
    }
    return Outcome(str(cache.folder), data)
