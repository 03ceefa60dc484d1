"""Change one thing of what a study chose at a time, and score it where nothing was chosen."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mil_toolkit.cli.command import Outcome, command_parser, run, with_report
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import count_of, counted
from mil_toolkit.evaluation.words import comparison, p_value, with_interval


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-ablate."""
    return run(_parser(), _ablate, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "mil-ablate", "Score what a study chose with one thing changed, on its own outer folds."
    )
    add = parser.add_argument
    add("cohort", type=Path, metavar="COHORT.toml", help="the cohort")
    add(
        "--features",
        nargs="+",
        metavar="CACHE_FOLDER",
        help="the study's own features, then others to compare with them (another backbone, a mask); none: metadata"
        " alone; by default the cohort's only one in cache/",
    )
    add("--study", type=Path, required=True, metavar="studies/NAME", help="folder of the study")
    add("--retune", type=int, metavar="N", help="give each variant a search of its own, of N trials")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    return parser


def _ablate(arguments: argparse.Namespace) -> Outcome:
    if arguments.retune is not None and arguments.retune < 1:
        raise UsageError(f"--retune must be at least 1, not {arguments.retune}.")
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.core.devices import pick_device, use_available_cores
    from mil_toolkit.features.cache import open_features
    from mil_toolkit.study.ablation import ablate

    pick_device(arguments.device)  # before the data are read
    use_available_cores()
    cohort = read_cohort(arguments.cohort, images=False)
    caches = [open_features(each, cohort.name) for each in arguments.features or [None]]
    ablation = ablate(cohort, caches, arguments.study, arguments.retune, arguments.device)
    data = {"ablation": str(ablation.folder), **ablation.scores}
    return with_report(Outcome(_summary(ablation.folder, ablation.scores), data), arguments.study)


def _summary(folder: Path, scores: Mapping[str, Any]) -> str:
    """All variants in one table, and what it rests on."""
    variants = scores["variants"]
    width = max(map(len, variants)) + 2
    heads = ("balanced accuracy", "minus full", "p", "AUC", "minus full", "p", "discordant")
    lines = [" " * width + "".join(f"{head:>{_WIDTHS[head]}s}" for head in heads) + "  unchanged"]
    lines += [f"{name:{width}s}{_row(variant)}" for name, variant in variants.items()]
    lines += [f"{name}: left out, since {reason}." for name, reason in scores["left_out"].items()]
    lines += [_basis(scores), *(_gain(name, gain, scores) for name, gain in scores["gains"].items())]
    return "\n".join([*lines, f"{folder}: scores.json, table.csv, predictions/"])


_WIDTHS = {"balanced accuracy": 24, "minus full": 26, "p": 7, "AUC": 24, "discordant": 12}


def _row(variant: Mapping[str, Any]) -> str:
    differs, cells = variant["difference"], []
    for metric in ("balanced_accuracy", "auc"):
        cells.append(f"{with_interval(variant['scores'][metric]):>24s}")
        differs_in = differs["differences"][metric] if differs else None
        cells.append(f"{with_interval(differs_in, '+') if differs_in else '':>26s}")
        cells.append(f"{p_value(differs_in['p_value']):>7s}" if differs_in else " " * 7)
    cells.append(f"{counted(differs['discordant']):>12s}" if differs else " " * 12)
    return "".join(cells) + (_unchanged(variant["folds"]) if differs else "")


def _unchanged(folds: Sequence[Mapping[str, Any]]) -> str:
    """In how many folds the variant is what was chosen anyway."""
    alike = sum(fold["unchanged"] for fold in folds)
    return f"  {alike} of {len(folds)} folds" if alike else ""


def _basis(scores: Mapping[str, Any]) -> str:
    full = scores["variants"]["full"]["scores"]["balanced_accuracy"]
    searched = (
        f"Each variant had its own search of {count_of(scores['retuned'], 'trial')}."
        if scores["retuned"]
        else "The other settings are those that were best for the full model, which favours it; --retune N does not."
    )
    return (
        f"{count_of(full['patients'], 'patient')}, {count_of(full['repeats'], 'repeat')}, 95 % intervals over patients,"
        " differences paired."
        f" Unchanged: folds whose best configuration was the variant already. {searched} The p-values are of one"
        " comparison each: of twenty without effect, one lies below 0.05."
    )


def _gain(name: str, gain: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    images = scores["images_of_equal_bags"]
    where = (
        f"scored on {count_of(images, 'image')} of each patient" if name == "equal-bags" else "on all images"
    )
    return (
        f"Gain of the full model over metadata-only, {where}, in balanced accuracy:"
        f" {comparison(gain, 'balanced_accuracy')}"
    )
