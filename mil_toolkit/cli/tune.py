# Floor 5: mil-tune.
"""Search the hyperparameters of the head over stratified folds, and score the procedure honestly."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mil_toolkit.cli.command import Outcome, add_features, command_parser, run
from mil_toolkit.hparams import (
    METRIC_NAMES,
    PRESETS,
    PRUNER_NAMES,
    SAMPLER_NAMES,
    HeadConfig,
    StudyConfig,
    parse_settings,
    tunables,
)

if TYPE_CHECKING:
    from mil_toolkit.tuning import Tuned

QUICK = {"trials": 10, "outer_folds": 0, "members": 1}
TABLE = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-tune."""
    return run(_parser(), _tune, argv)


def _parser() -> argparse.ArgumentParser:
    default = StudyConfig()
    parser = command_parser("mil-tune", "Search the head's hyperparameters; results go to a study folder.")
    parser.epilog = "--set names: " + "; ".join(
        f"{name} ({about.help})" for name, about in tunables(HeadConfig).items()
    )
    add = parser.add_argument
    add("cohort", type=Path, metavar="COHORT.toml", help="the cohort")
    add_features(parser)
    add("--study", type=Path, required=True, metavar="studies/NAME", help="folder of the study")
    add("--trials", type=int, default=default.trials, help="trials of each search")
    add("--folds", type=int, default=default.folds, help="inner folds; 1: a single 80/20 split")
    add("--repeats", type=int, default=default.repeats, help="repeats of the outer folds, with other splits")
    add("--outer-folds", type=int, default=default.outer_folds, help="folds that choose nothing; 0: none")
    add("--members", type=int, default=default.members, help="seeds averaged in a fitted model")
    add("--objective", choices=METRIC_NAMES, default=default.objective, help="what the search improves")
    add("--epochs", type=int, default=HeadConfig().epochs, help="epochs at most")
    add("--sampler", choices=SAMPLER_NAMES, default=default.sampler, help="how the search proposes")
    add("--pruner", choices=PRUNER_NAMES, default=default.pruner, help="when it gives a trial up")
    add("--preset", choices=PRESETS, default="default", help="founding: the plain head on raw embeddings")
    add("--quick", action="store_true", help="a first look: few trials, no outer folds, one member")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE[,VALUE...]",
        help="fix a field, or list values",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    add("--seed", type=int, default=default.seed, help="everything random derives from it")
    return parser


def _tune(arguments: argparse.Namespace) -> Outcome:
    config = _config(arguments)
    from mil_toolkit.cohort import read_cohort
    from mil_toolkit.devices import use_available_cores
    from mil_toolkit.features import open_features
    from mil_toolkit.tuning import tune

    use_available_cores()
    cohort = read_cohort(arguments.cohort, images=False)
    cache = open_features(arguments.features, cohort.name)
    tuned = tune(cohort, cache, arguments.study, config, arguments.device)
    return Outcome(summary(tuned, arguments.quick), _data(tuned))


def _config(arguments: argparse.Namespace) -> StudyConfig:
    names = ("trials", "folds", "repeats", "outer_folds", "members", "objective", "sampler", "pruner", "seed")
    told = {name: getattr(arguments, name) for name in names} | (QUICK if arguments.quick else {})
    settings = {**PRESETS[arguments.preset], **parse_settings([f"epochs={arguments.epochs}", *arguments.set])}
    return StudyConfig(**told, settings=settings)


def summary(tuned: "Tuned", quick: bool = False) -> str:
    """The table of scores, and which of them one can believe."""
    scores = tuned.scores
    patients = tuned.best.patients
    lines = [f"{'':12s}" + "".join(f"{name:>20s}" for name in TABLE)]
    lines.append(_row("training", scores["training"]))
    lines.append(_row("validation", {name: scores["inner"][name]["value"] for name in TABLE}))
    lines.append(
        f"The validation scores, on {patients} patients, are optimistic: they chose the configuration and epoch."
    )
    if scores["outer"]:
        lines.append(_row("outer", {name: scores["outer"][name]["value"] for name in TABLE}))
        lines.append(_honest(scores))
    else:
        lines.append(
            "No outer folds: this study has no honest score." + (" --quick is a first look." if quick else "")
        )
    lines.append(
        f"{tuned.trials} trials. Best: {_settings(tuned.best.parameters)}, {tuned.best.epoch} epochs."
    )
    lines.append(f"Study: {tuned.study.folder}. Next: mil-fit COHORT.toml --study {tuned.study.folder}")
    return "\n".join(lines)


def _row(name: str, scores: Mapping[str, float]) -> str:
    return f"{name:12s}" + "".join(f"{scores[metric]:20.3f}" for metric in TABLE)


def _honest(scores: Mapping[str, Any]) -> str:
    outer, inner = scores["outer"]["balanced_accuracy"], scores["inner"]["balanced_accuracy"]
    return (
        f"The outer scores, on {outer['patients']} patients and {outer['repeats']} repeat(s), chose nothing."
        f" Optimism of the inner balanced accuracy: {inner['value'] - outer['value']:+.3f}."
    )


def _settings(parameters: Mapping[str, Any]) -> str:
    return " ".join(f"--set {name}={_short(value)}" for name, value in parameters.items()) or "the defaults"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _data(tuned: "Tuned") -> dict[str, Any]:
    return {
        "study": str(tuned.study.folder),
        **tuned.scores,
        "best": dict(tuned.best.parameters),
        "trials": tuned.trials,
        "seconds_per_trial": tuned.seconds_per_trial,
    }
