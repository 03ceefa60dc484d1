"""mil-ablate: change one part of a study's model at a time, and score it on held-out patients."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import (
    Outcome,
    add_device,
    command_parser,
    run,
    with_report,
)
from mil_toolkit.config.run import RunConfig
from mil_toolkit.core.completion import suggest
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.records import to_json
from mil_toolkit.core.text import count_of, counted
from mil_toolkit.evaluation.records import Comparison
from mil_toolkit.evaluation.words import (
    comparison_words,
    metric_with_direction,
    metric_words,
    p_value,
    with_interval,
)

if TYPE_CHECKING:
    from mil_toolkit.features.cache import FeatureCache
    from mil_toolkit.study.ablation import Ablation
    from mil_toolkit.study.records import AblationScores, VariantFold, VariantScores

_SCORE, _DIFFERENCE, _P, _DISCORDANT = 24, 26, 7, 12  # widths of the columns


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-ablate."""
    return run(_parser(), _ablate, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "mil-ablate",
        "Score variants of a study's model, each with one part changed, on the study's outer folds.",
    )
    add = parser.add_argument
    add("cohort", type=Path, metavar="COHORT.toml", help="the cohort")
    features = add(
        "--features",
        nargs="+",
        metavar="CACHE_FOLDER",
        help="the study's own cache folder, or all of its views, then others to compare with it (another"
        " backbone, a mask); none: metadata only (default: what the study was made with)",
    )
    suggest(features, ("none",), files=True)
    add("--study", type=Path, required=True, metavar="studies/NAME", help="folder of the study")
    add("--retune", type=int, metavar="N", help="give each variant its own search with N trials")
    add(
        "--workers",
        type=int,
        help="outer folds, or with --retune searches, that run at once on this machine, each in a process of"
        " its own; 1: one after the other (default: as many as there are cores and memory for)",
    )
    add_device(parser)
    return parser


def _ablate(arguments: argparse.Namespace) -> Outcome:
    if arguments.retune is not None and arguments.retune < 1:
        raise UsageError(f"--retune must be at least 1, not {arguments.retune}.")
    how = RunConfig(workers=arguments.workers)
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.core.devices import pick_device
    from mil_toolkit.study.ablation import ablate

    pick_device(arguments.device)  # before the data are read
    cohort = read_cohort(arguments.cohort, images=False)
    caches = _caches(arguments, cohort.name)
    ablation = ablate(cohort, caches, arguments.study, arguments.retune, arguments.device, how)
    scores = to_json(ablation.scores)
    assert isinstance(scores, dict)
    return with_report(
        Outcome(_summary(ablation), {"ablation": str(ablation.folder), **scores}), arguments.study
    )


def _caches(arguments: argparse.Namespace, cohort_name: str) -> "Sequence[FeatureCache | None]":
    """Open the folders that --features names, by default the study's own."""
    from mil_toolkit.features.cache import open_features
    from mil_toolkit.study.sources import open_study_features
    from mil_toolkit.training.patients import caches_of

    if arguments.features:
        return [open_features(folder, cohort_name) for folder in arguments.features]
    return caches_of(open_study_features(None, arguments.study, cohort_name)) or [None]


def _summary(ablation: "Ablation") -> str:
    """Return a table of all variants, and notes on it."""
    from mil_toolkit.study.ablation_scores import table_metrics

    scores = ablation.scores
    width, metrics = max(map(len, scores.variants)) + 2, table_metrics(scores)
    lines = [" " * width + _head(metrics)]
    lines += [f"{name:{width}s}{_row(variant, metrics)}" for name, variant in scores.variants.items()]
    lines += [f"{name}: left out because {reason}." for name, reason in scores.left_out.items()]
    lines += _notes(scores)
    lines += [_gain_words(name, gain, scores) for name, gain in scores.gains.items()]
    return "\n".join([*lines, f"{ablation.folder}: scores.json, table.csv, predictions/"])


def _head(metrics: Sequence[str]) -> str:
    others = f"{'minus full':>{_DIFFERENCE}s}{'p':>{_P}s}{'Holm':>{_P}s}"
    cells = [f"{metric_words(metric):>{_SCORE}s}{others}" for metric in metrics]
    return "".join([*cells, f"{'discordant':>{_DISCORDANT}s}", "  unchanged"])


def _row(variant: "VariantScores", metrics: Sequence[str]) -> str:
    difference, cells = variant.difference, []
    for metric in metrics:
        cells.append(f"{with_interval(variant.scores[metric]):>{_SCORE}s}")
        cells.append(_difference(difference, metric, variant.p_adjusted or {}))
    if difference is None:
        return "".join([*cells, " " * _DISCORDANT])
    discordant = "-" if difference.discordant is None else counted(difference.discordant)
    return "".join([*cells, f"{discordant:>{_DISCORDANT}s}", _unchanged(variant.folds)])


def _difference(comparison: Comparison | None, metric: str, adjusted: Mapping[str, float | None]) -> str:
    if comparison is None:
        return " " * (_DIFFERENCE + 2 * _P)
    difference = comparison.differences[metric]
    p_values = f"{p_value(difference.p_value):>{_P}s}{p_value(adjusted.get(metric)):>{_P}s}"
    return f"{with_interval(difference, '+'):>{_DIFFERENCE}s}{p_values}"


def _unchanged(folds: Sequence["VariantFold"]) -> str:
    """Return the number of folds whose best configuration was already the variant."""
    count = sum(fold.unchanged for fold in folds)
    return f"  {count} of {len(folds)} folds" if count else ""


def _notes(scores: "AblationScores") -> Iterator[str]:
    full = scores.variants["full"].scores[scores.primary_metric]
    yield (
        f"{count_of(full.patients, 'patient')}, {count_of(full.repeats, 'repeat')}, 95 % intervals over"
        " patients. Differences are paired. Unchanged: folds whose best configuration was already the"
        " variant."
    )
    if scores.retuned:
        yield f"Each variant had its own search with {count_of(scores.retuned, 'trial')}."
    else:
        yield (
            "All other settings are those that were best for the full model, which favours it; --retune N"
            " avoids this."
        )
    primary = metric_words(scores.primary_metric)
    yield (
        f"The primary metric of the study is {primary}; the others are secondary. p is for a single"
        " comparison; Holm is adjusted for the number of variants: if none has an effect, one lies below 0.05"
        " in at most 5 % of ablations."
    )


def _gain_words(name: str, gain: Comparison, scores: "AblationScores") -> str:
    where = "on all images"
    if name == "equal-bags" and scores.images_of_equal_bags:
        where = f"scored on {count_of(scores.images_of_equal_bags, 'image')} of each patient"
    metric = scores.primary_metric
    return (
        f"Gain of the full model over metadata-only, {where}, in {metric_with_direction(metric)}:"
        f" {comparison_words(gain, metric)}"
    )
