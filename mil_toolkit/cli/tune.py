"""Search the hyperparameters of the head over stratified folds, and score the procedure honestly."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mil_toolkit.cli.command import Outcome, add_features, command_parser, run, with_report
from mil_toolkit.config import (
    GROUPS,
    METRIC_NAMES,
    PRESETS,
    PRUNER_NAMES,
    SAMPLER_NAMES,
    THRESHOLD_NAMES,
    TRACKER_NAMES,
    HeadConfig,
    RunConfig,
    StudyConfig,
    option_words,
    parse_settings,
    tunables,
)
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import TABLE, comparison, in_use, number, passed_over, spread, with_interval

if TYPE_CHECKING:
    from mil_toolkit.study.tune import Tuned

QUICK = {"trials": 10, "outer_folds": 0, "members": 1}
FOUNDING = {"objective": "balanced_accuracy"}


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
    add("--trials", type=int, help=f"trials of each search (default: {default.trials})")
    add("--folds", type=int, default=default.folds, help="inner folds; 1: a single 80/20 split")
    add("--repeats", type=int, default=default.repeats, help="repeats of the outer folds, with other splits")
    folds = (
        f"folds that choose nothing; 0: none; groups: each declared group (default: {default.outer_folds})"
    )
    add("--outer-folds", type=_outer_folds, metavar="N|groups", help=folds)
    add("--members", type=int, help=f"seeds averaged in a fitted model (default: {default.members})")
    objective = f"what the search improves (default: {default.objective}; founding: {FOUNDING['objective']})"
    add("--objective", choices=METRIC_NAMES, help=objective)
    add(
        "--threshold",
        choices=THRESHOLD_NAMES,
        default=default.threshold,
        help="share: of positives, the best for balanced accuracy if the probabilities hold (default); balanced:"
        " the best on the validation patients; half: 0.5",
    )
    add("--sensitivity", type=float, metavar="X", help="choose the threshold for this sensitivity instead")
    add(
        "--prevalence",
        type=float,
        metavar="X",
        help="of positives in use, for PPV and NPV (default: the cohort's)",
    )
    add("--epochs", type=int, default=HeadConfig().epochs, help="epochs at most")
    add("--sampler", choices=SAMPLER_NAMES, default=default.sampler, help="how the search proposes")
    add("--pruner", choices=PRUNER_NAMES, default=default.pruner, help="when it gives a trial up")
    add("--preset", choices=PRESETS, default="default", help="founding: the plain head on raw embeddings")
    add("--quick", action="store_true", help=f"a first look: unless told, {' '.join(option_words(QUICK))}")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE[,VALUE...]",
        help="fix a field, or list values",
    )
    add(
        "--canary",
        action="store_true",
        help="first tune 20 small studies on shuffled labels; exit 3 where their AUC is not around 0.5",
    )
    how = RunConfig()
    add(
        "--storage",
        metavar="URL",
        help="postgresql://USER@HOST/DATABASE, for processes on several machines; by default the study folder",
    )
    add("--workers", type=int, default=how.workers, help="processes on this machine, which share its threads")
    add(
        "--timeout",
        type=float,
        metavar="S",
        help="begin no more trials of a search S seconds after its first: it chooses from what it has",
    )
    add("--tracker", choices=TRACKER_NAMES, default=how.tracker, help="where else the metrics go")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    add("--seed", type=int, default=default.seed, help="everything random derives from it")
    return parser


def _outer_folds(text: str) -> int | str:
    try:
        return text if text == GROUPS else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number or {GROUPS}, not {text!r}") from None


def _tune(arguments: argparse.Namespace) -> Outcome:
    config = _config(arguments)
    how = RunConfig(arguments.storage, arguments.workers, arguments.timeout, arguments.tracker)
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.core.devices import pick_device, use_available_cores
    from mil_toolkit.features.cache import open_features
    from mil_toolkit.study.canary import run_canary
    from mil_toolkit.study.tune import check_run, tune

    pick_device(arguments.device)  # before the data are read
    use_available_cores()
    cohort = read_cohort(arguments.cohort, images=False)
    cache = open_features(arguments.features, cohort.name)
    told = cohort, cache, arguments.study, config, arguments.device
    if arguments.canary:
        check_run(arguments.study, arguments.device, how)  # before the canary begins it; `tune` checks alike
    canary = run_canary(*told) if arguments.canary else None
    tuned = tune(*told, how)
    text = f"{summary(tuned, arguments.quick)}\n{_next(tuned)}" + (f"\n{canary}" if canary else "")
    failed = canary is not None and not canary.passed
    data = _data(tuned) | {"canary": asdict(canary) if canary else None}
    outcome = Outcome(text, data, DataError.exit_code if failed else 0)
    return with_report(outcome, arguments.study)


def _config(arguments: argparse.Namespace) -> StudyConfig:
    names = [field.name for field in fields(StudyConfig) if field.name != "settings"]
    told = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.epochs < 1:
        raise UsageError(f"--epochs must be at least 1, not {arguments.epochs}.")
    usual = (FOUNDING if arguments.preset == "founding" else {}) | (QUICK if arguments.quick else {})
    settings = {**PRESETS[arguments.preset], **parse_settings([f"epochs={arguments.epochs}", *arguments.set])}
    return StudyConfig(**(usual | told), settings=settings)


def summary(tuned: "Tuned", quick: bool = False) -> str:
    """The table of scores, and which of them one can believe."""
    scores = tuned.scores
    lines = _table(scores)
    honest = scores["outer"] is not None
    lines += _honest(scores, tuned.study.config.prevalence) if honest else [_no_outer(quick)]
    lines.append(_chosen(tuned))
    lines += _audit(tuned)
    return "\n".join(lines)


def _chosen(tuned: "Tuned") -> str:
    best, objective = tuned.best, tuned.study.config.objective
    line = f"{count_of(tuned.trials, 'trial')}. Chosen: {_settings(best.parameters)}, {count_of(best.epoch, 'epoch')}."
    return line if best.passed_over is None else f"{line}\n{passed_over(best.passed_over, objective)}"


def _next(tuned: "Tuned") -> str:
    return f"Study: {tuned.study.folder}. Next: mil-fit COHORT.toml --study {tuned.study.folder}"


def _table(scores: Mapping[str, Any]) -> list[str]:
    """A row for every kind of score, the rivals below what they rival."""
    rows = {"": list(TABLE), "training": [number(scores["training"][metric]) for metric in TABLE]}
    kinds = {"validation": scores["inner"], "outer": scores["outer"]}
    kinds |= {f"  {name}": rival for name, rival in (scores["rivals"] or {}).items()}
    rows |= {name: [with_interval(kind[each]) for each in TABLE] for name, kind in kinds.items() if kind}
    width = max(map(len, rows))
    return [f"{name:{width}s}" + "".join(f"{cell:>24s}" for cell in cells) for name, cells in rows.items()]


def _no_outer(quick: bool) -> str:
    first_look = " --quick is a first look." if quick else ""
    return (
        "The validation scores are optimistic: they chose the configuration, the epoch and the threshold. Without"
        f" outer folds this study has no honest score.{first_look}"
    )


_WHO_CHOSE = "Validation chose the configuration and is optimistic; outer, like its rivals, chose nothing."


def _honest(scores: Mapping[str, Any], prevalence: float | None) -> list[str]:
    counted = scores["outer"]["balanced_accuracy"]
    told = f"{count_of(counted['patients'], 'patient')}, {count_of(counted['repeats'], 'repeat')}"
    lines = [
        f"{told}, 95 % intervals over patients. {_WHO_CHOSE}",
        in_use(scores["outer"], prevalence),
    ]
    lines += [moved] if (moved := spread(scores)) else []
    gap = scores["optimism"]["balanced_accuracy"]
    lines.append(f"Optimism (validation minus outer balanced accuracy): {with_interval(gap)}.")
    return lines + [_gain(name, gain) for name, gain in scores["gains"].items()]


def _gain(rival: str, gain: Mapping[str, Any]) -> str:
    return f"Gain over {rival} in balanced accuracy: {comparison(gain, 'balanced_accuracy')}"


def _audit(tuned: "Tuned") -> list[str]:
    from mil_toolkit.study.audit import worth_telling

    lines = worth_telling(tuned.findings)
    return (
        [f"Audit ({tuned.study.folder / 'audit.json'}):", *(f"  {line}" for line in lines)] if lines else []
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
        "audit": [asdict(finding) for finding in tuned.findings],
        "seconds_per_trial": tuned.seconds_per_trial,
    }
