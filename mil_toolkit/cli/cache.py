"""Look into a cache of embeddings, check it, tidy it, and exchange it with other tools."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mil_toolkit.cli.command import Outcome, command_parser, run
from mil_toolkit.core.text import count_of

FORMATS = ("clam", "trident", "stamp")


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-cache."""
    return run(_parser(), lambda arguments: arguments.action(arguments), argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mil-cache", "Look into a cache of embeddings, check it, tidy it, exchange it.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, action: Callable[[argparse.Namespace], Outcome], text: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text, description=text, formatter_class=parser.formatter_class)
        one.set_defaults(action=action)
        one.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object"
        )
        return one

    for name, action, text in (
        ("info", _info, "say what a cache holds"),
        ("verify", _verify, "check every byte of every shard"),
        ("prune", _prune, "remove shards without any embedding that counts"),
        ("export", _export, "write the embeddings as another tool would"),
    ):
        each = add(name, action, text)
        each.add_argument("cache", type=Path, metavar="CACHE_FOLDER", help="what mil-extract printed")
    each.add_argument("--format", choices=FORMATS, required=True, help="whose layout")
    each.add_argument("--output", type=Path, required=True, help="folder to write to")
    _add_import(add("import", _import, "make a cache from another tool's feature files"))
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER", help="the tool's folder of feature files")
    add("--format", choices=FORMATS, required=True, help="whose layout")
    add("--cohort", required=True, metavar="NAME", help="the cohort's name, as in its cohort.toml")
    add("--encoder", metavar="NAME", help="the network that made the features, where the files do not say")
    add(
        "--table",
        type=Path,
        metavar="CSV",
        help="which files are whose: case_id,slide_id or PATIENT,FILENAME",
    )
    add("--cache", type=Path, default=Path("cache"), help="folder of all caches")


def _info(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.upkeep import describe

    data = describe(arguments.cache)
    counts = {name: data[name] for name in ("patients", "images", "shards", "superseded", "bytes")}
    lines = [f"{name}: {value:,}" for name, value in counts.items()]
    lines += [f"computed: {', '.join(data['computed'])}", "spec:"]
    lines += [f"  {name}: {json.dumps(value)}" for name, value in data["spec"].items()]
    return Outcome("\n".join(lines), data)


def _verify(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.upkeep import verify

    shards = verify(arguments.cache)
    return Outcome(
        f"{arguments.cache}: {count_of(shards, 'shard')}, every byte as it was written.", {"shards": shards}
    )


def _prune(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.upkeep import prune

    removed, freed = prune(arguments.cache)
    text = f"{arguments.cache}: {count_of(removed, 'superseded shard')} removed, {freed:,} bytes freed."
    return Outcome(text, {"removed": removed, "bytes": freed})


def _export(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.cache import FeatureCache
    from mil_toolkit.features.interop import export_cache

    patients = export_cache(FeatureCache.open(arguments.cache), arguments.format, arguments.output)
    return Outcome(str(arguments.output), {"output": str(arguments.output), "patients": patients})


def _import(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.features.interop import import_features

    cache = import_features(
        arguments.source,
        arguments.format,
        arguments.cache,
        arguments.cohort,
        encoder=arguments.encoder,
        table=arguments.table,
    )
    images = sum(len(bag.image_names) for bag in cache.winners(cache.patient_ids))
    data = {"features": str(cache.folder), "patients": len(cache.patient_ids), "images": images}
    return Outcome(str(cache.folder), data)
